"""All images of a work folder column by column, and what has been decided of them so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build.recipe import Screen

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Names = NDArray[np.object_]

COLUMNS = (
    *("id", "origin", "category", "generator", "source", "prompt", "pair_id", "group", "width", "height", "mode", "contrast"),
    *("codec", "quality", "subsampling", "nbytes", "sha256", "pixel_hash", "phash", "phash_mirror"),
)
"""The facts that balancing reads."""


class Pool:
    """One row an image, sorted by id. `reason` is None for what may stay; `split` and `group` are filled in as they are
    settled. `frozen`: images of an earlier version, which stay whatever speaks against them now."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.ids: list[str] = table["id"].to_pylist()
        self.id = names(table["id"])
        self.category, self.origin = names(table["category"]), names(table["origin"])
        self.generator, self.pair = names(table["generator"]), names(table["pair_id"])
        self.maker = names(pc.coalesce(table["generator"], table["source"], pa.scalar("unknown")))
        self.width, self.height = (table[side].to_numpy().astype(np.int64) for side in ("width", "height"))
        self.short = np.minimum(self.width, self.height)
        self.synthetic = self.origin == "synthetic"
        self.jpeg = np.asarray(pc.equal(table["codec"], "jpeg").to_numpy(), dtype=bool)
        self.quality = pc.cast(table["quality"], pa.float64()).to_numpy()
        n = len(self.ids)
        self.reason, self.detail, self.split, self.group = (np.full(n, None, dtype=object) for _ in range(4))
        self.frozen = np.zeros(n, dtype=bool)

    @property
    def stays(self) -> Flags:
        """Rows that nothing speaks against so far."""
        return np.array([reason is None for reason in self.reason.tolist()], dtype=bool)

    def reject(self, rows: Rows, reason: str, details: Iterable[str]) -> None:
        """Leave `rows` out, each with a sentence of its own."""
        for row, detail in zip(rows.tolist(), details, strict=True):
            if not self.frozen[row]:
                self.reason[row], self.detail[row] = reason, detail

    def bar(self, why: Mapping[str, tuple[str, str]]) -> None:
        """Leave out images whatever else there is, those of an earlier version too. `why`: id -> reason and sentence."""
        for row, name in enumerate(self.ids):
            if name in why:
                self.reason[row], self.detail[row] = why[name]
                self.frozen[row] = False

    def by(self, rows: Rows, *columns: Names) -> dict[tuple[str, ...], Rows]:
        """`rows` by their values in `columns`, sorted by these values."""
        found: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row, *key in zip(rows.tolist(), *(column[rows].tolist() for column in columns), strict=True):
            found[tuple(key)].append(row)
        return {key: np.array(found[key], dtype=np.int64) for key in sorted(found)}


def screen(pool: Pool, settings: Screen, sides: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Reject what is too poor whatever else there is; category -> pixels of the shortest side that may stay.

    `sides`: category -> the smallest and the largest crop.
    """
    least = {category: max(low, settings.min_side) for category, (low, _) in sides.items()}
    needs = np.array([least[category] for category in pool.category.tolist()], dtype=np.int64)
    long = np.maximum(pool.width, pool.height)
    contrast = pool.table["contrast"].to_numpy()
    grey = np.isin(names(pool.table["mode"]), ["L", "LA", "1", "I;16"])

    def rows(fault: Flags) -> Rows:
        return np.flatnonzero(fault & pool.stays)

    small = rows(pool.short < needs)
    pool.reject(small, "too-small", (f"its short side is {pool.short[i]} pixels, the smallest crop {needs[i]}" for i in small))
    lengthy = rows((long > settings.max_aspect * pool.short) & (settings.max_aspect > 0))
    size = (f"{pool.width[i]} x {pool.height[i]} is longer than {settings.max_aspect:g} to 1" for i in lengthy)
    pool.reject(lengthy, "too-long", size)
    blank = rows(contrast < settings.min_contrast)
    pool.reject(blank, "blank", (f"its grey values deviate by {contrast[i]:.2f} only" for i in blank))
    if not settings.grayscale:
        pool.reject(rows(grey), "grayscale", ("grey images are not welcome in this recipe" for _ in rows(grey)))
    return least


def names(column: pa.ChunkedArray) -> Names:
    """A column of text as numpy objects, None where there is nothing."""
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)
