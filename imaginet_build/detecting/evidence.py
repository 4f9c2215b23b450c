"""What the file itself says, beside what a detector sees: its form, its metadata, its C2PA manifest. Claims, none verified."""

from __future__ import annotations

from typing import Any

from imaginet_build import images
from imaginet_build.imagefiles import provenance

_MOST, _LONGEST = 60, 400


def evidence(data: bytes) -> dict[str, Any]:
    """`{"file": {…}, "metadata": [{"place", "field", "text"}], "c2pa": {"generators", "source_types"} | None, "odd": […]}`.

    Texts are cut to 400 characters, rows to 60. Raises `BadImage` where the image cannot be read.
    """
    facts = images.measure(data)
    said = provenance.read(data, facts.codec)
    rows = [{"place": place, "field": name, "text": _short(text)} for place, name, text in said.said[:_MOST]]
    claims = said.claims
    return {
        "file": {
            "codec": facts.codec,
            "width": facts.width,
            "height": facts.height,
            "bytes": facts.nbytes,
            "quality": facts.quality,
            "subsampling": facts.subsampling,
            "profile": facts.icc,
            "sha256": facts.sha256,
        },
        "metadata": rows,
        "c2pa": None
        if claims is None
        else {
            "generators": [_short(text) for text in claims.generators[:_MOST]],
            "source_types": [_short(text) for text in claims.source_types[:_MOST]],
        },
        "odd": [_short(text) for text in said.odd[:_MOST]],
    }


def _short(text: str) -> str:
    """On one line, without what a terminal or a page would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST]).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
