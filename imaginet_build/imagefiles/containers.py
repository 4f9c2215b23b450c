"""What PNG, WebP, GIF, BMP and TIFF files say of themselves before a pixel is decoded, and whether their own checksums hold.

W3C PNG (third edition), RFC 9649 (WebP). GIF, BMP and TIFF carry no checksum: only what their decoder notices is refused.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from imaginet_build.errors import BadImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are read; everything else is `unknown-format`."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = {b"XML:com.adobe.xmp": "xmp", b"Raw profile type xmp": "xmp", b"Raw profile type exif": "exif"}
_PNG_TEXT |= {b"Raw profile type APP1": "exif", b"Raw profile type iptc": "iptc", b"Raw profile type 8bim": "iptc"}
_PNG_CHUNKS = {b"eXIf": "exif", b"iCCP": "icc", b"caBX": "c2pa"}
_WEBP_CHUNKS = {b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "icc", b"C2PA": "c2pa"}
_TIFF_TAGS = {34665: "exif", 700: "xmp", 34675: "icc", 33723: "iptc", 34377: "iptc", 270: "text", 305: "text", 315: "text"}
# A lossy WebP is arithmetic-coded: a kilobyte of zeros in it means 8,192 certain bits, which no picture under 16,384 pixels a
# side yields, so such a run is a hole left by a failed download or disk.
_HOLE = bytes(1024)


def sniff(data: bytes) -> str:
    """The codec by the first bytes: jpeg, png, webp, gif, bmp or tiff.

    Raises `BadImage`: `empty`, `not-an-image` for text and zeros, or `unknown-format`.
    """
    if not data:
        raise BadImage("empty", "the file has no bytes")
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == _PNG:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return "gif"
    if data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return "tiff"
    if data[:2] == b"BM" and len(data) > 14 and data[6:10] == b"\0\0\0\0":
        return "bmp"
    head = data[:512]
    if not head.strip(b"\0"):
        raise BadImage("not-an-image", "the file begins with zeros")
    # Bytes 7-13 and 27 are what `file` counts as text too: bell to carriage return, and escape.
    if all(b >= 0x20 or 7 <= b <= 13 or b == 27 for b in head) and _decodes(head):
        raise BadImage("not-an-image", f"this is text: {head[:40].decode('utf-8', 'replace')!r}")
    raise BadImage("unknown-format", f"the first bytes are {head[:8].hex()}; JPEG, PNG, WebP, GIF, BMP and TIFF are read")


def _decodes(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == 512
    return True


def check(data: bytes, codec: str) -> set[str]:
    """Walk the chunks of a PNG or WebP file, verify what can be, and return the metadata containers they hold.

    Raises `BadImage`: `truncated`, `corrupt` (a PNG checksum, a hole in a WebP) or `animated`. Other codecs: an empty set.
    """
    if codec == "png":
        return _check_png(data)
    if codec == "webp":
        return _check_webp(data)
    return set()


def _check_png(data: bytes) -> set[str]:
    found: set[str] = set()
    view = memoryview(data)
    at = 8
    # Pillow verifies no checksum of pixel chunks, and stops reading at the last row: the walk is what notices damage.
    while True:
        if at + 12 > len(data):
            raise BadImage("truncated", "the PNG ends before its IEND chunk")
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise BadImage("truncated", "the PNG ends inside a chunk")
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != crc:
            raise BadImage("corrupt", f"the checksum of a PNG chunk is wrong at byte {at}")
        if kind == b"acTL" and length >= 4 and struct.unpack_from(">I", data, at + 8)[0] > 1:
            raise BadImage("animated", "an animated PNG")
        if kind in _PNG_CHUNKS:
            found.add(_PNG_CHUNKS[kind])
        elif kind in {b"tEXt", b"zTXt", b"iTXt"}:
            found.add(_PNG_TEXT.get(data[at + 8 : at + 8 + min(length, 80)].split(b"\0")[0], "text"))
        if kind == b"IEND":
            return found
        at += 12 + length


def _check_webp(data: bytes) -> set[str]:
    found: set[str] = set()
    (size,) = struct.unpack_from("<I", data, 4) if len(data) >= 12 else (0,)
    end = 8 + size
    if end > len(data) or size < 12:
        raise BadImage("truncated", "the WebP is shorter than it states")
    at = 12
    while at + 8 <= end:
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        if at + 8 + length > end:
            raise BadImage("truncated", "the WebP ends inside a chunk")
        if kind == b"ANIM":
            raise BadImage("animated", "an animated WebP")
        if kind in _WEBP_CHUNKS:
            found.add(_WEBP_CHUNKS[kind])
        if kind == b"VP8 " and data.find(_HOLE, at + 8, at + 8 + length) >= 0:
            raise BadImage("corrupt", "a run of zeros inside the WebP's compressed data")
        at += 8 + length + (length & 1)
    return found


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP. Raises `BadImage` where there is none."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise BadImage("truncated", "the WebP ends inside its header")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        packed = int.from_bytes(body[1:5], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise BadImage("corrupt", "the WebP holds no image")


def metadata(image: Image.Image, codec: str) -> set[str]:
    """The metadata containers that Pillow found in an opened GIF or TIFF."""
    found: set[str] = set()
    if codec == "gif":
        found |= {"comment"} if image.info.get("comment") else set()
        found |= {"xmp"} if image.info.get("xmp") else set()
        found |= {"icc"} if image.info.get("icc_profile") else set()
    elif codec == "tiff":
        tags = getattr(image, "tag_v2", {})
        found |= {name for tag, name in _TIFF_TAGS.items() if tag in tags}
    return found
