"""The law of the `equalized` view: crop, size, codec, chroma subsampling and quality, the same for both classes.

The real images draw first, each from its own id: a side, a codec, a quality, a subsampling. The synthetic images of the same
category and split are then given the very same draws, so that both classes hold every combination equally often: an equal law
alone would leave differences of chance, by which the labels of a small data set can be guessed. Where a crop is cut, and the
first JPEG pass of what was never JPEG (of either class, before the crop), is drawn for each image from its own id.

A crop is a little smaller than its image wherever the smallest side allows it, so that the grid of the earlier JPEG pass can
begin at any of its `GRID` pixels: where one class is as large as its crops and the other is not, the grid would tell them
apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from imaginet_build.recipe import Equalize
from imaginet_build.records import random_of, seed_of

QUALITIES = (60, 98)
"""Where a fitted quality may lie. Below, little is left to see; above, tables are so fine that chroma decides the size."""

DEFAULT_QUALITIES = (75, 95)
AUTO_LOW = (64, 256)
AUTO_HIGH = 1024
ENOUGH = 20
"""Fewer JPEGs than this do not make a law of a category's own; all categories' are taken then."""

GRID = 16
"""Pixels after which the blocks of a JPEG with 4:2:0 chroma repeat."""

CHROMA = ("4:4:4", "4:2:2", "4:2:0")

Chroma = Literal["4:4:4", "4:2:2", "4:2:0"]
Rows = np.typing.NDArray[np.int64]
Uniform = np.typing.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Law:
    """What one category's views are drawn from. Lists are drawn from uniformly, by position; of `side_draws` sides the largest
    is taken."""

    sides: tuple[int, int]
    step: int
    codecs: tuple[tuple[str, float], ...]
    qualities: tuple[int, ...]
    subsamplings: tuple[str, ...]
    first_qualities: tuple[int, ...]
    first_subsamplings: tuple[str, ...]
    side_draws: int = 1

    def to_json(self) -> dict[str, Any]:
        """The law as JSON has it; lists that are drawn from as `[value, how often]`."""
        lists = ("qualities", "subsamplings", "first_qualities", "first_subsamplings")
        plain: dict[str, Any] = {"sides": list(self.sides), "step": self.step, "codecs": [list(one) for one in self.codecs]}
        plain["side_draws"] = self.side_draws
        return plain | {
            name: [[value, len(list(same))] for value, same in itertools.groupby(getattr(self, name))] for name in lists
        }

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Law:
        """The law that `to_json` wrote."""
        low, high = said["sides"]
        lists = ("qualities", "subsamplings", "first_qualities", "first_subsamplings")
        drawn = {name: tuple(v for v, n in said[name] for _ in range(n)) for name in lists}
        codecs = tuple((name, share) for name, share in said["codecs"])
        return cls(sides=(low, high), step=said["step"], codecs=codecs, side_draws=said.get("side_draws", 1), **drawn)


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one class, category and split, n of each. `pairs`: what the images of one pair share, None for no pair."""

    ids: list[str]
    width: Rows
    height: Rows
    jpeg: np.typing.NDArray[np.bool_]
    pairs: list[str | None]

    @property
    def short(self) -> Rows:
        """The shorter side of each."""
        return np.minimum(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Looks:
    """What can be known of the rows of the view without their pixels: (n,) side in pixels, codec, quality, subsampling."""

    side: Rows
    codec: np.typing.NDArray[np.str_]
    quality: Rows
    subsampling: np.typing.NDArray[np.str_]

    def take(self, rows: Rows) -> Looks:
        """The looks of `rows`."""
        return Looks(self.side[rows], self.codec[rows], self.quality[rows], self.subsampling[rows])


@dataclass(frozen=True, slots=True)
class Views:
    """The views of n images, column by column as in the plan; `first_quality` is 0 where there is no first pass."""

    left: Rows
    top: Rows
    looks: Looks
    first_quality: Rows
    first_subsampling: np.typing.NDArray[np.str_]


def sides_of(settings: Equalize, shorts: Mapping[str, Rows]) -> tuple[int, int]:
    """The smallest and the largest side of a category's crops, multiples of the step.

    `shorts`: origin -> short sides of its images. With `auto` the smallest side is one that 19 of 20 images of either class can
    give with room for the grid, at least 64 and at most 256 pixels.
    """
    step = settings.step
    if settings.side == "auto":
        point = min((float(np.quantile(sides, 0.05, method="lower")) for sides in shorts.values() if len(sides)), default=0.0)
        low, high = int(min(max(point - GRID + 1, AUTO_LOW[0]), AUTO_LOW[1])) // step * step, AUTO_HIGH
    else:
        low, high = settings.side
    low = max(-(-low // step), 1) * step
    return low, max(high // step * step, low)


def fit(settings: Equalize, sides: tuple[int, int], qualities: Rows, subsamplings: Sequence[str]) -> Law:
    """The law of a category with `sides`. `qualities`, `subsamplings`: of the JPEGs among its real images, which
    settle what the recipe leaves to `auto`, and the first pass of what was never JPEG."""
    low, high = QUALITIES
    fitted = tuple(np.sort(np.clip(qualities, low, high)).tolist())
    first = fitted or tuple(range(DEFAULT_QUALITIES[0], DEFAULT_QUALITIES[1] + 1))
    chroma = tuple(sorted(name for name in subsamplings if name in CHROMA)) or ("4:2:0", "4:2:0", "4:2:0", "4:4:4")
    quality = first if settings.quality == "auto" else tuple(range(settings.quality[0], settings.quality[1] + 1))
    mix = chroma if settings.subsampling == "auto" else _spread(settings.subsampling)
    codecs = tuple(sorted(settings.codec.items()))
    return Law(sides, settings.step, codecs, quality, mix, first, chroma, settings.side_draws)


def _spread(shares: Mapping[Chroma, float]) -> tuple[str, ...]:
    """Shares as a list to draw from, to a hundredth."""
    return tuple(name for name, share in sorted(shares.items()) for _ in range(round(100 * share)))


def match_sides(law: Law, real: Rows, synthetic: Rows, draws: Uniform) -> tuple[Rows, Rows]:
    """A side for every image. `real`, `synthetic`: short sides, equally many, none below the smallest side, in the order in
    which images are chosen. `draws`: a number in [0, 1) for every real.

    The reals draw first, uniformly between the smallest side and what they can give. The synthetic images take the same
    sides; where they cannot, because too few of them are large enough, both classes take the next smaller one. Afterwards each
    side is given out equally often in both classes.
    """
    low, high = law.sides
    able = [_roomy(shorts, low) for shorts in (real, synthetic)]
    wanted = low + law.step * (draws * ((np.minimum(able[0], high) - low) // law.step + 1)).astype(np.int64)
    given = (np.zeros_like(real), np.zeros_like(synthetic))
    count = 0
    for side in range(high, low - 1, -law.step):
        upto = min(int((wanted >= side).sum()), int((able[1] >= side).sum()))
        if upto > count:
            for shorts, sides in zip(able, given, strict=True):
                sides[np.flatnonzero((shorts >= side) & (sides == 0))[: upto - count]] = side
            count = upto
    return given


def _roomy(shorts: Rows, low: int) -> Rows:
    """The largest crops that leave room for the grid; where even the smallest would not, the image itself."""
    room = shorts - GRID + 1
    return np.where(room >= low, room, shorts)


def match(law: Law, real: Images, synthetic: Images) -> tuple[Looks, Looks]:
    """What every image of one category and split will look like from outside, for the reals and for the synthetic ones.

    Equally many of each, none shorter than the smallest side. Both classes get the same looks equally often; a pair whose
    images have the same side shares one.
    """
    n = len(real.ids)
    draws = np.array([random_of(name, "look").random(3 + law.side_draws) for name in real.ids]).reshape(n, 3 + law.side_draws)
    # The largest of several draws, not a power of one: no two machines round a maximum differently.
    high = np.maximum(draws[:, 0], draws[:, 4:].max(axis=1, initial=0))
    orders = [np.argsort(_keys(images.ids, "side"), kind="stable") for images in (real, synthetic)]
    sides = [np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)]
    for side, order, given in zip(
        sides, orders, match_sides(law, real.short[orders[0]], synthetic.short[orders[1]], high[orders[0]]), strict=True
    ):
        side[order] = given
    names = np.array([name for name, _ in law.codecs])
    ends = np.cumsum([share for _, share in law.codecs])
    codec = names[np.minimum(np.searchsorted(ends, draws[:, 1], side="right"), len(names) - 1)]
    quality = np.array(law.qualities)[_pick(law.qualities, draws[:, 2])]
    looks = Looks(sides[0], codec, quality, np.array(law.subsamplings)[_pick(law.subsamplings, draws[:, 3])])
    return looks, looks.take(_partners(real, synthetic, sides[0], sides[1]))


def _partners(real: Images, synthetic: Images, real_side: Rows, side: Rows) -> Rows:
    """For every synthetic image a real of the same side, each once: its pair's where that has the side."""
    at = {pair: row for row, pair in enumerate(real.pairs) if pair is not None}
    wish = np.array([at.get(pair, -1) if pair is not None else -1 for pair in synthetic.pairs], dtype=np.int64)
    wish[(wish >= 0) & (real_side[wish] != side)] = -1
    keys = [_keys(images.ids, "look") for images in (real, synthetic)]
    taken = np.zeros(len(wish), dtype=bool)
    partner = np.full(len(wish), -1, dtype=np.int64)
    order = np.argsort(keys[1], kind="stable")
    asking = order[wish[order] >= 0]
    _, first = np.unique(wish[asking], return_index=True)
    partner[asking[first]] = wish[asking[first]]
    taken[partner[partner >= 0]] = True
    # The rest meets side by side: both classes hold each side equally often.
    left, right = np.flatnonzero(~taken), np.flatnonzero(partner < 0)
    partner[right[np.lexsort((keys[1][right], side[right]))]] = left[np.lexsort((keys[0][left], real_side[left]))]
    return partner


def views(law: Law, images: Images, looks: Looks) -> Views:
    """The views of images whose looks are settled; the rest comes from each image's own id."""
    draws = np.array([random_of(name, "view").random(6) for name in images.ids]).reshape(len(images.ids), 6)
    first_quality = np.array(law.first_qualities)[_pick(law.first_qualities, draws[:, 4])]
    return Views(
        _place(images.width - looks.side, draws[:, 0], draws[:, 1]),
        _place(images.height - looks.side, draws[:, 2], draws[:, 3]),
        looks,
        np.where(images.jpeg, 0, first_quality),
        np.array(law.first_subsamplings)[_pick(law.first_subsamplings, draws[:, 5])],
    )


def _place(room: Rows, phase: Uniform, block: Uniform) -> Rows:
    """Where a crop begins, from 0 to `room`: every place on the grid equally often where there is room for it."""
    start = (phase * GRID).astype(np.int64)
    on_grid = start + GRID * (block * ((room - start) // GRID + 1)).astype(np.int64)
    return np.where(room >= GRID - 1, on_grid, (phase * (room + 1)).astype(np.int64))


def _pick(values: Sequence[object], draws: Uniform) -> Rows:
    """Places in `values`, each equally likely."""
    return (draws * len(values)).astype(np.int64)


def _keys(ids: Sequence[str], purpose: str) -> Rows:
    """A number for every id, by which images are put in an order that nobody chose."""
    return np.array([seed_of(name, purpose) for name in ids], dtype=np.int64)
