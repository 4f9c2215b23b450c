"""Groups into train, calibration and test: whole, and every stratum in its share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from imaginet_build.errors import UsageError
from imaginet_build.records import SPLITS, Split, seed_of

Rows = np.typing.NDArray[np.int64]
Shares = np.typing.NDArray[np.float64]


def assign(
    groups: Sequence[str],
    strata: Sequence[str],
    shares: Mapping[Split, float],
    seed: int,
    test_only: Sequence[bool] = (),
    cells: Sequence[str] = (),
) -> list[Split]:
    """The split of every row. `groups`, `strata`, `cells`: one name a row; a cell is made of whole strata.

    Rows of a group go together; every stratum, and every cell, is divided in `shares` as nearly as its groups allow, and a
    split that has nothing of a cell yet comes first, so that small data sets reach every split. Groups with a row marked in
    `test_only` go to the test split and do not count against the share of those that are not. Which groups go where is
    decided by a hash of seed and group name. Raises `UsageError` where rows are for the test only and there is no test.
    """
    names = [split for split in SPLITS if shares.get(split, 0) > 0]
    share = np.array([shares[split] for split in names])
    held = np.array(test_only, dtype=bool) if len(test_only) else np.zeros(len(groups), dtype=bool)
    if held.any() and "test" not in names:
        raise UsageError("held_out needs a test split: give balance.splits.test a share, or take held_out (hold_out) away")
    code, known = numbered(groups)
    kind, kinds = numbered(strata)
    cell, several = numbered(cells if len(cells) else strata)
    surplus = _Surplus(share, len(kinds), len(several))
    key = np.array([seed_of(name, f"split {seed}") for name in known], dtype=np.int64)
    choice = np.zeros(len(known), dtype=np.int64)

    forced = np.zeros(len(known), dtype=bool)
    forced[code[held]] = True
    if held.any():
        choice[forced] = names.index("test")
        along = forced[code] & ~held
        given = np.zeros(len(names), dtype=np.int64)
        given[names.index("test")] = 1
        for k, c in zip(kind[along].tolist(), cell[along].tolist(), strict=True):
            surplus.add(np.array([k]), np.array([c]), np.ones(1), given)

    free = np.flatnonzero(~forced[code])
    for members, row_kinds, row_cells in _alike(code[free], kind[free], cell[free]):
        own, places, counts = np.unique(row_kinds, return_index=True, return_counts=True)
        given = surplus.divide(len(members), own, row_cells[places], counts.astype(float))
        choice[members[np.argsort(key[members], kind="stable")]] = np.repeat(np.arange(len(names)), given)
    return [names[number] for number in choice[code].tolist()]


def numbered(names: Sequence[str]) -> tuple[Rows, list[str]]:
    """Every name as a number, in the order of the names, and the names."""
    encoded = pa.array(names, pa.string()).dictionary_encode()
    known: list[str] = encoded.dictionary.to_pylist()
    order = sorted(range(len(known)), key=known.__getitem__)
    rank = np.empty(len(known), dtype=np.int64)
    rank[order] = np.arange(len(known))
    return rank[encoded.indices.to_numpy()], [known[i] for i in order]


def _alike(code: Rows, kind: Rows, cell: Rows) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Groups whose rows are of the same strata, the largest groups first: their numbers, and stratum and cell of each row."""
    order = np.lexsort((kind, code))
    code, kind, cell = code[order], kind[order], cell[order]
    start = np.flatnonzero(np.r_[True, code[1:] != code[:-1]]) if len(code) else np.zeros(0, dtype=np.int64)
    size = np.diff(np.r_[start, len(code)])
    for rows in sorted(set(size.tolist()), reverse=True):
        first = start[size == rows]
        table = kind[first[:, None] + np.arange(rows)]
        _, example, which = np.unique(table, axis=0, return_index=True, return_inverse=True)
        by_kind = np.argsort(which.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(which.ravel()))
        for number, members in enumerate(np.split(by_kind, ends[:-1])):
            at = first[example[number]]
            yield code[first[members]], kind[at : at + rows], cell[at : at + rows]


class _Surplus:
    """How many rows more than its share each split holds, of every stratum and of every cell."""

    def __init__(self, share: Shares, kinds: int, cells: int) -> None:
        self.share = share
        self.kinds, self.cells = np.zeros((len(share), kinds)), np.zeros((len(share), cells))
        self.held = np.zeros((len(share), cells), dtype=bool)

    def divide(self, n: int, kinds: Rows, cells: Rows, counts: Shares) -> Rows:
        """How many of `n` groups with `counts` rows of `kinds` go to each split: the nearest whole numbers to what the shares,
        less what each split has too much of, ask for (least squares over strata and cells)."""
        named, place = np.unique(cells, return_inverse=True)
        sums = np.bincount(place.ravel(), weights=counts)
        over = self.kinds[:, kinds] @ counts + self.cells[:, named] @ sums
        asked = np.maximum(self.share * n - over / (counts @ counts + sums @ sums), 0)
        asked *= n / asked.sum()
        given = np.floor(asked + 1e-9).astype(np.int64)
        empty = ~self.held[:, named].all(axis=1) & (given == 0) & (asked > 1e-9)
        # The small split first where two ask for the same.
        order = np.lexsort((self.share, -np.round(asked - given, 9), ~empty))
        given[order[: n - int(given.sum())]] += 1
        self.add(kinds, cells, counts, given)
        return given

    def add(self, kinds: Rows, cells: Rows, counts: Shares, given: Rows) -> None:
        """Note that `given` groups with `counts` rows of `kinds` in `cells` went to each split."""
        more = given - self.share * given.sum()
        self.kinds[:, kinds] += more[:, None] * counts
        for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
            self.cells[:, cell] += more * count
        self.held[np.ix_(given > 0, cells)] = True
