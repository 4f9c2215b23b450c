"""The law of the `equalized` view: crop, size, codec, chroma subsampling and quality, the same for both classes.

The real images draw first, each from its own id: a side, a codec, a quality, a subsampling. The synthetic images of the same
category and split are then given the very same draws, so that both classes hold every combination equally often: an equal law
alone would leave differences of chance, by which the labels of a small data set can be guessed. Where a crop is cut, and the
first JPEG pass of what was never JPEG (of either class, before the crop), is drawn for each image from its own id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imaginet_build.recipe import Equalize
from imaginet_build.records import View, make_id, random_of

QUALITIES = (60, 98)
"""Where a fitted quality may lie. Below, little is left to see; above, tables are so fine that chroma decides the size."""

DEFAULT_QUALITIES = (75, 95)
AUTO_LOW = (64, 256)
AUTO_HIGH = 1024
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


def sides_of(settings: Equalize, shorts: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """The smallest and the largest side of a category's crops, multiples of the step.

    `shorts`: origin -> short sides of its images. With `auto` the smallest side is one that 19 of 20 images of either class can
    give, at least 64 and at most 256 pixels.
    """
    step = settings.step
    if settings.side == "auto":
        point = min((float(np.quantile(sides, 0.05, method="lower")) for sides in shorts.values() if len(sides)), default=0.0)
        low, high = int(min(max(point, AUTO_LOW[0]), AUTO_LOW[1])) // step * step, AUTO_HIGH
    else:
        low, high = settings.side
    low = max(-(-low // step), 1) * step
    return low, max(high // step * step, low)


@dataclass(frozen=True, slots=True)
class Look:
    """What can be known of a row of the view without its pixels: side in pixels, codec, quality, chroma subsampling."""

    side: int
    codec: str
    quality: int
    subsampling: str


def fit(settings: Equalize, category: str, sides: tuple[int, int], reals: Sequence[Row]) -> Law:
    """The law of `category` with `sides`, fitted where the recipe says `auto` on the JPEGs among the real images `reals`."""
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
    return Law(sides, settings.step, tuple(sorted(settings.codec.items())), quality, mix, first, chroma)


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


def match(law: Law, real: Sequence[Row], synthetic: Sequence[Row]) -> dict[str, Look]:
    """What every image of one category and split will look like from outside: id -> side and encoding.

    `real`, `synthetic`: equally many rows with id, short and pair_id, none shorter than the smallest side. Both classes get the
    same looks equally often; a pair whose images have the same side shares one.
    """
    shorts = [{str(row["id"]): int(str(row["short"])) for row in rows} for rows in (real, synthetic)]
    sides = match_sides(law, *shorts)
    looks = {str(row["id"]): Look(sides[str(row["id"])], *_encoding(law, str(row["id"]))) for row in real}
    free: dict[int, list[str]] = defaultdict(list)
    for name in sorted(looks, key=lambda name: make_id("look", name)):
        free[looks[name].side].append(name)
    rest = []
    for row in sorted(synthetic, key=lambda row: make_id("look", row["id"])):
        name, partner = str(row["id"]), str(row["pair_id"])
        if partner in free[sides[name]]:
            free[sides[name]].remove(partner)
            looks[name] = looks[partner]
        else:
            rest.append(name)
    for name in rest:
        looks[name] = looks[free[sides[name]].pop(0)]
    return looks


def _encoding(law: Law, name: str) -> tuple[str, int, str]:
    chance = random_of(name, "encoding")
    codec = str(chance.choice([c for c, _ in law.codecs], p=[share for _, share in law.codecs]))
    quality = law.qualities[int(chance.integers(len(law.qualities)))]
    return codec, quality, law.subsamplings[int(chance.integers(len(law.subsamplings)))]


def view(law: Law, row: Row, look: Look) -> View:
    """The view of one image whose look is settled; the rest comes from its own id."""
    chance = random_of(str(row["id"]), "view")
    left = int(chance.integers(0, int(str(row["width"])) - look.side + 1))
    top = int(chance.integers(0, int(str(row["height"])) - look.side + 1))
    encoding = (look.codec, look.quality, look.subsampling)
    if row["codec"] == "jpeg":
        return View(left, top, look.side, look.side, *encoding)
    first_quality = law.first_qualities[int(chance.integers(len(law.first_qualities)))]
    first_subsampling = law.first_subsamplings[int(chance.integers(len(law.first_subsamplings)))]
    return View(left, top, look.side, look.side, *encoding, first_quality, first_subsampling)
