"""How each kept image becomes its row of the `equalized` view: one law for each category, fitted or taken over."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from imaginet_build.balancing import equalize
from imaginet_build.balancing.equalize import Law, Views
from imaginet_build.balancing.pool import Pool, Rows, names
from imaginet_build.recipe import Equalize
from imaginet_build.records import ORIGINS

log = logging.getLogger(__name__)


def sides(settings: Equalize, pool: Pool, frozen: Mapping[str, Law]) -> dict[str, tuple[int, int]]:
    """The smallest and largest side of a crop, by category. `frozen`: the laws of an earlier version, which stay."""
    shorts: dict[str, dict[str, Rows]] = defaultdict(dict)
    for (category, origin), rows in pool.by(np.arange(len(pool.ids)), pool.category, pool.origin).items():
        shorts[category][origin] = pool.short[rows]
    return {
        category: frozen[category].sides if category in frozen else equalize.sides_of(settings, by_origin)
        for category, by_origin in shorts.items()
    }


def fit(settings: Equalize, pool: Pool, sides: Mapping[str, tuple[int, int]], frozen: Mapping[str, Law]) -> dict[str, Law]:
    """The law of every category that keeps images, and those of an earlier version."""
    kept = pool.stays
    chroma = names(pool.table["subsampling"])
    jpegs = np.flatnonzero(kept & pool.jpeg & ~pool.synthetic & ~np.isnan(pool.quality))
    laws = dict(frozen)
    for category in np.unique(pool.category[kept].astype(str)).tolist():
        own = jpegs[pool.category[jpegs] == category]
        own = own if len(own) >= equalize.ENOUGH else jpegs
        fitted = equalize.fit(settings, sides[category], pool.quality[own].astype(np.int64), chroma[own].tolist())
        laws.setdefault(category, fitted)
    return laws


def draw(pool: Pool, laws: Mapping[str, Law]) -> list[tuple[Rows, Views]]:
    """The views of all that is kept and was not drawn before."""
    drawn = []
    for (category, _), cell in pool.by(np.flatnonzero(pool.stays & ~pool.frozen), pool.category, pool.split).items():
        halves = [cell[pool.origin[cell] == origin] for origin in ORIGINS]
        seen = [_seen(pool, rows) for rows in halves]
        looks = equalize.match(laws[category], seen[0], seen[1])
        drawn += [(rows, equalize.views(laws[category], s, look)) for rows, s, look in zip(halves, seen, looks, strict=True)]
    return drawn


def check(settings: Equalize, pool: Pool, views: Sequence[tuple[Rows, Views]]) -> None:
    """Warn where half of all crops are smaller than the recipe asks for, and say which images hold them down."""
    sides = np.concatenate([np.zeros(0, dtype=np.int64), *(view.looks.side for _, view in views)])
    wanted = settings.side_median
    if wanted is None or not len(sides) or (median := float(np.median(sides))) >= wanted:
        return
    rows = np.concatenate([rows for rows, _ in views])
    small = Counter(f"{pool.category[row]} of {pool.maker[row]}" for row in rows[pool.short[rows] < wanted].tolist())
    held = ", ".join(f"{count:,} {name}" for name, count in small.most_common(3))
    log.warning(
        "half of the crops have %g pixels or fewer, and equalize.side_median asks for %d: %s. Raise equalize.side_draws, give "
        "the sources larger images (screen.min_side), or ask for less",
        median, wanted, f"the images of {held} are smaller than that" if held else "sides are drawn too small",
    )  # fmt: skip


def _seen(pool: Pool, rows: Rows) -> equalize.Images:
    ids = [pool.ids[row] for row in rows.tolist()]
    return equalize.Images(ids, pool.width[rows], pool.height[rows], pool.jpeg[rows], pool.pair[rows].tolist())
