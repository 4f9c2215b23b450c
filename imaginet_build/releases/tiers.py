"""Nested tiers of a release: `tiny` in `small` in `full`, the same files read in part.

The groups of a split are put in an order of which every beginning resembles the whole, and files are cut where a tier ends, so
that a tier is the first files of each split. A tier holds as many real as synthetic images of every content type, as far as
whole groups allow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build.records import ORIGINS, SPLITS, seed_of
from imaginet_build.releases import release
from imaginet_build.releases.living import Previous

Rows = NDArray[np.int64]
Files = dict[str, dict[str, list[str]]]

SIZES = (("tiny", 0.01, 64, 10_000), ("small", 0.1, 640, 100_000))
"""Every tier but the last: its share of all rows, and the fewest and the most rows it has."""

FULL = "full"


@dataclass(frozen=True, slots=True)
class Arranged:
    """`names`: the tiers there are, the smallest first, without `full`. `place`: (n,) the first of them that a row is in;
    their number for what only `full` has."""

    names: tuple[str, ...]
    place: Rows


def arranged(kept: pa.Table, previous: Previous | None) -> tuple[tuple[str, ...], pa.Table]:
    """The tiers there are, and `kept` with a column `tier`, sorted by split, tier and id."""
    before = [name for name, *_ in SIZES if previous is not None and name in previous.manifest.get("tiers", {})]
    found = arrange(kept, before, previous.staying.num_rows if previous else 0)
    table = kept.append_column("tier", pa.array(found.place, pa.int64()))
    # Freed memory goes back first: what is sorted lies there twice.
    pa.system_memory_pool().release_unused()
    return found.names, table.sort_by([(column, "ascending") for column in ("split", "tier", "id")]).combine_chunks()


def sizes(rows: int) -> dict[str, int]:
    """Rows of every tier of a release of `rows` rows; a tier of more than half of them is none."""
    wanted = {name: min(max(round(share * rows), least), most) for name, share, least, most in SIZES}
    return {name: size for name, size in wanted.items() if 2 * size <= rows}


def arrange(kept: pa.Table, before: Sequence[str] = (), rows_before: int = 0) -> Arranged:
    """The tier of every row that a release adds. `kept`: columns id, category, origin, generator, source, split, group.

    `before`, `rows_before`: tiers and rows of the version it grows from. A tier keeps the rows it had; one that was not
    there is made of all older rows and the first new ones, or, where its end lies among the older rows, is not made.
    """
    rows = kept.num_rows
    wanted = {name: size for name, size in sizes(rows + rows_before).items() if name in before or size > rows_before}
    names = tuple(name for name, *_ in SIZES if name in wanted or name in before)
    parts = [(i, (wanted[name] - rows_before) / rows) for i, name in enumerate(names) if name not in before]
    place = np.full(rows, len(names), dtype=np.int64)
    if parts:
        some = kept.select(["category", "origin", "generator", "source", "group"])
        split = np.asarray(kept["split"].to_numpy(zero_copy_only=False), dtype=object)
        for one in SPLITS:
            mine = np.flatnonzero(split == one)
            if len(mine):
                place[mine] = _arrange(some.take(mine), parts, len(names))
    return Arranged(names, place)


def _arrange(kept: pa.Table, parts: Sequence[tuple[int, float]], last: int) -> Rows:
    """The tier of each row of one split. `parts`: a tier and its part of all rows."""
    category, categories = _numbered(kept["category"])
    maker, makers = _numbered(pc.coalesce(kept["generator"], kept["source"], pa.scalar("")))
    label = (kept["origin"].to_numpy(zero_copy_only=False) == ORIGINS[0]).astype(np.int64)
    cell = (category * len(makers) + maker) * 2 + label
    group, groups = _numbered(kept["group"])
    net = np.zeros((len(groups), len(categories)), dtype=np.int64)
    np.add.at(net, (group, category), 2 * label - 1)

    order = np.lexsort((cell, group))
    ends = np.cumsum(np.bincount(group, minlength=len(groups))).tolist()
    alike: dict[bytes, list[int]] = defaultdict(list)
    for number, (start, end) in enumerate(pairwise([0, *ends])):
        alike[cell[order[start:end]].tobytes()].append(number)
    at = np.zeros(len(groups))
    for same in alike.values():
        at[same] = _spread([groups[number] for number in same])
    order = np.array(sorted(range(len(groups)), key=lambda number: (at[number], groups[number])))
    at, net = at[order], net[order]

    place = np.full(len(groups), last, dtype=np.int64)
    taken = np.zeros(len(groups), dtype=bool)
    for tier, part in parts:
        wider = _even(taken | (at < part), taken, at, part, net)
        place[order[wider & ~taken]] = tier
        taken = wider
    return place[group]


def _numbered(names: pa.ChunkedArray) -> tuple[Rows, list[str]]:
    """The number of every row's name, and the names by number."""
    found = names.combine_chunks().dictionary_encode()
    return found.indices.to_numpy().astype(np.int64), found.dictionary.to_pylist()


def _spread(groups: Sequence[str]) -> NDArray[np.float64]:
    """The places of groups of one composition: at equal distances from 0 to 1, in an order that nobody chose; a single one
    stands anywhere."""
    seeds = [seed_of(group, "tier") for group in groups]
    order = sorted(range(len(groups)), key=lambda number: (seeds[number], groups[number]))
    offset = 0.5 if len(order) > 1 else seed_of(groups[0], "tier place") % 1_000_003 / 1_000_003
    places = np.empty(len(groups))
    places[order] = (np.arange(len(groups)) + offset) / len(groups)
    return places


def _even(
    chosen: NDArray[np.bool_], fixed: NDArray[np.bool_], at: NDArray[np.float64], end: float, net: Rows
) -> NDArray[np.bool_]:
    """`chosen` with the groups nearest to the `end` added or taken out until no label of any category is ahead, or nothing
    helps. `net`: (groups, categories) how many more real than synthetic images each has; `fixed` ones stay."""
    chosen = chosen.copy()
    while (ahead := net[chosen].sum(axis=0)).any():
        after = np.abs(ahead + np.where(chosen[:, None], -net, net)).sum(axis=1)
        helps = np.flatnonzero((after < np.abs(ahead).sum()) & ~fixed)
        if not len(helps):
            break
        nearest = helps[np.argmin(np.abs(at[helps] - end))]
        chosen[nearest] = not chosen[nearest]
    return chosen


def files(
    names: Sequence[str],
    views: Sequence[str],
    shards: Sequence[release.Shard],
    held: Collection[str],
    before: Mapping[str, Mapping[str, Sequence[str]]],
) -> Files:
    """By tier and split the paths of its files, relative to the release: `tiny`, `small` and `full` of the first view, and of
    every other with its name added (`tiny-native`).

    `shards`: what this version adds. `held`: the paths of all files that there are. `before`: the same of the version it grows
    from.
    """
    added = {shard.path(view) for shard in shards for view in views}
    older = sorted((path for path in held if path not in added), key=release.in_order)
    found: Files = {}
    for view in views:
        folder = f"data/{view}/"
        for number, name in enumerate([*names, FULL]):
            key = name if view == views[0] else f"{name}-{view}"
            by_split: dict[str, list[str]] = {}
            for split in SPLITS:
                those = before[key].get(split, ()) if key in before and name != FULL else older
                mine = [path for path in those if path in held and path.startswith(f"{folder}{split}-")]
                mine += [s.path(view) for s in shards if s.split == split and s.tier <= number]
                if mine:
                    by_split[split] = mine
            if by_split and (name != FULL or view == views[0]):
                found[key] = by_split
    return dict(sorted(found.items()))  # the order that JSON keeps them in
