"""How fast a paid service is asked: as many requests at once as it bears, pauses when it asks for them, and an early stop."""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_PAUSE = 366 * 86400.0
"""Seconds; a longer pause is no rate limit but a slip of the server, and kept in a ledger it would end all buying for good."""


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
            return sane(seconds)
    with suppress(KeyError, ValueError, OverflowError):
        return sane(email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


def sane(seconds: float) -> float | None:
    """A pause that a server may mean; None for no number, and for more than a year."""
    return max(0.0, seconds) if math.isfinite(seconds) and seconds <= LONGEST_PAUSE else None
