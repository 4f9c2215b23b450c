"""What the metadata of an image says, in a few words: the camera, the program and the day of its EXIF, the name of its profile.

Exif 2.32 (tags), ICC.1:2022 (`desc`, `mluc`). Coordinates, owners and serial numbers are left where they are: a summary is
made to be published.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import struct

from PIL import Image

_MAKE, _MODEL, _SOFTWARE, _DATE = 0x010F, 0x0110, 0x0131, 0x0132
_EXIF_IFD, _GPS_IFD, _TAKEN = 0x8769, 0x8825, 0x9003
_DAY = re.compile(r"(\d{4})[:-](\d{2})[:-](\d{2})")
_LONGEST = 64


def exif_summary(exif: Image.Exif | None) -> str | None:
    """A JSON object of what there is of make, model, software, date (YYYY-MM-DD, when it was taken, else when the file was last
    written) and gps (true: coordinates are there). `{}` where EXIF holds none of it or cannot be read; None without EXIF.
    """
    if exif is None:
        return None
    found: dict[str, object] = {}
    for name, tag in (("make", _MAKE), ("model", _MODEL), ("software", _SOFTWARE)):
        if text := _words(exif.get(tag)):
            found[name] = text
    for dates in (exif.get_ifd(_EXIF_IFD).get(_TAKEN), exif.get(_DATE)):
        if (day := _DAY.match(_words(dates))) and "date" not in found:
            found["date"] = "-".join(day.groups())
    if _GPS_IFD in exif:
        found["gps"] = True
    return json.dumps(found, ensure_ascii=True, separators=(",", ":"))


def _words(value: object) -> str:
    """A tag's text on one line, '' where it is none: wild files hold numbers, zeros and line breaks there."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value.split("\0")[0]).split())[:_LONGEST]


@functools.lru_cache(maxsize=64)
def profile_name(icc: bytes) -> str:
    """The description in an ICC profile and 8 digits of its digest: profiles of one name differ. The digits alone where the
    profile cannot be read.
    """
    digest = hashlib.sha256(icc).hexdigest()[:8]
    try:
        name = _words(_description(icc))
    except (struct.error, IndexError, UnicodeDecodeError):
        name = ""
    return f"{name} {digest}".strip()


def _description(icc: bytes) -> str:
    (count,) = struct.unpack_from(">I", icc, 128)
    for i in range(min(count, 100)):
        name, at, size = struct.unpack_from(">4sII", icc, 132 + 12 * i)
        if name == b"desc":
            body = icc[at : at + size]
            if body[:4] == b"desc":
                (length,) = struct.unpack_from(">I", body, 8)
                return body[12 : 12 + length].decode("latin-1")
            if body[:4] == b"mluc":
                length, offset = struct.unpack_from(">II", body, 20)
                return body[offset : offset + length].decode("utf-16-be")
    return ""
