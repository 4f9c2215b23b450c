"""The rows of a JPEG that a crop needs, without decoding the others: for files with a restart marker after each row of MCUs.

ITU-T T.81: a restart marker (RST0 to RST7, in turn) begins an interval that depends on nothing before it. The intervals around
the rows that are wanted make a JPEG of their own once the height in the frame header is that of these rows and the markers are
numbered from 0 again. Its pixels are those of the whole file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles.jpegfile import segments

_EOI = b"\xff\xd9"
_END = re.compile(rb"\xff[\xd0-\xd7\xd9]")
"""What ends an interval: a restart marker, or that of the end of the image."""

_SEQUENTIAL = frozenset({0xC0, 0xC1})
_OTHER_FRAMES = frozenset({0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a JPEG with intervals of whole rows says what. `height`, `width`: pixels; `step`: pixel rows of one interval;
    `height_at`: the byte where the height stands; `scan`: the byte where the compressed data begins."""

    height: int
    width: int
    step: int
    height_at: int
    scan: int


def layout(data: bytes) -> Layout | None:
    """How the file is cut into intervals; None where a part of it cannot be decoded alone.

    That takes one sequential Huffman scan of all components (T.81 SOF0, SOF1) and a restart interval of whole rows of MCUs.
    Raises `BadImage` as `jpegfile.segments` does.
    """
    frame = scan = b""
    height_at = begin = interval = 0
    for marker, body, at in segments(data):
        if marker in _OTHER_FRAMES or (marker in _SEQUENTIAL and frame):
            return None
        if marker in _SEQUENTIAL:
            frame, height_at = body, at + 1
        elif marker == 0xDD and len(body) == 2:
            interval = int.from_bytes(body, "big")
        elif marker == 0xDA:
            scan, begin = body, at + len(body)
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5] or not interval or not scan:
        return None
    height, width, count = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), frame[5]
    # A scan of one component has no MCUs of several blocks (T.81 A.2.2), whatever its sampling factors say.
    across = 8 * (max(f >> 4 for f in frame[7 : 6 + 3 * count : 3]) if count > 1 else 1)
    down = 8 * (max(f & 15 for f in frame[7 : 6 + 3 * count : 3]) if count > 1 else 1)
    if not height or not across or not down or count not in (1, 3) or scan[0] != count:
        return None
    units = -(-width // across)
    if interval % units:
        return None
    return Layout(height, width, interval // units * down, height_at, begin)


def strip(data: bytes, found: Layout, top: int, bottom: int) -> tuple[bytes, int]:
    """A JPEG of the intervals that pixel rows `top` to `bottom` (exclusive) need, and the row at which it begins.

    One interval more on each side: where chroma is halved, a row's colour is mixed from its neighbours'. Raises
    `BadImage("truncated")` where the file ends before them.
    """
    first, last = max(top // found.step - 1, 0), min(-(-bottom // found.step) + 1, -(-found.height // found.step))
    # Within compressed data 0xFF is followed by zero, so that each match is a marker.
    ends: list[int] = []
    for match in _END.finditer(data, found.scan):
        ends.append(match.start())
        if len(ends) == last or match[0] == _EOI:
            break
    if len(ends) < last:
        raise BadImage("truncated", f"the JPEG ends before row {min(bottom, found.height)} of {found.height}")
    rows = min(last * found.step, found.height) - first * found.step
    head = data[: found.height_at] + rows.to_bytes(2, "big") + data[found.height_at + 2 : found.scan]
    starts = [found.scan, *(end + 2 for end in ends)]
    parts = (data[starts[i] : ends[i]] + bytes([0xFF, 0xD0 + (i - first) % 8]) for i in range(first, last))
    return head + b"".join(parts)[:-2] + _EOI, first * found.step
