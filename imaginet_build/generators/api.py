"""What paid image services share: a strict look at what they delivered, and their words without keys."""

from __future__ import annotations

import base64
import binascii
import re

from imaginet_build import images
from imaginet_build.errors import BadImage
from imaginet_build.records import Refusal

_KEYLIKE = re.compile(r"(?:\bsk-|\bAIza|\bBearer\s+)[^\s'\",}]+", re.IGNORECASE)
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")


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
