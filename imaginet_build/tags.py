"""What the metadata of a file says in words: the camera, the software, the colour profile, the keys of its text chunks.

That a file *has* such a container is one fact (`records.Facts.metadata`); what stands in it is another: where both classes
carry EXIF, `Software = ComfyUI` still marks one of them. Read from the header alone, no pixel is decoded.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Collection

from PIL import Image, ImageCms

TAGS: tuple[str, ...] = ("camera", "software", "icc_profile", "text_keys")
"""The tags, each a probe. `camera`: EXIF make and model. `software`: the first that stands there of EXIF Software, XMP
CreatorTool, a text chunk Software, the C2PA claim generator and the comment. `icc_profile`: its description. `text_keys`: the
keys of the text chunks, sorted."""

_MAKE, _MODEL, _SOFTWARE = 271, 272, 305
_LONGEST = 60
_HEAD = 1 << 16
_TOOL = re.compile(rb"CreatorTool(?:=[\"']|>)([^\"'<]{1,80})")
_CLAIM = re.compile(rb"claim_generator[^\x20-\x7e]{0,4}([\x20-\x7e]{3,80})")

UNREADABLE = "unreadable metadata"
"""The `software` of metadata that cannot be parsed."""


def tags_of(data: bytes, containers: Collection[str]) -> dict[str, str]:
    """The tags of a file that has decoded, by name; what does not stand there is not in it.

    `containers`: the metadata containers it has (`Facts.metadata`): without any there is nothing to read.
    """
    if not containers:
        return {}
    found: dict[str, str] = {}
    try:
        info, words, exif = _header(data)
    except Exception:  # metadata that no parser reads is a trace of whatever wrote it, and may stand on one class alone
        return {"software": UNREADABLE}
    if camera := " ".join(_clean(exif.get(tag)) for tag in (_MAKE, _MODEL)).strip():
        found["camera"] = camera
    head = data[:_HEAD]
    tool = _TOOL.search(head) if "xmp" in containers else None
    claim = _CLAIM.search(head) if "c2pa" in containers else None
    said = (
        exif.get(_SOFTWARE), tool and tool[1], words.get("Software") or words.get("software"), claim and claim[1],
        info.get("comment"),
    )  # fmt: skip
    if software := next((text for value in said if (text := _clean(value))), ""):
        found["software"] = software
    if profile := _profile(info.get("icc_profile") or b""):
        found["icc_profile"] = profile
    if words:
        found["text_keys"] = _clean("+".join(sorted(map(str, words))))
    return found


def _header(data: bytes) -> tuple[dict[str, object], dict[str, str], dict[int, object]]:
    """What Pillow reads before the pixels: `info`, text chunks, EXIF. Wild metadata raises anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            return {str(k): v for k, v in image.info.items()}, dict(getattr(image, "text", {})), dict(image.getexif())


@functools.lru_cache(maxsize=256)
def _profile(icc: object) -> str:
    if not isinstance(icc, bytes) or not icc:
        return ""
    try:
        return _clean(ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile.profile_description)
    except (OSError, ImageCms.PyCMSError):
        return ""


def _clean(value: object) -> str:
    """One short printable line, or '' for what is no text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    text = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    return text[:_LONGEST]
