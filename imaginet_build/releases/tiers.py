"""Nested tiers of a release: `tiny` in `small` in `full`, the same files read in part.

The groups of a split are put in an order of which every beginning resembles the whole, and files are cut where a tier ends, so
that a tier is the first files of each split. A tier holds as many real as synthetic images of every content type, as far as
whole groups allow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build.records import ORIGINS, SPLITS, seed_of
from imaginet_build.releases import release
from imaginet_build.releases.living import Previous

Rows = NDArray[np.integer[Any]]
Files = dict[str, dict[str, list[str]]]

SIZES = (("tiny", 0.01, 64, 10_000), ("small", 0.1, 640, 100_000))
"""Every tier but the last: its share of all rows, and the fewest and the most rows it has."""

FULL = "full"

_PLACES = 1_000_003
_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Arranged:
    """`names`: the tiers there are, the smallest first, without `full`. `place`: (n,) the first of them that a row is in;
    their number for what only `full` has."""

    names: tuple[str, ...]
    place: Rows


class Members:
    """The rows that a release adds, as far as tiers ask for them: a few numbers for each."""

    def __init__(self, most: int) -> None:
        """Room for `most` rows at once: of many small pieces the memory would never come back."""
        self.rows = 0
        kinds = {
            "split": np.int8,
            "group": np.int32,
            "category": np.int32,
            "maker": np.int32,
            "real": np.bool_,
            "spot": np.int32,
        }
        self._columns: dict[str, NDArray[Any]] = {
            name: np.empty(most, kind) for name, kind in (kinds | {"seed": np.int64}).items()
        }
        self._known: dict[str, dict[str, int]] = {"split": {}, "category": {}, "maker": {}}

    def add(self, rows: pa.Table) -> None:
        """More rows, with the columns category, origin, generator, source, split, group, and the group's `rank` by name."""
        names = rows["group"].to_pylist()
        found: dict[str, NDArray[Any]] = {
            "group": rows["rank"].to_numpy().astype(np.int32),
            "split": self._numbered("split", rows["split"]).astype(np.int8),
            "category": self._numbered("category", rows["category"]),
            "maker": self._numbered("maker", pc.coalesce(rows["generator"], rows["source"], pa.scalar(""))),
            "real": np.asarray(pc.equal(rows["origin"], ORIGINS[0]).to_numpy(), dtype=bool),
            # What follows from the name of a group alone, so that the names need not be kept.
            "seed": np.fromiter((seed_of(group, "tier") for group in names), np.int64, len(names)),
            "spot": np.fromiter((seed_of(group, "tier place") % _PLACES for group in names), np.int32, len(names)),
        }
        for name, values in found.items():
            self._columns[name][self.rows : self.rows + len(names)] = values
        self.rows += rows.num_rows

    def _numbered(self, kind: str, names: pa.ChunkedArray) -> NDArray[np.int32]:
        """A number for every name, by when it was first seen."""
        known = self._known[kind]
        found = names.combine_chunks().dictionary_encode()
        numbers = [known.setdefault(name, len(known)) for name in found.dictionary.to_pylist()]
        return np.asarray(np.array(numbers, dtype=np.int32)[found.indices.to_numpy()])

    def columns(self) -> dict[str, NDArray[Any]]:
        """All of them: numbers of split, category, maker and `group` (in the order of their names), `real`, and each group's
        `seed` and `spot`."""
        return {name: column[: self.rows] for name, column in self._columns.items()}


def before(previous: Previous | None) -> tuple[list[str], int]:
    """The tiers of the version before, and how many of its rows stay: what `arrange` asks for."""
    if previous is None:
        return [], 0
    return [name for name, *_ in SIZES if name in previous.manifest.get("tiers", {})], previous.staying.num_rows


def sizes(rows: int) -> dict[str, int]:
    """Rows of every tier of a release of `rows` rows; a tier of more than half of them is none."""
    wanted = {name: min(max(round(share * rows), least), most) for name, share, least, most in SIZES}
    return {name: size for name, size in wanted.items() if 2 * size <= rows}


def arrange(members: Members, before: Sequence[str] = (), rows_before: int = 0) -> Arranged:
    """The tier of every row that a release adds.

    `before`, `rows_before`: tiers and rows of the version it grows from. A tier keeps the rows it had; one that was not
    there is made of all older rows and the first new ones, or, where its end lies among the older rows, is not made.
    """
    rows = members.rows
    wanted = {name: size for name, size in sizes(rows + rows_before).items() if name in before or size > rows_before}
    names = tuple(name for name, *_ in SIZES if name in wanted or name in before)
    parts = [(i, (wanted[name] - rows_before) / rows) for i, name in enumerate(names) if name not in before]
    place = np.full(rows, len(names), dtype=np.int8)
    if parts:
        columns = members.columns()
        split = columns.pop("split")
        for one in np.unique(split).tolist():
            mine = split == one
            place[mine] = _arrange(columns, mine, parts, len(names))
    return Arranged(names, place)


def _arrange(
    rows: Mapping[str, NDArray[Any]], mine: NDArray[np.bool_], parts: Sequence[tuple[int, float]], last: int
) -> NDArray[np.int8]:
    """The tier of each row of one split. `rows`: as `Members.columns` gives them, `mine` of them; `parts`: a tier and its part
    of all rows."""
    # There may be millions of groups: nothing is kept longer than it is needed, and numbers are short.
    group, count = _numbers(rows["group"][mine])
    size = np.bincount(group, minlength=count).astype(np.int32)
    categories = int(rows["category"].max()) + 1
    maker = rows["maker"][mine].astype(np.int64) * categories + rows["category"][mine]
    cell, _ = _numbers(maker * 2 + rows["real"][mine])
    kind = _alike(cell[np.lexsort((cell, group))], size)
    del maker, cell
    at = _spread(kind, _of_groups(group, rows["seed"][mine], count), _of_groups(group, rows["spot"][mine], count))
    del kind
    order = np.argsort(at, kind="stable").astype(np.int32)  # where two are equal, by name: so they are numbered
    at = at[order]
    net = np.zeros((count, categories), dtype=np.int32)
    np.add.at(net, (group, rows["category"][mine]), np.where(rows["real"][mine], np.int32(1), np.int32(-1)))
    net = net[order]

    place = np.full(count, last, dtype=np.int8)
    taken = np.zeros(count, dtype=bool)
    for tier, part in parts:
        wider = _even(taken | (at < part), taken, at, part, net)
        place[order[wider & ~taken]] = tier
        taken = wider
    return place[group]


def _numbers(values: Rows) -> tuple[NDArray[np.int32], int]:
    """The number of every value among all different values, sorted, and how many there are."""
    if len(values) and values.max() < 1 << 22:  # in no time, and without sorting
        there = np.zeros(int(values.max()) + 1, dtype=bool)
        there[values] = True
        return (np.cumsum(there, dtype=np.int32) - np.int32(1))[values], int(there.sum())
    found, number = np.unique(values, return_inverse=True)
    return number.astype(np.int32), len(found)


def _of_groups(group: NDArray[np.int32], values: NDArray[Any], count: int) -> NDArray[Any]:
    """What all rows of a group say alike, by group."""
    found = np.zeros(count, dtype=values.dtype)
    found[group] = values
    return found


def _alike(cell: NDArray[np.int32], size: NDArray[np.int32]) -> NDArray[np.int32]:
    """The same number for groups of the same rows. `cell`: of every row, sorted by group and in it; `size`: rows by group."""
    start, kind = np.cumsum(size, dtype=np.int32) - size, np.zeros(len(size), dtype=np.int32)
    cells = int(cell.max()) + 1
    left, row, new = np.arange(len(size), dtype=np.int32), 0, 0
    while len(left):
        # Row after row: alike so far, and alike in this row. Groups that end here keep a number that none gets later.
        number, found = _numbers(kind[left].astype(np.int64) * cells + cell[start[left] + row])
        kind[left] = new + number
        row, new = row + 1, new + found
        left = left[size[left] > row]
    return kind


def _spread(kind: NDArray[np.int32], seed: Rows, spot: NDArray[np.int32]) -> NDArray[np.float64]:
    """The places of groups, those of one kind at equal distances from 0 to 1, in an order that nobody chose; one that is the
    only one of its kind stands anywhere."""
    order = np.lexsort((seed, kind))  # where two are equal, by name: so they are numbered
    first = np.flatnonzero(np.diff(kind[order], prepend=-1))
    many = np.diff(first, append=len(order))
    offset = np.where(many > 1, 0.5, spot[order[first]] / _PLACES)
    found = np.arange(len(order), dtype=np.float64)
    found -= np.repeat(first, many)
    found += np.repeat(offset, many)
    found /= np.repeat(many, many)
    places = np.empty(len(order))
    places[order] = found
    return places


def _even(
    chosen: NDArray[np.bool_], fixed: NDArray[np.bool_], at: NDArray[np.float64], end: float, net: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """`chosen` with the groups nearest to the `end` added or taken out until no label of any category is ahead, or nothing
    helps. `net`: (groups, categories) how many more real than synthetic images each has; `fixed` ones stay."""
    chosen = chosen.copy()
    while (ahead := net[chosen].sum(axis=0, dtype=np.int64)).any():
        helps = np.concatenate([_helps(chosen, fixed, ahead, net, start) for start in range(0, len(net), _AT_ONCE)])
        if not len(helps):
            break
        nearest = helps[np.argmin(np.abs(at[helps] - end))]
        chosen[nearest] = not chosen[nearest]
    return chosen


def _helps(
    chosen: NDArray[np.bool_], fixed: NDArray[np.bool_], ahead: Rows, net: NDArray[np.int32], start: int
) -> NDArray[np.int64]:
    """The groups, of a few from `start` on, that bring labels nearer to even where they are added or taken out."""
    some = slice(start, start + _AT_ONCE)
    after = np.abs(ahead + np.where(chosen[some, None], -net[some], net[some])).sum(axis=1)
    return start + np.flatnonzero((after < np.abs(ahead).sum()) & ~fixed[some])


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
