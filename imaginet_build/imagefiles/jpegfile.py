"""What a JPEG file says of itself before a pixel is decoded: size, quantization tables, sampling, metadata containers.

ITU-T T.81 (JPEG), the IJG quality scale (libjpeg's `jpeg_set_quality`), Exif 2.32, XMP part 3, ICC.1 annex B, C2PA (in APP11).
"""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaginet_build.errors import BadImage

# T.81 tables K.1 and K.2 in natural (row-major) order; libjpeg scales these two by its quality setting.
_LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99" + " 99" * 32
_SAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1", (4, 2): "4:1:0"}
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_CONTAINERS = (
    (0xE1, b"Exif\0\0", "exif"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", "xmp"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "xmp"),
    (0xE2, b"ICC_PROFILE\0", "icc"),
    (0xEB, b"JP", "c2pa"),
    (0xED, b"Photoshop 3.0\0", "iptc"),
)
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})

_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_ZEROS = bytes(1024)

MAX_SCANS = 500
"""A progressive file of more scans than this is an attack on the decoder's time: real encoders write about ten."""


@dataclass(frozen=True, slots=True)
class Header:
    """A JPEG's own words. `width`, `height`: pixels as stored, before EXIF orientation. `tables`: 64 quantization steps, in
    natural order, for each table in use, luma first. `subsampling`: as in `records.Facts`, also 4:1:0, and `other` where the
    factors have no common name. `metadata`: containers present, sorted. `exif`, `xmp` and `icc`: their payloads. `hole`:
    whether the compressed data contains zeros that no encoder wrote.
    """

    width: int
    height: int
    components: int
    subsampling: str
    progressive: bool
    tables: tuple[tuple[int, ...], ...]
    metadata: tuple[str, ...]
    exif: bytes
    xmp: bytes
    icc: bytes
    hole: bool

    @property
    def quality(self) -> int | None:
        """The IJG quality (1-100) whose tables lie nearest in mean absolute difference; None without tables."""
        return _quality(self.tables[:2]) if self.tables else None

    @property
    def qtables(self) -> str:
        """A 16-digit digest of the quantization tables: equal tables, equal digest."""
        return _digest(self.tables)


def _zigzag() -> tuple[int, ...]:
    """Natural position of each of the 64 entries of a DQT segment (T.81 figure A.6)."""
    order = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
    return tuple(order)


_ZIGZAG = _zigzag()


@functools.lru_cache(maxsize=1)
def _scale() -> NDArray[np.int64]:
    """The IJG tables, luma and chroma, of every quality: (100, 2, 64) int64."""
    base = np.array([[int(n) for n in text.split()] for text in (_LUMA, _CHROMA)], dtype=np.int64)
    quality = np.arange(1, 101, dtype=np.int64)
    factor = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled: NDArray[np.int64] = np.clip((base[None] * factor[:, None, None] + 50) // 100, 1, 255)
    return scaled


@functools.lru_cache(maxsize=4096)
def _quality(tables: tuple[tuple[int, ...], ...]) -> int:
    given = np.array(tables, dtype=np.int64)
    distance = np.abs(_scale()[:, : len(tables)] - given[None]).sum(axis=(1, 2))
    # The highest of equally near qualities: below 5 and at 100 several settings clip to the same tables.
    return 100 - int(distance[::-1].argmin())


@functools.lru_cache(maxsize=4096)
def _digest(tables: tuple[tuple[int, ...], ...]) -> str:
    return hashlib.sha256(repr(tables).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=4096)
def _tables(segment: bytes) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The (slot, table in natural order) pairs of one DQT segment."""
    out = []
    at = 0
    while at < len(segment):
        wide, slot = segment[at] >> 4, segment[at] & 15
        size = 128 if wide else 64
        raw = segment[at + 1 : at + 1 + size]
        if wide > 1 or slot > 3 or len(raw) != size:
            raise BadImage("corrupt", "a quantization table is damaged")
        steps = struct.unpack(">64H" if wide else "64B", raw)
        natural = [0] * 64
        for position, step in zip(_ZIGZAG, steps, strict=True):
            natural[position] = step
        out.append((slot, tuple(natural)))
        at += 1 + size
    return tuple(out)


def parse(data: bytes) -> Header:
    """The header of a JPEG file, read up to its first scan.

    Raises `BadImage`: `corrupt` where the segments do not follow T.81, `truncated` where the file ends before its first scan,
    `unsupported` for other than 8 bits a sample.
    """
    slots: dict[int, tuple[int, ...]] = {}
    found: dict[str, bytes] = {}
    icc: list[bytes] = []
    frame: tuple[int, bytes] | None = None
    for marker, body, _ in segments(data):
        if marker == 0xDB:
            slots.update(_tables(body))
        elif marker in _FRAMES:
            if frame is not None:
                raise BadImage("corrupt", "more than one frame header")
            frame = (marker, body)
        elif name := _container(marker, body):
            found.setdefault(name, body)
            if name == "icc":
                icc.append(body[12:])
    if frame is None:
        raise BadImage("corrupt", "a scan without a frame header")
    width, height, sampling, chosen = _frame(frame[1])
    return Header(
        width=width,
        height=height,
        components=len(chosen),
        subsampling=sampling,
        progressive=frame[0] in _PROGRESSIVE,
        tables=tuple(slots[s] for s in dict.fromkeys(chosen) if s in slots),
        metadata=tuple(sorted(found)),
        exif=found.get("exif", b""),
        xmp=found.get("xmp", b""),
        # A long profile comes in numbered pieces: number, how many, bytes.
        icc=b"".join(piece[2:] for piece in sorted(icc, key=lambda piece: piece[:1])),
        hole=frame[0] in _HUFFMAN and _hole(data, frame[0] in _PROGRESSIVE),
    )


def quality(data: bytes) -> int | None:
    """`parse(data).quality` of a file that can be decoded, in a tenth of the time: of the many from one encoder once."""
    tables, frames = [], []
    for marker, body, _ in segments(data):
        if marker == 0xDB:
            tables.append(body)
        elif marker in _FRAMES:
            frames.append(body)
    # Without the frame's height and width, which tell files apart that are otherwise alike.
    return _stated(tuple(tables), frames[0][:1] + frames[0][5:]) if len(frames) == 1 else parse(data).quality


@functools.lru_cache(maxsize=4096)
def _stated(tables: tuple[bytes, ...], frame: bytes) -> int | None:
    slots = {slot: table for segment in tables for slot, table in _tables(segment)}
    chosen = _frame(frame[:1] + b"\x00\x01\x00\x01" + frame[1:])[3]
    used = tuple(slots[slot] for slot in dict.fromkeys(chosen) if slot in slots)
    return _quality(used[:2]) if used else None


def segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body and the body's place of every segment, up to the first scan's header.

    Raises `BadImage`, `corrupt` or `truncated`, where the bytes are no such segments.
    """
    if data[:2] != b"\xff\xd8":
        raise BadImage("corrupt", "no JPEG start marker")
    at, end = 2, len(data)
    while True:
        if at + 4 > end:
            raise BadImage("truncated", "the file ends before its first scan")
        if data[at] != 0xFF:
            raise BadImage("corrupt", f"no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        if length < 2:
            raise BadImage("corrupt", f"an impossible segment length at byte {at}")
        if at + 2 + length > end:
            raise BadImage("truncated", "the file ends inside its header")
        yield marker, data[at + 4 : at + 2 + length], at + 4
        if marker == 0xDA:
            return
        at += 2 + length


def _hole(data: bytes, progressive: bool) -> bool:
    """Whether a scan of the first image holds a kilobyte of zeros that no encoder writes: a failed download, a bad sector.

    The decoder notices most such holes, but in one file of a hundred just as many blocks come out as went in. Zeros are honest
    only where they stand for empty blocks: the code of zeros alone belongs to the first symbol of a Huffman table, and that
    symbol must be "no change" (DC) or "end of block" (AC). In the usual luma table (T.81 table K.5) it is another.
    """
    zeros = data.find(_ZEROS)
    if zeros < 0:
        return False
    empty: dict[tuple[int, int], bool] = {}
    at = 2
    while match := _MARKER.search(data, at):
        at = match.start()
        marker, body = data[at + 1], data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        at += 4 + len(body)
        if marker == 0xD9:
            return False
        if marker == 0xC4:
            empty |= _empty_codes(body)
        if marker == 0xDA and body and not all(_honest(body, empty, progressive)):
            following = _MARKER.search(data, at)
            if data.find(_ZEROS, at, following.start() if following else len(data)) >= 0:
                return True
    return False


def _empty_codes(body: bytes) -> dict[tuple[int, int], bool]:
    """For each (class, slot) of a DHT segment: whether zero bits stand for nothing but empty blocks."""
    out = {}
    at = 0
    while at + 18 <= len(body):
        first = body[at + 17]
        # A progressive scan's 0x10, 0x20, … end more than one block at once.
        out[body[at] >> 4, body[at] & 15] = first == 0 or (body[at] >> 4 == 1 and first & 15 == 0 and first < 0xF0)
        at += 17 + sum(body[at + 1 : at + 17])
    return out


def _honest(scan: bytes, empty: dict[tuple[int, int], bool], progressive: bool) -> Iterator[bool]:
    """For each table a scan reads with: whether zeros may be honest there."""
    count = scan[0]
    spectral = scan[1 + 2 * count : 4 + 2 * count]
    first, refining = (spectral[0], spectral[2] >> 4) if len(spectral) == 3 else (0, 0)
    for tables in scan[2 : 1 + 2 * count : 2]:
        if not progressive or first == 0:
            # Refinement of DC is bare bits, without a table.
            yield (progressive and refining > 0) or empty.get((0, tables >> 4), True)
        if not progressive or first > 0:
            yield empty.get((1, tables & 15), True)


def _container(marker: int, body: bytes) -> str | None:
    """The metadata container a segment belongs to, as `records.Facts` names them."""
    if marker == 0xFE:
        return "comment"
    for app, start, name in _CONTAINERS:
        if marker == app and body.startswith(start):
            # JUMBF boxes carry more than C2PA; its manifests say so in their first superbox.
            return None if name == "c2pa" and b"c2pa" not in body[:128] else name
    return None


def _frame(body: bytes) -> tuple[int, int, str, list[int]]:
    """Width, height, subsampling and each component's table slot, of a frame header."""
    if len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
        raise BadImage("corrupt", "the frame header is damaged")
    precision, height, width, count = struct.unpack(">BHHB", body[:6])
    if precision != 8:
        raise BadImage("unsupported", f"a JPEG of {precision} bits a sample")
    if not width or not height:
        raise BadImage("corrupt", "the frame header states no size")
    factors = [(body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15) for i in range(count)]
    slots = [body[8 + 3 * i] for i in range(count)]
    if any(not 1 <= f <= 4 for pair in factors for f in pair):
        raise BadImage("corrupt", "impossible sampling factors")
    if count == 1:
        return width, height, "grey", slots
    (h, v), (ch, cv) = factors[0], factors[1]
    whole = h % ch == 0 and v % cv == 0 and (count < 3 or factors[1] == factors[2])
    return width, height, _SAMPLINGS.get((h // ch, v // cv), "other") if whole else "other", slots
