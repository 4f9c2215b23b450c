"""The law of the `equalized` view: crop, size, codec, chroma subsampling and quality, the same for both classes.

Sides are drawn for the real images, each from its own id, and then given out in equal numbers to the synthetic ones, so that
within a category and split both classes have exactly the same sides. Everything else is drawn for each image from its own id.
What was never JPEG, of either class, gets one JPEG pass from its category's law before the crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imaginet_build.recipe import Equalize
from imaginet_build.records import View, make_id, random_of

QUALITIES = (60, 98)
"""Where a fitted quality may lie. Below, little is left to see; above, tables are so fine that chroma decides the size."""

DEFAULT_QUALITIES = (75, 95)
DEFAULT_SIDES = (128, 1024)
ENOUGH = 20
"""Fewer JPEGs than this do not make a law of a category's own; all categories' are taken then."""

Row = Mapping[str, object]
Chroma = Literal["4:4:4", "4:2:2", "4:2:0"]


@dataclass(frozen=True, slots=True)
class Law:
    """What one category's views are drawn from. Lists are drawn from uniformly, by position."""

    sides: tuple[int, int]
    step: int
    codecs: tuple[tuple[str, float], ...]
    qualities: tuple[int, ...]
    subsamplings: tuple[str, ...]
    first_qualities: tuple[int, ...]
    first_subsamplings: tuple[str, ...]


def sides_of(settings: Equalize) -> tuple[int, int]:
    """The smallest and the largest side of a crop, multiples of the step."""
    low, high = DEFAULT_SIDES if settings.side == "auto" else settings.side
    step = settings.step
    return -(-low // step) * step, max(high // step * step, -(-low // step) * step)


def fit(settings: Equalize, category: str, reals: Sequence[Row]) -> Law:
    """The law of `category`, fitted where the recipe says `auto` on the JPEGs among the real images `reals`."""
    jpegs = [row for row in reals if row["codec"] == "jpeg" and row["quality"] is not None]
    own = [row for row in jpegs if row["category"] == category]
    jpegs = own if len(own) >= ENOUGH else jpegs
    low, high = QUALITIES
    fitted = tuple(sorted(min(max(int(str(row["quality"])), low), high) for row in jpegs))
    first = fitted or tuple(range(DEFAULT_QUALITIES[0], DEFAULT_QUALITIES[1] + 1))
    chroma = tuple(sorted(str(row["subsampling"]) for row in jpegs if row["subsampling"] in ("4:4:4", "4:2:2", "4:2:0")))
    chroma = chroma or ("4:2:0", "4:2:0", "4:2:0", "4:4:4")
    quality = first if settings.quality == "auto" else tuple(range(settings.quality[0], settings.quality[1] + 1))
    mix = chroma if settings.subsampling == "auto" else _spread(settings.subsampling)
    return Law(sides_of(settings), settings.step, tuple(sorted(settings.codec.items())), quality, mix, first, chroma)


def _spread(shares: Mapping[Chroma, float]) -> tuple[str, ...]:
    """Shares as a list to draw from, to a hundredth."""
    return tuple(name for name, share in sorted(shares.items()) for _ in range(round(100 * share)))


def match_sides(law: Law, real: Mapping[str, int], synthetic: Mapping[str, int]) -> dict[str, int]:
    """A side for every image: id -> pixels. `real`, `synthetic`: id -> short side, equally many, none below the smallest side.

    The reals draw first, uniformly between the smallest side and what they can give. The synthetic images take the same
    sides; where they cannot, because too few of them are large enough, both classes take the next smaller one. Afterwards each
    side is given out equally often in both classes.
    """
    low, high = law.sides
    wanted = np.array([_draw_side(law, name, short) for name, short in sorted(real.items())], dtype=np.int64)
    ladder = range(high, low - 1, -law.step)
    able = np.array(list(synthetic.values()), dtype=np.int64)
    sides: dict[str, int] = {}
    given = 0
    for side in ladder:
        upto = min(int((wanted >= side).sum()), int((able >= side).sum()))
        for shorts in (real, synthetic):
            free = [name for name, short in shorts.items() if short >= side and name not in sides]
            free.sort(key=lambda name: make_id("side", name))
            sides.update(dict.fromkeys(free[: upto - given], side))
        given = upto
    return sides


def _draw_side(law: Law, name: str, short: int) -> int:
    low, high = law.sides
    return low + law.step * int(random_of(name, "side").integers(0, (min(short, high) - low) // law.step + 1))


def view(law: Law, row: Row, side: int) -> View:
    """The view of one image whose side is settled; every other choice comes from its id."""
    name = str(row["id"])
    chance = random_of(name, "view")
    width, height = int(str(row["width"])), int(str(row["height"]))
    left, top = int(chance.integers(0, width - side + 1)), int(chance.integers(0, height - side + 1))
    codec = str(chance.choice([c for c, _ in law.codecs], p=[share for _, share in law.codecs]))
    quality = law.qualities[int(chance.integers(len(law.qualities)))]
    subsampling = law.subsamplings[int(chance.integers(len(law.subsamplings)))]
    first_quality = law.first_qualities[int(chance.integers(len(law.first_qualities)))]
    first_subsampling = law.first_subsamplings[int(chance.integers(len(law.first_subsamplings)))]
    encoding = (codec, quality, subsampling)
    if row["codec"] != "jpeg":
        return View(left, top, side, side, *encoding, first_quality, first_subsampling)
    return View(left, top, side, side, *encoding)
