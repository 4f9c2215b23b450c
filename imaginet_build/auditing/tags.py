"""What the metadata of a file says in words: the camera, the software, the colour profile, and every key with its value.

That a file *has* such a container is one fact (`records.Facts.metadata`); what stands in it is another: where both classes
carry EXIF, `Software = ComfyUI` still marks one of them.

No pixel is decoded: text that a PNG keeps behind its pixels is read as if it stood before them. What cannot be parsed hides
nothing else: it is a trace of whatever wrote it, and may stand on one class alone.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from hashlib import sha256
from itertools import groupby

from PIL import ExifTags, Image

from imaginet_build.imagefiles import embedded, provenance
from imaginet_build.imagefiles.containers import sniff

TAGS: tuple[str, ...] = ("camera", "software", "icc_profile", "text_keys", "words")
"""What is read. `camera`: EXIF make and model. `software`: the first that stands there of EXIF Software, XMP CreatorTool, a
text chunk Software, the C2PA claim generator and the comment. `icc_profile`: its name and digest. `text_keys`: the keys of the
text chunks, sorted. `words`: everything that the header says, a line each, `place key=value`, sorted; long
values are cut and end in a digest of the whole, and how they begin is a word of its own, `place key (start)=`."""

PLACES: tuple[str, ...] = ("header", "exif", "gps", "xmp", "c2pa", "end")
"""Where a word stands. `header`: what the format itself says, text chunks and comments too. `end`: behind the image."""

UNREADABLE = "unreadable metadata"
"""The `software` of metadata that cannot be parsed and names none, and the value of `place fault`."""

_MAKE, _MODEL, _SOFTWARE = 271, 272, 305
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_LONGEST = 60
_DIGEST = 8
_READ = 4096
"""Letters of a value that are made printable, at most."""
_MOST_WORDS = 200
"""Keys of each place; a digest stands for those behind."""
_PACKET = 2**20
"""Letters of an XMP packet that are taken apart; a digest stands for those behind."""
_ELSEWHERE = frozenset({"exif", "icc_profile", "xmp", "jfif", "progressive", "progression"})
"""Fields of the header that are read as what they are, or say what another one says."""

# Every part is possessive and begins at a boundary: a stranger's packet costs its own length, whatever stands in it.
_NAME = r"([\w.-]++:[\w.-]++)"
_XMP = re.compile(rf"(?<![\w.-]){_NAME}\s*+=\s*+[\"']([^\"'<]*+)[\"']|<{_NAME}[^<>]*+>\s*+([^<\s][^<]*+)")
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}
_LATE = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})


def tags_of(data: bytes, containers: Collection[str]) -> dict[str, str]:
    """The tags of a file that has decoded, by name; what does not stand there is not in it.

    `containers`: the metadata containers it has (`Facts.metadata`).
    """
    codec = sniff(data)
    words: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = _opened(data, codec)
        except Exception:  # whatever a parser raises, the file itself has decoded: its metadata is what is odd
            return {"software": UNREADABLE}
        with image:
            info = {str(k): v for k, v in image.info.items()}
            text = getattr(getattr(image, "png", None), "im_text", {})
            main: dict[int, object] = {}
            _into(words, "header", lambda: ((name, value) for name, value in info.items() if name not in _ELSEWHERE))
            _into(words, "exif", lambda: _exif(image.getexif(), main))
            _into(words, "exif", lambda: _named(ExifTags.TAGS, image.getexif().get_ifd(_EXIF_IFD)))
            _into(words, "gps", lambda: _named(ExifTags.GPSTAGS, image.getexif().get_ifd(_GPS_IFD)))
            _into(words, "xmp", lambda: _xmp(_text(info.get("xmp"))))
    claims = provenance.read(data, codec).claims if "c2pa" in containers else None
    if claims is not None:
        said = (("generator", "+".join(claims.generators)), ("source-type", "+".join(claims.source_types)))
        _into(words, "c2pa", lambda: iter(said))
    if not data.endswith(_ENDS.get(codec, b"")):
        words["end"] = "bytes follow"
    named = (
        main.get(_SOFTWARE), words.get("xmp xmp:CreatorTool"), text.get("Software") or text.get("software"),
        words.get("c2pa generator"), info.get("comment"), UNREADABLE if any(key.endswith(" fault") for key in words) else "",
    )  # fmt: skip
    icc = info.get("icc_profile")
    found = {
        "camera": " ".join(_clean(main.get(tag)) for tag in (_MAKE, _MODEL)).strip(),
        "software": next((short for value in named if (short := _clean(value))), ""),
        "icc_profile": embedded.profile_name(icc) if isinstance(icc, bytes) and icc else "",
        "text_keys": _clean("+".join(sorted(text))),
        "words": "\n".join(sorted(_lines(words))),
    }
    return {name: value for name, value in found.items() if value}


def _opened(data: bytes, codec: str) -> Image.Image:
    """The image, its header read; what a PNG says behind its pixels moved before them, where Pillow looks at once."""
    if codec == "png":
        try:
            return Image.open(io.BytesIO(_early(data)))
        except Exception:  # what stands behind the pixels cannot be parsed; what stands before them may
            return Image.open(io.BytesIO(data))
    return Image.open(io.BytesIO(data))


def _early(data: bytes) -> bytes:
    """A PNG with the text and EXIF of its end moved before its pixels."""
    at, pixels, late = 8, 0, []
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IDAT":
            pixels = pixels or at
        elif pixels and kind in _LATE and at + 12 + length <= len(data):
            chunk = data[at : at + 8 + length]
            late.append(chunk + zlib.crc32(chunk[4:]).to_bytes(4, "big"))  # decoders do not check the sums of these
        at += 12 + length
    return data[:pixels] + b"".join(late) + data[pixels:] if late else data


def _into(words: dict[str, str], place: str, said: Callable[[], Iterator[tuple[object, object]]]) -> None:
    """Add what a place says; what was said before something wild stays."""
    try:
        for name, value in said():
            key = _clean(f"{place} {name}")
            words[key], line = _clean(value), _printable(value)
            if words[key] != line:
                words[f"{key} (start)"] = line[:_LONGEST]
    except Exception:  # wild metadata raises anything
        words[f"{place} fault"] = UNREADABLE


def _exif(exif: Image.Exif, main: dict[int, object]) -> Iterator[tuple[object, object]]:
    for tag in exif:
        try:
            main[tag] = exif[tag]
        except Exception:  # wild metadata raises anything
            main[tag] = UNREADABLE
        yield ExifTags.TAGS.get(tag, tag), main[tag]


def _named(names: Mapping[int, str], ifd: Mapping[int, object]) -> Iterator[tuple[object, object]]:
    return ((names.get(tag, tag), value) for tag, value in ifd.items())


def _xmp(packet: str) -> Iterator[tuple[object, object]]:
    """Every field of a packet with its values."""
    several: dict[str, dict[str, None]] = {}
    for attribute, its, element, text in _XMP.findall(packet[:_PACKET]):
        several.setdefault(attribute or element, {})[its or text] = None
    if len(packet) > _PACKET:
        yield "(rest)", _digest(packet[_PACKET:])
    yield from ((name, "+".join(map(_clean, values))) for name, values in several.items())


def _lines(words: Mapping[str, str]) -> Iterator[str]:
    """The words, `key=value`: of each place so many, so that none crowds out another."""
    for place, keys in groupby(sorted(words), key=lambda key: key.partition(" ")[0]):
        lines = [f"{key.replace('=', ':')}={words[key]}" for key in keys]
        yield from lines[:_MOST_WORDS]
        if len(lines) > _MOST_WORDS:
            yield f"{place} (more)={_digest(' '.join(lines[_MOST_WORDS:]))}"


def _text(value: object) -> str:
    """What a value says; nothing for None."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _printable(value: object) -> str:
    """One printable line."""
    text = _text(value)[:_READ]
    return " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())


def _clean(value: object) -> str:
    """One short printable line, which ends in a digest of the whole value where that is longer."""
    line = _printable(value)
    text = _text(value)
    if len(line) <= _LONGEST and len(text) <= _READ:
        return line
    return f"{line[: _LONGEST - _DIGEST - 1]}#{_digest(text)}"


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
