"""How far two classes differ in size, aspect, quality and bytes per pixel: before the equalized view, and in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEVER = 101.0
"""The quality of what has none: more than any JPEG's."""

Likeness = dict[str, float | None]


def ks(real: ArrayLike, synthetic: ArrayLike) -> float | None:
    """The Kolmogorov-Smirnov distance between two samples (0: one law, 1: nothing shared); None where one is empty."""
    a, b = (np.sort(np.asarray(sample, dtype=float)) for sample in (real, synthetic))
    if not len(a) or not len(b):
        return None
    # Of a value that stands there many times once is enough: of a million images few differ in quality or side.
    values = np.concatenate([side[np.flatnonzero(np.diff(side, append=np.inf))] for side in (a, b)])
    apart = np.searchsorted(a, values, side="right") / len(a) - np.searchsorted(b, values, side="right") / len(b)
    return float(np.abs(apart).max())


def sampling_error(real: int, synthetic: int) -> float | None:
    """The distance that two samples of one law exceed once in twenty times (Smirnov's 95 % point); None for an empty sample."""
    return 1.358 * float(np.sqrt((real + synthetic) / (real * synthetic))) if real and synthetic else None


def distances(
    synthetic: NDArray[np.bool_],
    width: NDArray[np.integer[Any]],
    height: NDArray[np.integer[Any]],
    quality: NDArray[np.floating[Any]],
) -> Likeness:
    """The distance between the classes in shorter side, aspect (width over height) and quality (nan: never JPEG)."""
    found: Likeness = {}
    for name, measured in (
        ("size", lambda: np.minimum(width, height)),
        ("aspect", lambda: width / np.maximum(height, 1)),
        ("quality", lambda: np.where(np.isnan(quality), NEVER, quality)),
    ):
        values = measured()  # one at a time: there may be millions
        found[name] = _rounded(ks(values[~synthetic], values[synthetic]))
    return found


def bytes_per_pixel(
    synthetic: NDArray[np.bool_], nbytes: NDArray[np.integer[Any]], pixels: NDArray[np.int64]
) -> Mapping[str, float | None]:
    """All bytes over all pixels of each class."""
    found: dict[str, float | None] = {}
    for name, rows in (("real", ~synthetic), ("synthetic", synthetic)):
        area = int(pixels[rows].sum())
        found[name] = round(int(nbytes[rows].sum()) / area, 4) if area else None
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
