"""What paid image services share: pacing by their rate limits, an early stop, and a strict look at what they delivered."""

from __future__ import annotations

import asyncio
import base64
import binascii
import email.utils
import math
import re
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from imaginet_build import images
from imaginet_build.errors import BadImage
from imaginet_build.records import Refusal

T = TypeVar("T")
_KEYLIKE = re.compile(r"(?:\bsk-|\bBearer\s+)[^\s'\",}]+", re.IGNORECASE)
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


class Pace:
    """How many requests may be under way at once, and when the next may start. One per event loop.

    A rate limit halves the number (`slow`); as many answers in a row as are allowed at once raise it by one (`well`), up to
    `most`. `halt` ends every wait: what has been sent is still answered, nothing more is sent.
    """

    def __init__(self, most: int, limit: int | None = None) -> None:
        self.most = most
        self.limit = min(limit or most, most)
        self.reason: str | None = None
        self._running = self._well = 0
        self._until = 0.0
        self._free = asyncio.Condition()
        self._halted = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Waits for a place and for the end of a pause; gives False when all is halted and nothing may be sent."""
        async with self._free:
            await self._free.wait_for(lambda: self._running < self.limit or self.reason is not None)
            self._running += 1
        try:
            while self.reason is None and (left := self._until - time.monotonic()) > 0:
                await self.rest(left)
            yield self.reason is None
        finally:
            async with self._free:
                self._running -= 1
                self._free.notify_all()

    async def rest(self, seconds: float) -> None:
        """Waits so many seconds, or until all is halted."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), seconds)

    def slow(self, seconds: float) -> None:
        """A rate limit was met: nobody sends for so many seconds, and half as many at once afterwards."""
        self.limit, self._well = max(1, self.limit // 2), 0
        self._until = max(self._until, time.monotonic() + seconds)

    def well(self) -> None:
        """A request was answered."""
        self._well += 1
        if self._well >= self.limit:
            self.limit, self._well = min(self.most, self.limit + 1), 0

    async def halt(self, reason: str) -> None:
        """Send nothing more; the first reason stays."""
        self.reason = self.reason or reason
        self._halted.set()
        async with self._free:
            self._free.notify_all()


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait (RFC 9110, 10.2.3: seconds or a date; `retry-after-ms` too), or None."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) / unit
            return max(0.0, seconds) if math.isfinite(seconds) else None
    with suppress(KeyError, ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


def scrub(text: str, *secrets: str) -> str:
    """What a server said, for a message: no secret, nothing that looks like a key, one line, at most 200 characters."""
    for secret in filter(None, secrets):
        # A long key is known by its beginning too: a quotation may have been cut within it.
        text = re.sub(re.escape(secret[:8]) + r"[^\s'\",}<]*", "***", text) if len(secret) > 12 else text.replace(secret, "***")
    return " ".join(_KEYLIKE.sub("***", text).split())[:200]


def image_of(text: object, width: int, height: int) -> bytes | Refusal:
    """The bytes of a base64 answer, if they are a whole image of the ordered size in pixels; else why not.

    Vendors' clients check nothing of this: truncated base64, HTML and an empty string arrive as if all were well.
    """
    if not isinstance(text, str):
        return Refusal("no-data", "the answer holds no base64 image")
    try:
        data = base64.b64decode(_DATA_URL.sub("", text, count=1) if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        return Refusal("bad-base64", str(error))
    try:
        size = images.decode(data).size
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    if size != (width, height):
        return Refusal("wrong-size", f"{width} x {height} ordered, {size[0]} x {size[1]} delivered")
    return data
