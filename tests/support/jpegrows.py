"""A few rows of a JPEG with restart markers, read without decoding the rest: what a training loader does with our files.

ITU-T T.81: a restart marker (RST0 to RST7, in turn) begins an interval that depends on nothing before it. The intervals around
the rows that are wanted make a JPEG of their own once the height in the frame header is that of these rows and the markers are
numbered from 0 again.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


def interval_rows(data: bytes) -> int:
    """Pixel rows of one restart interval; 0 where the file has none, or its intervals are not whole rows of blocks."""
    frame, _ = _frame(data)
    at = data.find(b"\xff\xdd\x00\x04", 0, data.index(b"\xff\xda"))
    blocks = int.from_bytes(data[at + 4 : at + 6], "big") if at >= 0 else 0
    across = -(-frame[1] // frame[2])
    return blocks // across * frame[3] if blocks and blocks % across == 0 else 0


def strip(data: bytes, top: int, bottom: int) -> tuple[bytes, int]:
    """A JPEG of the intervals that rows `top` to `bottom` need, and the row at which it begins.

    One interval more on each side: where chroma is halved, a row's colour is mixed from its neighbours'.
    """
    (height, _, _, _), place = _frame(data)
    step = interval_rows(data)
    first, last = max(top // step - 1, 0), min(-(-bottom // step) + 1, -(-height // step))
    scan = data.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    cuts = [start, *(match.end() for match in _RESTART.finditer(data, start)), data.rindex(b"\xff\xd9") + 2]
    rows = min(last * step, height) - first * step
    head = data[:place] + rows.to_bytes(2, "big") + data[place + 2 : start]
    intervals = [data[cuts[i] : cuts[i + 1] - 2] for i in range(first, last)]
    marked = (part + bytes([0xFF, 0xD0 + i % 8]) for i, part in enumerate(intervals[:-1]))
    return head + b"".join(marked) + intervals[-1] + b"\xff\xd9", first * step


def crop(data: bytes, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) pixels of a crop, from the intervals it lies in alone."""
    part, begin = strip(data, top, top + height)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(part)
    return pixels[top - begin : top - begin + height, left : left + width]


def _frame(data: bytes) -> tuple[tuple[int, int, int, int], int]:
    """Height, width, and the size of a block of all colours, width and height; and where the height stands."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC1):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    size = (int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big"))
    factors = data[at + 11]
    return (*size, 8 * (factors >> 4), 8 * (factors & 15)), at + 5
