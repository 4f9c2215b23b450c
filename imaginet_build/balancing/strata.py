"""Buckets of size, aspect and quality: how alike two images are from outside before anything is equalized.

A stratum is one bucket of each. The buckets form a tree (size; size and aspect; size, aspect and quality), so that the distance
between two classes can be counted level by level: two images that share a size but not a quality are nearer than two that share
nothing (the earth mover's distance on a tree).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

SIDES = (96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Shorter sides, in pixels, at which a bucket of sizes begins."""

ASPECTS = (0.6, 0.9, 1.1, 1.67)
"""Width over height at which a bucket of aspects begins: tall, portrait, square, landscape, wide."""

SHAPES = ("portrait", "square", "landscape")
"""The words a recipe has for aspects: below 0.9, from 0.9 up to 1.1, from 1.1."""

QUALITIES = (70, 80, 88, 94)
"""JPEG qualities at which a bucket begins; what was never JPEG is a bucket of its own."""

DETAIL = 3
"""Levels of detail: 0 knows no strata, 1 sizes, 2 sizes and shapes, 3 everything."""


def sizes(short: Rows, wanted: Sequence[int] = ()) -> Rows:
    """The bucket of each shorter side; `wanted`: further sides at which a bucket begins."""
    return np.searchsorted(sorted({*SIDES, *wanted}), short, side="right").astype(np.int64)


def shapes(width: Rows, height: Rows) -> Rows:
    """0, 1, 2: portrait, square, landscape."""
    return np.searchsorted([ASPECTS[1], ASPECTS[2]], width / np.maximum(height, 1), side="right").astype(np.int64)


def aspects(width: Rows, height: Rows) -> Rows:
    """0 to 4, from tall to wide; each lies in one shape."""
    return np.searchsorted(ASPECTS, width / np.maximum(height, 1), side="right").astype(np.int64)


def qualities(quality: NDArray[np.float64], jpeg: NDArray[np.bool_]) -> Rows:
    """0 for what was never JPEG, then the buckets of JPEG quality; a JPEG of unknown quality counts as a middling one."""
    known = np.where(np.isnan(quality), QUALITIES[1], quality)
    return np.where(jpeg, 1 + np.searchsorted(QUALITIES, known, side="right"), 0).astype(np.int64)


def levels(
    width: Rows, height: Rows, quality: NDArray[np.float64], jpeg: NDArray[np.bool_], detail: int, wanted: Sequence[int] = ()
) -> Rows:
    """(n, 3): the bucket of each image at each level of the tree, as numbers that are equal for equal buckets."""
    size = sizes(np.minimum(width, height), wanted) if detail >= 1 else np.zeros_like(width)
    aspect = aspects(width, height) if detail >= 3 else shapes(width, height) if detail == 2 else np.zeros_like(width)
    kind = qualities(quality, jpeg) if detail >= 3 else np.zeros_like(width)
    second = size * 8 + aspect
    return np.stack([size, second, second * 8 + kind], axis=1)


def wished(short: Rows, shape: Rows, sizes: Mapping[Any, float], aspects: Mapping[Any, float]) -> tuple[Rows, Rows]:
    """The place of each image among the sizes and the aspects a recipe has targets for; -1 for one that is in none.

    A size reaches from its shorter side to the next larger one of the recipe's.
    """
    sides = sorted(int(side) for side in sizes)
    names = sorted(aspects)
    place = np.searchsorted(sides, short, side="right").astype(np.int64) - 1 if sides else np.full(len(short), -1)
    known = np.array([names.index(name) if name in names else -1 for name in SHAPES], dtype=np.int64)
    return place, known[shape] if len(shape) else shape
