"""Connected components, and near-duplicate candidates linked only where a second opinion agrees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imaginet_build.errors import UsageError

Rows = NDArray[np.int64]
Confirm = Callable[[Rows, Rows], NDArray[np.bool_]]
"""Given rows i and j, (k,) int64 each: which of these pairs are near-duplicates indeed, (k,) bool."""

BUDGET = 20_000_000
"""The most pairs asked about among the rows of one hash, or of two: past it, rows that were not confirmed stay apart."""

_MANY, _FEW = 1 << 21, 1 << 16
_EDGE = 128
"""Bytes for an edge that is being settled."""

_ASK = 1 << 18
_log = logging.getLogger(__name__)


def components(n: int, edges: ArrayLike) -> Rows:
    """The connected component of each of `n` rows, named by its smallest row: (n,) int64. `edges`: (m, 2) row numbers.

    Raises `UsageError` for a row that does not exist.
    """
    pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n):
        raise UsageError(f"an edge names row {pairs.min() if pairs.min() < 0 else pairs.max()}, there are {n} rows")
    if not len(pairs):
        return np.arange(n, dtype=np.int64)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    return first_rows(label.astype(np.int64), count)[label]


def first_rows(place: Rows, count: int) -> Rows:
    """The first row at each of `count` places: (count,) int64; the number of rows where a place has none."""
    first = np.full(count, len(place), dtype=np.int64)
    np.minimum.at(first, place, np.arange(len(place)))
    return first


class Forest:
    """Edges among `n` rows as they come in. A row points at a smaller one it is connected with, or at itself, so that besides
    one number a row only the newest edges are held (union-find, a few million edges at a time, fewer in little `memory`)."""

    def __init__(self, n: int, memory: int | None = None) -> None:
        self._most = _MANY if memory is None else min(_MANY, max(memory // _EDGE, _FEW))
        self._parent: Rows = np.arange(n, dtype=np.int64)
        self._edges: list[Rows] = []
        self._count = 0
        self._flat = True

    def add(self, edges: Rows) -> None:
        """Connect the rows of each of `edges`, (m, 2) int64."""
        if len(edges):
            self._edges.append(edges)
            self._count += len(edges)
            if self._count > self._most:
                self._settle()

    def name(self, rows: Rows, smallest: Rows) -> None:
        """Connect each of `rows`, which nothing connects yet, with a row that is not larger."""
        self._parent[rows] = smallest

    def label(self) -> Rows:
        """The component of every row by the edges so far, named by its smallest row: (n,) int64, not to be written to."""
        self._settle()
        if not self._flat:
            parent = self._parent
            for at in range(0, len(parent), _ASK):
                block = parent[at : at + _ASK]
                # All pointers lead to smaller rows, and the blocks before this one are flat.
                while not np.array_equal(block, higher := parent[block]):
                    block[:] = higher
            self._flat = True
        return self._parent

    def _settle(self) -> None:
        if not self._count:
            return
        ends = self._roots(np.concatenate(self._edges))
        self._edges, self._count = [], 0
        ends = ends[ends[:, 0] != ends[:, 1]]
        if len(ends):
            roots, place = np.unique(ends, return_inverse=True)
            self._parent[roots] = roots[components(len(roots), place.reshape(-1, 2))]
            self._flat = False

    def _roots(self, rows: Rows) -> Rows:
        """The rows' components by what has been settled."""
        rows = self._parent[rows]
        while not np.array_equal(rows, higher := self._parent[rows]):
            rows = higher
        return rows


class Places:
    """Which rows are at each of `count` places: the inverse of `place`, (n,) int64."""

    def __init__(self, place: Rows, count: int) -> None:
        self.place = place
        self.order: Rows = np.argsort(place, kind="stable")
        self.start: Rows = np.searchsorted(place[self.order], np.arange(count + 1))
        self.size: Rows = np.diff(self.start)

    def rows(self, x: int) -> Rows:
        """The rows at place `x`, ascending."""
        return self.order[self.start[x] : self.start[x + 1]]

    def spread(self, label: Rows) -> tuple[Rows, Rows]:
        """The smallest and the largest label of the rows at each place; (n, -1) where a place has none."""
        low, high = np.full(len(self.size), len(label), dtype=np.int64), np.full(len(self.size), -1, dtype=np.int64)
        filled = self.size > 0
        if filled.any():
            sorted_label, start = label[self.order], self.start[:-1][filled]
            low[filled], high[filled] = np.minimum.reduceat(sorted_label, start), np.maximum.reduceat(sorted_label, start)
        return low, high


def crossed(x: Rows, y: Rows, left: Places, right: Places, most: int | None = None) -> Iterator[tuple[Rows, Rows]]:
    """All rows of `left` at place x[k] with all of `right` at place y[k], for every k, in pieces; at most `most` for each k."""
    count = left.size[x] * right.size[y]
    if most is not None:
        count = np.minimum(count, most)
    ends = np.cumsum(count)
    at = 0
    while at < len(x):
        stop = max(at + 1, int(np.searchsorted(ends, ends[at] - count[at] + _ASK, side="right")))
        which = slice(at, stop)
        # A place of very many rows fills pieces of its own.
        for begin in range(0, int(count[which].sum()), _ASK) if stop == at + 1 else [0]:
            part = np.minimum(count[which] - begin, _ASK) if stop == at + 1 else count[which]
            k = np.repeat(np.arange(at, stop), part)
            nth = np.arange(len(k)) - np.repeat(np.cumsum(part) - part, part) + begin
            i = left.order[left.start[x[k]] + nth // right.size[y[k]]]
            yield i, right.order[right.start[y[k]] + nth % right.size[y[k]]]
        at = stop


def link(places: Places, edges: Rows, confirm: Confirm, forest: Forest) -> None:
    """Connect in `forest` the rows whose places are equal or joined by `edges`, (m, 2), where `confirm` agrees.

    Asks about one pair for each row and each edge, and about more only where that left rows of those places unconnected: at
    most `BUDGET` for one edge or one place.
    """
    place, edges = places.place, edges[(places.size[edges] > 0).all(axis=1)]
    first = first_rows(place, len(places.size))

    def ask(i: Rows, j: Rows) -> None:
        label = forest.label()
        apart = label[i] != label[j]
        i, j = i[apart], j[apart]
        for at in range(0, len(i), _ASK):
            some = slice(at, at + _ASK)
            agreed = np.asarray(confirm(i[some], j[some]), dtype=np.bool_)
            forest.add(np.stack([i[some][agreed], j[some][agreed]], axis=1))

    ask(first[place], np.arange(len(place)))
    low, high = places.spread(forest.label())
    for crowded in np.flatnonzero(low < high):
        _within(places.rows(int(crowded)), ask, forest)
    x, y = edges.T
    ask(first[x], first[y])
    low, high = places.spread(forest.label())
    apart = (np.minimum(low[x], low[y]) != np.maximum(high[x], high[y])) & (places.size[x] * places.size[y] > 1)
    for i, j in crossed(x[apart], y[apart], places, places, BUDGET):
        ask(i, j)


def _within(rows: Rows, ask: Callable[[Rows, Rows], None], forest: Forest) -> None:
    """Link rows of one hash: each row in turn is compared with all after it, until they are one or the budget is spent."""
    asked, at = 0, 1
    while at < len(rows) and asked < BUDGET:
        label = forest.label()[rows]
        if (label == label[0]).all():
            return
        ask(np.full(len(rows) - at - 1, rows[at]), rows[at + 1 :])
        asked += len(rows) - at - 1
        at += 1
    if at < len(rows):
        _log.warning("%d images share one hash and differ: only the first %d were compared with all others", len(rows), at)
