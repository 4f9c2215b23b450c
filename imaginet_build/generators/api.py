"""What paid image services share: a strict look at what they delivered, and their words without keys."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from imaginet_build import images
from imaginet_build.errors import BadImage
from imaginet_build.records import Refusal

_KEYLIKE = re.compile(r"(?:\bsk-|\bAIza|\bBearer\s+)[^\s'\",}]+", re.IGNORECASE)
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
MOST_TOKENS = 10**9

LONGEST_BODY = 128 << 20
"""Bytes of any answer but a batch's file. A client reads an error's body whole, however long it is."""


class TooLarge(Exception):
    """A body is longer than `LONGEST_BODY`: a name that `outcomes.silence` knows."""


def scrub(text: str, *secrets: str) -> str:
    """What a server said, for a message: no secret, nothing that looks like a key, one line, at most 200 characters."""
    for secret in filter(None, secrets):
        # A long key is known by its beginning too: a quotation may have been cut within it.
        text = re.sub(re.escape(secret[:8]) + r"[^\s'\",}<]*", "***", text) if len(secret) > 12 else text.replace(secret, "***")
    return " ".join(_KEYLIKE.sub("***", text).split())[:200]


def tokens(count: object) -> int | None:
    """A number of tokens that an answer may have been billed by; None for anything else."""
    return count if isinstance(count, int) and 0 <= count <= MOST_TOKENS else None


def capped(unless: str) -> Callable[[Any], Awaitable[None]]:
    """A response hook for clients of httpx and httpx2: no body is read beyond `LONGEST_BODY`, unless its path ends so."""

    async def hook(response: Any) -> None:
        if response.url.path.endswith(unless):
            return
        inner = response.stream
        base: Any = next(kind for kind in type(inner).__mro__ if kind.__name__ == "AsyncByteStream")

        class Capped(base):  # type: ignore[misc]
            async def __aiter__(self) -> AsyncIterator[bytes]:
                size = 0
                async for chunk in inner:
                    size += len(chunk)
                    if size > LONGEST_BODY:
                        raise TooLarge
                    yield chunk

            async def aclose(self) -> None:
                await inner.aclose()

        response.stream = Capped()

    return hook


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
    return whole(data, width, height)


def whole(data: bytes, width: int, height: int) -> bytes | Refusal:
    """The bytes, if they are a whole image of the ordered size in pixels; else why not."""
    try:
        size = images.decode(data).size
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    if size != (width, height):
        return Refusal("wrong-size", f"{width} x {height} ordered, {size[0]} x {size[1]} delivered")
    return data
