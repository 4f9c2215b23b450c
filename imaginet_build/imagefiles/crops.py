"""A crop of an image at its native resolution: the pixels of a full decode, without decoding more than it must.

A JPEG with restart markers after whole rows of MCUs, as `images.encode` writes them, is decoded around the crop alone; whatever
else is decoded in full. No decoder's short cut is taken: fast transforms and merged up-sampling change pixels.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import jpegrows, tiles
from imaginet_build.imagefiles.containers import sniff
from imaginet_build.imagefiles.decoding import MAX_PIXELS, decode, refusing

_MEANING = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0")
"""Payloads that may turn the picture or move its colours: `decode` knows what to do with them."""


def crop(data: bytes, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: `np.asarray(images.decode(data))[top : top + height, left : left + width]`.

    `data` may be `tiles` too. Raises `BadImage` as `images.decode` does, but for damage outside the rows that were read;
    `too-small` where the crop leaves the image.
    """
    if data.startswith(tiles.MAGIC):
        return tiles.crop(data, left, top, width, height)
    pixels, begin = _rows(data, top, top + height)
    cut = pixels[top - begin : top - begin + height, left : left + width]
    if min(left, top) < 0 or cut.shape[:2] != (height, width):
        raise BadImage("too-small", f"the crop {width} x {height} at {left}, {top} leaves the image")
    return cut


def quick(data: bytes) -> bool:
    """Whether a crop of this file takes less than decoding all of it. Raises `BadImage` for a JPEG that ends in its header."""
    return data.startswith(tiles.MAGIC) or _layout(data) is not None


def _layout(data: bytes) -> jpegrows.Layout | None:
    found = jpegrows.layout(data) if sniff(data) == "jpeg" else None
    if (
        found is None
        or found.width * found.height > MAX_PIXELS
        or any(data.find(name, 0, found.scan) >= 0 for name in _MEANING)
    ):
        return None
    return found


def _rows(data: bytes, top: int, bottom: int) -> tuple[NDArray[np.uint8], int]:
    """Pixels of at least these rows, and the row at which they begin."""
    found = _layout(data)
    if found is None or bottom > found.height or top < 0:
        return np.asarray(decode(data)), 0
    part, begin = jpegrows.strip(data, found, top, bottom)
    with refusing():
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(part, "RGB")
    return pixels, begin
