"""What a file says of where it comes from: camera, date, program, AI marks, C2PA claims. Read from the bytes, taken as claims.

Exif 3.0, XMP (ISO 16684-1), IPTC Photo Metadata 2025.1 and IIM 4.2, PNG text chunks, C2PA. No pixel is decoded. Metadata of
wild files raises anything in any library: what cannot be read is a word in `odd`, and everything read is bounded.
"""

from __future__ import annotations

import datetime
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from imaginet_build.imagefiles import c2pa

MAX_BLOCK = 4 * 2**20
"""A metadata block is read up to this size."""
MAX_TEXT = 2**20
_MAX_ALL = 32 * 2**20
_MAX_BLOCKS = 1000

_FIELDS = {0x010F: "make", 0x0110: "model", 0x0131: "software", 0x013B: "artist", 0x010E: "description", 0x8298: "copyright"}
_PHOTO_FIELDS = {0x9286: "comment", 0x9003: "taken", 0x9004: "digitized"}
_XMP = {
    "CreatorTool": "software", "AISystemUsed": "ai-system", "AIPromptInformation": "ai-prompt", "Credit": "credit",
    "DigitalSourceType": "source-type", "digitalsourcetype": "source-type", "DateTimeOriginal": "taken", "DateCreated": "taken",
    "UserComment": "comment",
}  # fmt: skip
_XMP_VALUE = re.compile(
    rb":("
    + "|".join(_XMP).encode()
    + rb")(?:\s*=\s*[\"']([^\"'<]{0,4000})|[^>]{0,200}>(?:\s*<rdf:\w+[^>]{0,80}>){0,3}\s*([^<]{1,4000})"
    rb"|[^>]{0,200}rdf:resource\s*=\s*[\"']([^\"'<]{0,400}))"
)
_IPTC = {(2, 65): "software", (2, 110): "credit", (2, 115): "credit", (2, 55): "taken", (2, 120): "description"}
_DATE = re.compile(r"\s*(\d{4})[-:/.]?(\d{2})[-:/.]?(\d{2})(?!\d)")
_FIRST_YEAR = 1826
"""The first photograph; earlier years are a camera's unset clock (0000, 0001)."""


@dataclass(slots=True)
class Provenance:
    """`said`: (place, field, text), such as ("exif", "software", "GIMP 2.10"); fields are make, model, software, artist,
    description, copyright, comment, credit, source-type, ai-system, ai-prompt, taken, digitized, orientation and, for a PNG,
    `key:` and the text's own keyword. `claims`: what C2PA says. `odd`: what could not be read.
    """

    said: list[tuple[str, str, str]] = field(default_factory=list)
    claims: c2pa.Claims | None = None
    odd: list[str] = field(default_factory=list)

    def of(self, *fields: str) -> list[tuple[str, str]]:
        """(place, text) of some fields."""
        return [(place, text) for place, name, text in self.said if name in fields]

    def first(self, name: str) -> str | None:
        """The first text of a field."""
        return next((text for _, known, text in self.said if known == name), None)

    def taken(self) -> datetime.date | None:
        """The day the picture was taken, as the file says; the earliest where it says several."""
        days = [day for _, text in self.of("taken", "digitized") if (day := day_of(text))]
        return min(days, default=None)


def day_of(text: str) -> datetime.date | None:
    """The day in `2019-05-01`, `2019:05:01 10:00:00`, `20190501` or an ISO time; None for no day or a camera's unset clock."""
    match = _DATE.match(text)
    if match is None:
        return None
    try:
        day = datetime.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None
    return day if day.year >= _FIRST_YEAR else None


def read(data: bytes, codec: str) -> Provenance:
    """What the file says. `codec` as in `records.Facts`. Never raises."""
    found = Provenance()
    walk = {"jpeg": _jpeg, "png": _png, "webp": _webp}.get(codec, _pillow)
    manifests: list[bytes] = []
    try:
        budget = _MAX_ALL
        for number, (kind, block) in enumerate(walk(data)):
            budget -= 0 if kind == "tiff" else len(block)
            if budget < 0:
                found.odd.append(f"more than {_MAX_ALL:,} bytes of metadata")
                break
            if number >= _MAX_BLOCKS:
                found.odd.append(f"more than {_MAX_BLOCKS} metadata blocks")
                break
            if len(block) > MAX_BLOCK and kind not in ("c2pa", "tiff"):
                found.odd.append(f"{kind} of {len(block):,} bytes was passed over")
                continue
            if kind == "c2pa":
                manifests.append(block)
                continue
            _READERS.get(kind, _text)(found, kind, block)
    except Exception as error:
        found.odd.append(f"{type(error).__name__}: {error}"[:200])
    if manifests:
        found.claims = c2pa.read(b"".join(manifests))
        if found.claims.odd:
            found.odd.append(f"c2pa: {found.claims.odd}")
    return found


# --- containers --------------------------------------------------------------------------------------------------------


def _jpeg(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 2
    jumbf: dict[bytes, list[tuple[int, bytes]]] = {}
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA or length < 2:
            break
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            yield "exif", body[6:]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/x"):
            yield "xmp", body[body.find(b"\0") + 1 :]
        elif marker == 0xED and body.startswith(b"Photoshop 3.0\0"):
            yield "iptc", body[14:]
        elif marker == 0xFE:
            yield "comment", body
        elif marker == 0xEB and body[:2] == b"JP" and len(body) >= 16:
            jumbf.setdefault(body[2:4], []).append((int.from_bytes(body[4:8], "big"), body[8:]))
    for pieces in jumbf.values():
        # The head of the box (length, type) is repeated in every segment it was cut into.
        ordered = [piece for _, piece in sorted(pieces, key=lambda piece: piece[0])]
        head = 16 if ordered[0][:4] == b"\0\0\0\1" else 8
        joined = ordered[0] + b"".join(piece[head:] for piece in ordered[1:])
        if b"c2pa" in joined[:256]:
            yield "c2pa", joined


def _png(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length] if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX") else b""
        if kind == b"eXIf":
            yield "exif", body
        elif kind == b"caBX":
            yield "c2pa", body
        elif body:
            key, _, rest = body.partition(b"\0")
            if kind == b"zTXt":
                rest = _inflate(rest[1:])
            elif kind == b"iTXt":
                packed, tail = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
                rest = _inflate(tail[-1]) if packed else tail[-1]
            name = key.decode("latin-1")[:80]
            if name == "XML:com.adobe.xmp":
                yield "xmp", rest
            elif name.startswith("Raw profile type "):
                yield from _raw_profile(name, rest)
            else:
                yield f"key:{name}", rest
        at += 12 + length


def _inflate(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, MAX_TEXT)


def _raw_profile(name: str, text: bytes) -> Iterator[tuple[str, bytes]]:
    """ImageMagick's way of putting EXIF, XMP and IPTC into a text chunk: name, length, hexadecimal digits."""
    digits = re.sub(rb"\s", b"", text.strip().partition(b"\n")[2].lstrip(b" 0123456789").partition(b"\n")[2])
    block = bytes.fromhex(digits.decode("ascii", "ignore"))
    if block.startswith(b"Exif\0\0"):
        yield "exif", block[6:]
    elif "xmp" in name or block.startswith(b"http://ns.adobe.com"):
        yield "xmp", block
    else:
        yield "iptc", block


def _webp(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        name = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}.get(kind)
        if name is not None:
            body = data[at + 8 : at + 8 + length]
            yield name, body.removeprefix(b"Exif\0\0") if name == "exif" else body
        at += 8 + length + (length & 1)


def _pillow(data: bytes) -> Iterator[tuple[str, bytes]]:
    """GIF, TIFF and BMP, as Pillow reads their headers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=["GIF", "TIFF", "BMP"])
        tags = getattr(image, "tag_v2", {})
        for tag, kind in ((700, "xmp"), (33723, "iim"), (34377, "iptc"), (52545, "c2pa")):
            value = tags.get(tag)
            if isinstance(value, bytes | str):
                yield kind, value if isinstance(value, bytes) else value.encode("utf-8", "replace")
        if tags:
            yield "tiff", data  # its own directory is laid out as EXIF is
        for key, kind in (("xmp", "xmp"), ("comment", "comment")):
            value = image.info.get(key)
            if isinstance(value, bytes | str) and not tags:
                yield kind, value if isinstance(value, bytes) else value.encode("utf-8", "replace")


# --- blocks ------------------------------------------------------------------------------------------------------------


def _exif(found: Provenance, _: str, block: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = Image.Exif()
            tags.load(block)
            photo = tags.get_ifd(0x8769)
            for known, values in ((_FIELDS, tags), (_PHOTO_FIELDS, photo)):
                for tag, name in known.items():
                    _say(found, "exif", name, _words(values.get(tag)))
            orientation = tags.get(0x0112)
            if orientation not in (None, 1):
                _say(found, "exif", "orientation", str(orientation))
    except Exception as error:
        found.odd.append(f"exif: {type(error).__name__}: {error}"[:200])


def _words(value: object) -> str:
    if isinstance(value, bytes):
        body = value[8:] if value[:8] in (b"UNICODE\0", b"ASCII\0\0\0", b"\0" * 8, b"JIS\0\0\0\0\0") else value
        if value[:8] == b"UNICODE\0":
            # Both byte orders are in use; the wrong one yields hardly an ASCII letter.
            return max(
                (body.decode(f"utf-16-{order}", "ignore") for order in ("be", "le")), key=lambda t: sum(c.isascii() for c in t)
            )
        return body.decode("utf-8", "replace")
    return value if isinstance(value, str) else "" if value is None else str(value)


def _xmp(found: Provenance, _: str, block: bytes) -> None:
    if block[:2] in (b"\xfe\xff", b"\xff\xfe"):
        block = block.decode("utf-16", "ignore").encode()
    for match in _XMP_VALUE.finditer(block[:MAX_TEXT]):
        text = next((part for part in match.groups()[1:] if part), b"").decode("utf-8", "replace")
        _say(found, "xmp", _XMP[match[1].decode()], text)


def _iptc(found: Provenance, _: str, block: bytes) -> None:
    """Photoshop's image resources, of which 0x0404 is IPTC-IIM."""
    at = 0
    while at + 12 <= len(block) and block[at : at + 4] == b"8BIM":
        kind = int.from_bytes(block[at + 4 : at + 6], "big")
        name = 1 + block[at + 6]
        at += 6 + name + (name & 1)
        size = int.from_bytes(block[at : at + 4], "big")
        if kind == 0x0404:
            _iim(found, "", block[at + 4 : at + 4 + size])
        at += 4 + size + (size & 1)


def _iim(found: Provenance, _: str, block: bytes) -> None:
    at = 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, number, size = block[at + 1], block[at + 2], int.from_bytes(block[at + 3 : at + 5], "big")
        if size & 0x8000:  # an extended data set: megabytes, none of ours
            return
        if name := _IPTC.get((record, number)):
            _say(found, "iptc", name, block[at + 5 : at + 5 + size].decode("utf-8", "replace"))
        at += 5 + size


def _text(found: Provenance, kind: str, block: bytes) -> None:
    """A comment, or one of a PNG's texts under its own keyword."""
    _say(found, "comment" if kind == "comment" else "text", kind, block[:MAX_TEXT].decode("utf-8", "replace"))


def _say(found: Provenance, place: str, name: str, text: str) -> None:
    text = text.strip("\0 \t\r\n")
    if text and len(found.said) < _MAX_BLOCKS:
        found.said.append((place, name, text[:100_000]))


_READERS = {"exif": _exif, "tiff": _exif, "xmp": _xmp, "iptc": _iptc, "iim": _iim}
