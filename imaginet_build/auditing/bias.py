"""One-sided transforms: how far a detector's verdict moves when one class alone is compressed, resized or cropped.

None of these makes a photograph synthetic or a synthetic image real. A detector whose verdict follows them has learned how
images were handled and not how they were made (Grommelt et al. 2024, arXiv 2403.17608): on data where the classes were
handled differently it looks better, or worse, than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build import images
from imaginet_build.records import ORIGINS, Item

Floats = npt.NDArray[np.float64]
Score = Callable[[Sequence[Item]], Floats]
"""P(synthetic) of every item, (n,)."""

QUALITY = 75
WHAT = (
    "one class alone gets one JPEG pass (quality 75), a resize to three quarters or a crop of seven eighths, from lossless "
    "copies of the same images; `score` is the largest mean change of P(synthetic), 0 to 1: 0 for a detector that does not care"
)


@dataclass(frozen=True, slots=True)
class Shift:
    """What one transform of one class does. `moved`: mean change of P(synthetic) of the changed images, 0 to 1; `flipped`: the
    share whose verdict changes sides at 0.5; `auc`: of the changed class against the untouched other one."""

    transform: str
    origin: str
    moved: float
    flipped: float
    auc: float


@dataclass(frozen=True, slots=True)
class Bias:
    """`score`: the largest `moved`, and `worst` where it was; `auc`: with nothing changed; `n`: images of each class."""

    score: float
    worst: str
    auc: float
    n: tuple[int, int]
    shifts: tuple[Shift, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        figures = ("moved", "flipped", "auc")
        shifts = {f"{s.transform} of {s.origin}": {k: round(getattr(s, k), 6) for k in figures} for s in self.shifts}
        return {
            "score": round(self.score, 6),
            "worst": self.worst,
            "auc_untouched": round(self.auc, 6),
            "n": list(self.n),
            "shifts": shifts,
            "what": WHAT,
        }


def _jpeg(image: Image.Image) -> bytes:
    return images.encode(image, "jpeg", QUALITY)


def _resize(image: Image.Image) -> bytes:
    size = (max(1, image.width * 3 // 4), max(1, image.height * 3 // 4))
    return images.encode(image.resize(size, Image.Resampling.LANCZOS), "png")


def _crop(image: Image.Image) -> bytes:
    # Off the grid of an earlier JPEG pass, as crops in the world are.
    width, height = max(1, image.width * 7 // 8), max(1, image.height * 7 // 8)
    left, top = min(image.width // 16 | 1, image.width - width), min(image.height // 16 | 1, image.height - height)
    return images.encode(image.crop((left, top, left + width, top + height)), "png")


TRANSFORMS: dict[str, Callable[[Image.Image], bytes]] = {"jpeg": _jpeg, "resize": _resize, "crop": _crop}


def one_sided(score: Score, real: Sequence[Item], synthetic: Sequence[Item]) -> Bias | None:
    """Judge the same images untouched and with each class changed alone; None where a class is empty.

    `score` sees lossless copies first, so that only the transform itself can move it.
    """
    both = (list(real), list(synthetic))
    if not all(both):
        return None
    plain = [score([_item(item, images.encode(item.image, "png")) for item in items]) for items in both]
    shifts = []
    for name, change in TRANSFORMS.items():
        for origin, items, before, other in zip(ORIGINS, both, plain, plain[::-1], strict=True):
            after = score([_item(item, change(item.image)) for item in items])
            area = _auc(other, after) if origin == "synthetic" else _auc(after, other)
            flipped = float(((after >= 0.5) != (before >= 0.5)).mean())
            shifts.append(Shift(name, origin, float(np.abs(after - before).mean()), flipped, area))
    worst = max(shifts, key=lambda shift: shift.moved)
    sizes = (len(both[0]), len(both[1]))
    return Bias(worst.moved, f"{worst.transform} of {worst.origin}", _auc(plain[0], plain[1]), sizes, tuple(shifts))


def _item(item: Item, data: bytes) -> Item:
    return Item(item.name, data, images.decode(data))


def _auc(real: Floats, synthetic: Floats) -> float:
    """Area under the ROC curve, ties counting half."""
    above = (synthetic[:, None] > real[None, :]).mean()
    return float(above + (synthetic[:, None] == real[None, :]).mean() / 2)
