"""Metadata as cameras, editors and generators leave it, put into small files."""

from __future__ import annotations

import struct
import zlib

from PIL import Image


def exif(**tags: object) -> Image.Exif:
    """EXIF of tags by number: `exif(t010F="Canon")`."""
    found = Image.Exif()
    for name, value in tags.items():
        number = int(name.removeprefix("t"), 16)
        (found.get_ifd(0x8769) if number >= 0x9000 else found)[number] = value
    return found


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with further segments at its start."""
    return data[:2] + b"".join(segments) + data[2:]


def iptc(**sets: bytes) -> bytes:
    """A Photoshop segment with IPTC data sets of record 2: `iptc(d65=b"GIMP")`."""
    iim = b"".join(bytes([0x1C, 2, int(k[1:])]) + struct.pack(">H", len(v)) + v for k, v in sets.items())
    return b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iim)) + iim


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
