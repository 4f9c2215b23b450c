"""One image on arrival: measured, told where it comes from, held against its guards and screens; then a row or a refusal.

Everything here is a function of the bytes, what the source says of them, and the rules: no time, no place.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import PurePosixPath
from typing import Any

from imaginet_build import catalog, images
from imaginet_build.collecting import guards, regions, watermark
from imaginet_build.errors import BadImage, MissingExtra, UsageError
from imaginet_build.imagefiles import jpegfile, provenance
from imaginet_build.imagefiles.provenance import Provenance
from imaginet_build.records import ORIGINS, Facts, Found, Record, Refusal, make_id
from imaginet_build.rules import GUARD, SCREENING, Guard, Screening

FACES = "faces"
"""The category whose images must show a face where a guard asks for it."""

_TWO_BYTES = ("I;16", "I;16B", "I;16L")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a source's card and a recipe's entry say of every image that comes from them."""

    source: str
    revision: str
    licence: str
    origin: str | None
    category: str | None
    asked: str | None
    family: str | None
    scope: str
    released: datetime.date | None = None
    guard: Guard = GUARD
    screen: Screening = SCREENING

    def id_of(self, source_key: str) -> str:
        """The id of an image of this source: the same wherever its folder lies and whatever is asked of it."""
        return make_id("collect", self.source, self.scope, source_key)


# --- what can be checked here ----------------------------------------------------------------------------------------


def unchecked(terms: Terms) -> dict[str, str]:
    """The checks that `terms` would make and that cannot be made here, each with the reason and the way out.

    Raises `UsageError` where one of them must be made.
    """
    missing: dict[str, str] = {}
    if terms.guard.watermark != "off" and not watermark.available():
        if terms.guard.watermark == "must":
            raise UsageError(f"{terms.source}: guard.watermark = 'must' needs {watermark.PACKAGE}: {watermark.INSTALL}")
        missing["watermark"] = f"{watermark.PACKAGE} is not installed: {watermark.INSTALL}"
    seen = [f"guard.faces = '{terms.guard.faces}'"] * (_wants_faces(terms) and terms.guard.faces == "must")
    seen += [f"screen.nsfw = '{terms.screen.nsfw}'"] * (terms.screen.nsfw != "off")
    if regions.network() is None:
        if seen:
            raise MissingExtra(f"{terms.source}: {' and '.join(seen)}", regions.PACKAGE, "guards")
        if _wants_faces(terms) and terms.guard.faces == "try":
            missing["faces"] = f"{regions.PACKAGE} is not installed: pip install 'imaginet-build[guards]'"
    return missing


def _wants_faces(terms: Terms) -> bool:
    return terms.guard.faces != "off" and FACES in (terms.asked or FACES, terms.category or FACES)


# --- one image -------------------------------------------------------------------------------------------------------


def arrive(found: Found, terms: Terms) -> Record | Refusal:
    """The image with its facts, or why it cannot be one."""
    key = found.source_key
    origin = found.origin or terms.origin
    if origin not in ORIGINS:
        return Refusal("unknown-origin", "neither the source nor its place says whether it is real", key)
    category = found.category or terms.category or "uncategorized"
    if category not in (known := catalog.taxonomy().categories):
        return Refusal("unknown-category", f"{category!r}: there are {', '.join(known)}", key)
    if terms.asked not in (None, category):
        return Refusal("other-category", f"the source gave {category} where {terms.asked} was asked for", key)
    try:
        facts = images.measure(found.data)
        if found.sha256 and found.sha256.lower() != facts.sha256:
            return Refusal("checksum", f"its SHA-256 is {facts.sha256}, the source says {found.sha256[:80]}", key)
        said = provenance.read(found.data, facts.codec)
        refusal, noted = _held_against(found, facts, said, terms, category, origin)
    except BadImage as error:
        return Refusal(error.reason, error.detail, key)
    if refusal is not None:
        return Refusal(refusal.reason, refusal.detail, key)
    extension = _extension(key)
    return _record(found, facts, terms, category, origin, _params(found, facts, said, extension) | noted, extension)


def _extension(key: str) -> str:
    """The suffix of a file's name, of a URL that of its path; '' where it has none."""
    path = key.partition("://")[2].partition("/")[2].partition("?")[0] if "://" in key else key
    suffix = PurePosixPath(path).suffix.lower().lstrip(".")
    return suffix if suffix.isalnum() else ""


def _held_against(
    found: Found, facts: Facts, said: Provenance, terms: Terms, category: str, origin: str
) -> tuple[Refusal | None, dict[str, Any]]:
    """The first rule that an image breaks, cheapest first, and what was seen on the way."""
    guard, noted = terms.guard, dict[str, Any]()
    if (refusal := _screened(facts, terms.screen)) is not None:
        return refusal, noted
    if origin == "real" and (refusal := guards.judge(said, guard, guards.dates_of(found.date, terms.released))) is not None:
        return refusal, noted
    marks = origin == "real" and guard.watermark != "off" and watermark.available()
    faces = category == FACES and guard.faces != "off" and regions.network() is not None
    nsfw = terms.screen.nsfw != "off"
    grey = not terms.screen.grayscale
    if not (marks or faces or nsfw or grey):
        return None, noted
    image = images.decode(found.data)
    if grey and _is_grey(image):
        return Refusal("grayscale", "grey images are not welcome in this entry"), noted
    if marks and (program := watermark.look(image)):
        return Refusal("ai-watermark", f"its pixels carry the invisible watermark of {program}"), noted
    if faces or nsfw:
        seen = regions.look(image)
        noted |= {"face": seen.face, "face_share": seen.share} if faces else {}
        noted |= {"nsfw": seen.exposed} if nsfw else {}
        if faces and seen.face < regions.FACE_SCORE:
            return Refusal("no-face", f"the best score of a face is {seen.face:.3f}, less than {regions.FACE_SCORE}"), noted
        limit = terms.screen.nsfw_limit
        if terms.screen.nsfw == "reject" and limit is not None and seen.exposed >= limit:
            return Refusal("nsfw", f"an exposed body part scores {seen.exposed:.3f}, the limit is {limit}"), noted
    return None, noted


def _screened(facts: Facts, screen: Screening) -> Refusal | None:
    short, long = sorted((facts.width, facts.height))
    size = f"{facts.width} x {facts.height} pixels"
    if screen.min_side and short < screen.min_side:
        return Refusal("too-small", f"{size}; the shorter side must have {screen.min_side}")
    if screen.max_aspect and long > screen.max_aspect * short:
        return Refusal("aspect", f"{size} is longer than {screen.max_aspect:g} to 1")
    if screen.min_contrast and facts.contrast < screen.min_contrast:
        return Refusal("blank", f"its contrast is {facts.contrast:.2f}, less than {screen.min_contrast:g}")
    return None


def _is_grey(image: Any) -> bool:
    """Whether no pixel of a small copy has more colour than a JPEG's rounding leaves."""
    small = image.copy()
    small.thumbnail((256, 256))
    bands = [band.getextrema() for band in _differences(small)]
    return all(high <= 6 for _, high in bands)


def _differences(image: Any) -> list[Any]:
    from PIL import ImageChops

    red, green, blue = image.split()
    return [ImageChops.difference(red, green), ImageChops.difference(green, blue)]


# --- what is written down --------------------------------------------------------------------------------------------


def _record(
    found: Found, facts: Facts, terms: Terms, category: str, origin: str, params: dict[str, Any], extension: str
) -> Record:
    name = terms.id_of(found.source_key)
    generator = found.generator or terms.source
    synthetic = origin == "synthetic"
    return Record(
        id=name,
        origin="synthetic" if synthetic else "real",
        category=category,
        family=(terms.family or catalog.taxonomy().family_of(generator)) if synthetic else None,
        generator=generator if synthetic else None,
        source=found.source or terms.source,
        source_key=found.source_key,
        licence=found.licence or terms.licence,
        revision=terms.revision,
        prompt=found.prompt,
        negative=None,
        seed=None,
        params=json.dumps(params, sort_keys=True, ensure_ascii=False),
        pair_id=None if synthetic else name,
        group=name if found.group is None else make_id("group", terms.source, found.group),
        extension=extension,
        facts=facts,
    )


def _params(found: Found, facts: Facts, said: Provenance, extension: str) -> dict[str, Any]:
    """What was measured on arrival besides the facts; what is not known is left out.

    `decoded`: the rules of `images` that turn the file into pixels, where it is no plain upright RGB. `tables`: a JPEG's
    quantization steps in natural order, two hexadecimal digits each. `taken`: by EXIF, XMP or IPTC, the earliest. Camera and
    program are among the facts.
    """
    report: dict[str, Any] = {
        "decoded": _decoded(facts, said, extension),
        "tables": _tables(found.data) if facts.codec == "jpeg" else None,
        "taken": str(day) if (day := said.taken()) else None,
        "uploaded": found.date,
        "stratum": found.stratum,
        "c2pa": list(said.claims.generators + said.claims.source_types) if said.claims else None,
        "odd": said.odd or None,
    }
    return {key: value for key, value in report.items() if value not in (None, [], "")}


def _decoded(facts: Facts, said: Provenance, extension: str) -> list[str]:
    report = []
    if facts.mode == "CMYK":
        report.append("cmyk: inks to colours")
    elif facts.mode in ("1", "L", "LA"):
        report.append("grey: one sample for all three")
    elif facts.mode in _TWO_BYTES:
        report.append("16 bits a sample: the high byte")
    elif facts.mode in ("P", "PA"):
        report.append("palette: looked up")
    if facts.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        report.append("transparency: over mid-grey")
    if (turn := said.first("orientation")) is not None:
        report.append(f"upright: from EXIF orientation {turn[:10]}")
    if "icc" in facts.metadata:
        report.append("icc: to sRGB where the profile is usable and differs")
    if facts.progressive:
        report.append("progressive")
    usual = {"jpeg": ("jpg", "jpeg", "jpe", "jfif"), "tiff": ("tif", "tiff")}.get(facts.codec, (facts.codec,))
    if extension and extension not in usual:
        report.append(f"named .{extension}, is {facts.codec}")
    return report


def _tables(data: bytes) -> list[str]:
    return list(_written(jpegfile.parse(data).tables))


@functools.lru_cache(maxsize=1024)
def _written(tables: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    return tuple("".join(f"{step:02x}" if max(table) < 256 else f"{step:04x}" for step in table) for table in tables)


def checked(answer: object, number: int) -> Found | Refusal:
    """A collector's answer as one of the two things it may be; anything else is a refusal that names the collector's fault.

    `number` counts the answers without a name: it is what they are called by.
    """
    unnamed = unnamed_key(number)
    if isinstance(answer, Refusal):
        key, reason, detail = answer.source_key, answer.reason, answer.detail
        said = _text(detail or "the collector says no more")
        return Refusal(_text(reason or "refused"), said, _text(key or unnamed), answer.stratum)
    if not isinstance(answer, Found):
        return Refusal("bad-answer", f"the collector gave {type(answer).__name__} in place of an image", unnamed)
    if not isinstance(answer.source_key, str) or not answer.source_key:
        digest = hashlib.sha256(answer.data).hexdigest()[:16] if isinstance(answer.data, bytes) else "nothing"
        return Refusal("bad-answer", f"the collector gave an image without a name (SHA-256 {digest})", unnamed)
    key = _text(answer.source_key)
    if not isinstance(answer.data, bytes):
        return Refusal("bad-answer", f"the collector gave {type(answer.data).__name__} in place of bytes", key)
    words = {f.name: getattr(answer, f.name) for f in fields(answer) if f.name != "data"}
    if wrong := [name for name, value in words.items() if value is not None and not isinstance(value, str)]:
        return Refusal("bad-answer", f"the collector gave no text as {', '.join(wrong)}", key)
    texts: dict[str, Any] = {name: _text(value) for name, value in words.items() if value is not None}
    return answer if all(words[name] == value for name, value in texts.items()) else replace(answer, **texts)


def unnamed_key(number: int) -> str:
    """What the `number`-th answer without a name is called."""
    return f"(unnamed {number})"


def _text(value: object) -> str:
    """A text that can be written down: what is no UTF-8 (a name with broken bytes) as backslashes and digits."""
    return str(value).encode("utf-8", "backslashreplace").decode()
