"""What the metadata of a file says in words: the camera, the software, the colour profile, and every key with its value.

That a file *has* such a container is one fact (`records.Facts.metadata`); what stands in it is another: where both classes
carry EXIF, `Software = ComfyUI` still marks one of them. Read from the header alone, no pixel is decoded.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping

from PIL import ExifTags, Image

from imaginet_build.imagefiles import embedded, provenance
from imaginet_build.imagefiles.containers import sniff

TAGS: tuple[str, ...] = ("camera", "software", "icc_profile", "text_keys", "words")
"""What is read. `camera`: EXIF make and model. `software`: the first that stands there of EXIF Software, XMP CreatorTool, a
text chunk Software, the C2PA claim generator and the comment. `icc_profile`: its name and digest. `text_keys`: the keys of the
text chunks, sorted. `words`: everything that the header says, a line each, `place key=value`, sorted."""

PLACES: tuple[str, ...] = ("header", "exif", "gps", "xmp", "c2pa", "end")
"""Where a word stands. `header`: what the format itself says, text chunks and comments too. `end`: behind the image."""

UNREADABLE = "unreadable metadata"
"""The `software` of metadata that cannot be parsed."""

_MAKE, _MODEL, _SOFTWARE = 271, 272, 305
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_LONGEST = 60
_MOST_WORDS = 300
_ELSEWHERE = frozenset({"exif", "icc_profile", "xmp", "jfif", "progressive", "progression"})
"""Fields of the header that are read as what they are, or say what another one says."""

_XMP = re.compile(r"([\w.-]+:[\w.-]+)\s*=\s*[\"']([^\"'<]*)[\"']|<([\w.-]+:[\w.-]+)[^<>]*>\s*([^<\s][^<]*)")
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


def tags_of(data: bytes, containers: Collection[str]) -> dict[str, str]:
    """The tags of a file that has decoded, by name; what does not stand there is not in it.

    `containers`: the metadata containers it has (`Facts.metadata`).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                exif, info = image.getexif(), {str(k): v for k, v in image.info.items()}
                text = {str(k): v for k, v in getattr(image, "text", {}).items()}
                words = dict(_words(info, exif))
    except Exception:  # metadata that no parser reads is a trace of whatever wrote it, and may stand on one class alone
        return {"software": UNREADABLE}
    codec = sniff(data)
    claims = provenance.read(data, codec).claims if "c2pa" in containers else None
    if claims is not None:
        words |= {"c2pa generator": "+".join(claims.generators), "c2pa source-type": "+".join(claims.source_types)}
    if not data.endswith(_ENDS.get(codec, b"")):
        words["end"] = "bytes follow"
    said = (
        exif.get(_SOFTWARE), words.get("xmp xmp:CreatorTool"), text.get("Software") or text.get("software"),
        words.get("c2pa generator"), info.get("comment"),
    )  # fmt: skip
    icc = info.get("icc_profile")
    found = {
        "camera": " ".join(_clean(exif.get(tag)) for tag in (_MAKE, _MODEL)).strip(),
        "software": next((short for value in said if (short := _clean(value))), ""),
        "icc_profile": embedded.profile_name(icc) if isinstance(icc, bytes) and icc else "",
        "text_keys": _clean("+".join(sorted(text))),
        "words": "\n".join(f"{key.replace('=', ':')}={words[key]}" for key in sorted(words)[:_MOST_WORDS]),
    }
    return {name: value for name, value in found.items() if value}


def _words(info: Mapping[str, object], exif: Image.Exif) -> Iterator[tuple[str, str]]:
    """`place key` and value of everything that the header says. Wild metadata raises anything."""
    for name, value in info.items():
        if name not in _ELSEWHERE:
            yield _clean(f"header {name}"), _said(value)
    for ifd, names, tags in (
        ("exif", ExifTags.TAGS, exif),
        ("exif", ExifTags.TAGS, exif.get_ifd(_EXIF_IFD)),
        ("gps", ExifTags.GPSTAGS, exif.get_ifd(_GPS_IFD)),
    ):
        for tag, value in tags.items():
            yield f"{ifd} {names.get(tag, tag)}", _said(value)
    packet = info.get("xmp")
    several: dict[str, dict[str, None]] = {}
    for attribute, its, element, text in _XMP.findall(_text(packet)):
        several.setdefault(attribute or element, {})[_clean(its or text)] = None
    for name, values in several.items():
        yield _clean(f"xmp {name}"), _clean("+".join(values))


def _said(value: object) -> str:
    """A value in a few words; a long list by its first numbers."""
    return _clean(value if isinstance(value, str | bytes) else str(value[:8] if isinstance(value, tuple) else value))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _clean(value: object) -> str:
    """One short printable line, or '' for what is no text."""
    text = " ".join("".join(c if c.isprintable() else " " for c in _text(value)).split())
    return text[:_LONGEST]
