"""A picture cut into lossless tiles, so that a crop of it costs a few tiles and not the whole.

For pictures that were never JPEG: a PNG or lossless WebP of 1024 x 1024 takes 40 ms to decode, four tiles take 1.6 ms.

    bytes 0-7    "imgtiles"
    bytes 8-19   width, height, side of a tile: three little-endian 32-bit numbers, pixels
    then         the end of each tile, row by row, counted from the end of this table: 64-bit numbers
    then         the tiles, lossless WebP, RGB; those at the right and lower edges are smaller
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles.decoding import MAX_PIXELS, refusing

MAGIC = b"imgtiles"
SIDE = 128
"""Pixels: a training crop of 96 then meets four tiles at most."""
_HEAD = struct.Struct("<8sIII")


def cut(pixels: NDArray[np.uint8], side: int = SIDE) -> bytes:
    """The tiles of a picture, (height, width, 3) uint8."""
    height, width = pixels.shape[:2]
    made = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            out = io.BytesIO()
            # Method 0 makes files 5 % larger than the default, in a fifth of the time.
            tile = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
            tile.save(out, "WEBP", lossless=True, quality=0, method=0)
            made.append(out.getvalue())
    ends = np.cumsum([len(tile) for tile in made], dtype="<u8")
    return b"".join([_HEAD.pack(MAGIC, width, height, side), ends.tobytes(), *made])


def crop(data: bytes, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of the picture.

    Raises `BadImage`: `too-small` where the crop leaves it, `corrupt` or `truncated` where the bytes are no tiles.
    """
    if len(data) < _HEAD.size or data[:8] != MAGIC:
        raise BadImage("corrupt", "no picture in tiles")
    _, wide, high, side = _HEAD.unpack_from(data)
    if not wide or not high or not side or wide * high > MAX_PIXELS:
        raise BadImage("corrupt", f"tiles of {wide} x {high} pixels")
    if min(left, top) < 0 or width < 1 or height < 1 or left + width > wide or top + height > high:
        raise BadImage("too-small", f"the crop {width} x {height} at {left}, {top} leaves the image of {wide} x {high}")
    across, down = -(-wide // side), -(-high // side)
    start = _HEAD.size + 8 * across * down
    if len(data) < start:
        raise BadImage("truncated", "the table of tiles is cut")
    ends = np.frombuffer(data, "<u8", across * down, _HEAD.size)
    out = np.empty((height, width, 3), np.uint8)
    for row in range(top // side, (top + height - 1) // side + 1):
        for column in range(left // side, (left + width - 1) // side + 1):
            number = row * across + column
            begin, end = int(ends[number - 1]) if number else 0, int(ends[number])
            x, y = column * side, row * side
            tile = _tile(data[start + begin : start + end], min(side, wide - x), min(side, high - y))
            x0, x1 = max(left, x), min(left + width, x + side)
            y0, y1 = max(top, y), min(top + height, y + side)
            out[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
    return out


def _tile(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    with refusing():
        image = Image.open(io.BytesIO(data), formats=["WEBP"])
        if image.size != (width, height):
            raise BadImage("corrupt", f"a tile of {image.width} x {image.height} pixels, not {width} x {height}")
        return np.asarray(image.convert("RGB"))
