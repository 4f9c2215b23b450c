"""Near-duplicates among 64-bit perceptual hashes: exact pairs, mirror images, confirmation, and the groups they connect.

Arrays in, arrays out: nothing here reads an image. `hamming` holds the search, `connect` the components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imaginet_build.duplicates import hamming
from imaginet_build.duplicates.connect import BUDGET, Confirm, Forest, Places, Rows, components, crossed, first_rows, link
from imaginet_build.errors import UsageError

__all__ = ["CONFIRM_RADIUS", "Confirm", "components", "by_chance", "confirm_by", "default_radius", "groups", "pairs", "union"]

CONFIRM_RADIUS = 90
"""256-bit pHashes this near show one picture (precision .999, recall .991 on 400 photographs with 11 edits each)."""

MEMORY = 1 << 30
"""Bytes for the working arrays of a search, unless the caller says otherwise."""

_WAITING = 1 << 20
_BLOCK = 1 << 20
_SORTING, _MOST_PARTS = 40, 1024
_LARGEST = np.uint64(2**64 - 1)


def default_radius(n: int) -> int:
    """The radius for `n` images: the largest, up to 6, at which chance adds at most 2.5 false pairs a million images.

    That is 6 up to 1.1 million images, 5 up to 11 million and 4 up to 135 million (the binomial tail of 64 fair bits). Radius
    6 sees 91 % of the usual edits of a photograph. Above 6 it is not chance that misleads but likeness: portraits alone lie
    within 8 bits of each other, so a wider net is the caller's choice and wants `confirm_by`.
    """
    tail, best = 1, 0
    for radius in range(1, 7):
        tail += math.comb(64, radius)
        if n * tail <= 5e-6 * 2**64:
            best = radius
    return best


def by_chance(n: int, radius: int) -> float:
    """How many pairs of `n` hashes lie within `radius` bits of each other if all hashes are equally likely."""
    return n * (n - 1) / 2 * sum(math.comb(64, bits) for bits in range(radius + 1)) / 2.0**64


def union(n: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """`components` with plain integers in and out."""
    return [int(group) for group in components(n, list(edges))]


def groups(
    hashes: ArrayLike,
    radius: int,
    confirm: Confirm | None = None,
    *,
    mirrored: ArrayLike | None = None,
    confirm_mirrored: Confirm | None = None,
    memory: int = MEMORY,
    folder: Path | None = None,
) -> Rows:
    """The near-duplicate group of every hash: (n,) int64, the number of the smallest row in the group.

    `hashes`: (n,) uint64. Rows whose hashes differ in at most `radius` (0-64) bits are connected; a group is a connected
    component. Exact at any radius, and the partition does not depend on the order of the rows.

    `mirrored`: (n,) uint64, the hashes of the mirror images. Two rows are then connected, too, where the hash of each lies
    within `radius` of the mirrored hash of the other: both ways, since mirror images agree both ways and chance seldom does.
    `confirm(i, j)` is asked about candidate pairs and may refuse them; `confirm_mirrored(i, j)` about row i and the mirror
    image of row j (without it those pairs stand). Rows that are connected already are not asked about. See `confirm_by`.
    `memory`: bytes for the working arrays of the search. Past it the hashes are sorted range by range on disk, below `folder`
    (else where temporary files go), with the same groups. On top come the distinct hashes and two numbers a row, or nine with
    `mirrored` or a `confirm`.

    A million hashes of photographs, which spread, take less than ten seconds at radius 6; a million that all lie within a few
    bits of one another take about three times as long.

    Raises `UsageError` for a radius or shapes that make no sense, `BuildError` where the disk cannot hold the hashes.
    """
    if mirrored is None and confirm is None:
        return _plain(_checked(hashes), _radius(radius), memory, folder)
    search = _Search(hashes, radius, mirrored, memory, folder)
    n, own = search.n, search.own
    forest = Forest(n, memory)
    edges: list[Rows] = [np.zeros((0, 2), dtype=np.int64)]
    first = first_rows(own.place, len(search.values))
    if confirm is None:
        forest.add(np.stack([first[own.place], np.arange(n)], axis=1))
    mirrors: list[Rows] = [] if search.other is None else [search.same()]
    waiting = 0
    for found in search.near(None if confirm is not None or confirm_mirrored is not None else forest.label):
        direct = found[(own.size[found] > 0).all(axis=1)]
        if confirm is None:
            forest.add(first[direct])
        else:
            edges.append(direct)
        if search.other is not None:
            mirrors.append(found)
            waiting += len(found)
        if waiting > _WAITING and confirm is None:
            search.reflect(np.concatenate(mirrors), confirm_mirrored, forest)
            mirrors, waiting = mirrors[:0], 0
    if confirm is not None:
        link(own, np.concatenate(edges), confirm, forest)
    if mirrors:
        search.reflect(np.concatenate(mirrors), confirm_mirrored, forest)
    return forest.label()


def _plain(hashes: NDArray[np.uint64], radius: int, memory: int, folder: Path | None) -> Rows:
    """`groups` by the hashes alone."""
    forest = Forest(len(hashes), memory)
    values, first = _distinct(hashes, memory, forest)
    for found in hamming.near(values, radius, memory, lambda: forest.label()[first], folder):
        forest.add(first[found])
    return forest.label()


def _distinct(hashes: NDArray[np.uint64], memory: int, forest: Forest) -> tuple[NDArray[np.uint64], Rows]:
    """The distinct hashes, sorted, and the first row of each; rows of one hash are connected in `forest`."""
    distinct, firsts = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    parts = min(-(-_SORTING * len(hashes) // max(memory, 1)), _MOST_PARTS)
    # Quantiles of a sample; what is quantile twice is so frequent that it is a range of its own, which needs no sorting.
    quantiles = np.sort(hashes[:: max(len(hashes) // 65536, 1)])
    edges = quantiles[np.arange(1, parts) * len(quantiles) // parts] if parts > 1 else quantiles[:0]
    edges = np.unique(np.concatenate([edges, edges[edges < _LARGEST] + np.uint64(1)]))
    for low, high in itertools.pairwise([None, *edges.tolist(), None]):
        rows = _between(hashes, low, high)
        held = hashes if rows is None else hashes[rows]
        if not len(held):
            continue
        if held.min() == held.max():
            order, start = None, np.zeros(1, dtype=np.int64)
            values, first = held[:1].copy(), np.zeros(1, dtype=np.int64)
        else:
            order = np.argsort(held, kind="stable")
            held = held[order]
            start = np.flatnonzero(np.concatenate([[True], held[1:] != held[:-1]]))
            values, first = held[start], order[start]
        first = first if rows is None else rows[first]
        if len(first) < len(held):
            size = np.diff(np.append(start, len(held)))
            members = np.arange(len(held)) if order is None else order
            members = members if rows is None else rows[members]
            forest.name(members, np.repeat(first, size))
        distinct.append(values)
        firsts.append(first)
    # One after the other: both lists and both arrays at once would be the most this search ever holds.
    found = np.concatenate(distinct)
    distinct.clear()
    return found, np.concatenate(firsts)


def _between(hashes: NDArray[np.uint64], low: int | None, high: int | None) -> Rows | None:
    """The rows with `low` <= hash < `high`; None where all are."""
    if low is None and high is None:
        return None
    found = []
    for at in range(0, len(hashes), _BLOCK):
        block = hashes[at : at + _BLOCK]
        inside = np.ones(len(block), dtype=np.bool_) if low is None else block >= np.uint64(low)
        if high is not None:
            inside &= block < np.uint64(high)
        found.append(np.flatnonzero(inside) + at)
    return np.concatenate(found)


def _radius(radius: int) -> int:
    if isinstance(radius, bool) or not isinstance(radius, int | np.integer) or not 0 <= radius <= 64:
        raise UsageError(f"radius {radius} is not a number of bits of a 64-bit hash: give a whole number, 0 to 64")
    return radius


class _Search:
    """The distinct hashes of a call, who has them, and the candidate pairs among them."""

    def __init__(
        self, hashes: ArrayLike, radius: int, mirrored: ArrayLike | None, memory: int, folder: Path | None = None
    ) -> None:
        self.radius, self.memory, self.folder = _radius(radius), memory, folder
        self.hashes = _checked(hashes)
        self.mirrored = None if mirrored is None else _checked(mirrored)
        self.n = n = len(self.hashes)
        if self.mirrored is not None and len(self.mirrored) != n:
            raise UsageError(f"{n} hashes but {len(self.mirrored)} mirrored hashes: give one of each a row")
        both = self.hashes if self.mirrored is None else np.concatenate([self.hashes, self.mirrored])
        self.values, place = np.unique(both, return_inverse=True)
        self.own = Places(place[:n], len(self.values))
        self.other = None if self.mirrored is None else Places(place[n:], len(self.values))

    def same(self) -> Rows:
        """Every place paired with itself."""
        return np.stack([np.arange(len(self.values))] * 2, axis=1)

    def near(self, label: Callable[[], Rows] | None) -> Iterator[Rows]:
        """Pairs of places within the radius; with `label`, those that would connect no rows may be left out."""

        def settled() -> Rows:
            assert label is not None
            low, high = self._spread(label())
            # A place whose rows are not one component yet must still meet its neighbours.
            return np.where(low == high, low, self.n + np.arange(len(low)))

        yield from hamming.near(self.values, self.radius, self.memory, settled if label is not None else None, self.folder)

    def _spread(self, label: Rows) -> tuple[Rows, Rows]:
        low, high = self.own.spread(label)
        if self.other is None:
            return low, high
        low2, high2 = self.other.spread(label)
        return np.minimum(low, low2), np.maximum(high, high2)

    def mirror_pairs(self, found: Rows, label: Rows | None = None) -> Iterator[tuple[Rows, Rows]]:
        """Rows i, j such that i's hash lies within the radius of j's mirrored hash and the other way round."""
        assert self.other is not None
        assert self.mirrored is not None
        x, y = np.concatenate([found, found[found[:, 0] != found[:, 1]][:, ::-1]]).T
        if label is not None:
            low, high = self._spread(label)
            apart = np.minimum(low[x], low[y]) != np.maximum(high[x], high[y])
            x, y = x[apart], y[apart]
        for i, j in crossed(x, y, self.own, self.other, BUDGET if label is not None else None):
            both = np.bitwise_count(self.mirrored[i] ^ self.hashes[j]) <= self.radius
            keep = both & (i != j)
            yield i[keep], j[keep]

    def reflect(self, found: Rows, confirm: Confirm | None, forest: Forest) -> None:
        """Connect mirror images among the rows of pairs of places."""
        for i, j in self.mirror_pairs(found, forest.label()):
            if confirm is not None and len(i):
                label = forest.label()
                apart = label[i] != label[j]
                some, others = i[apart], j[apart]
                agreed = np.asarray(confirm(some, others), dtype=np.bool_)
                forest.add(np.stack([some[agreed], others[agreed]], axis=1))
            else:
                forest.add(np.stack([i, j], axis=1))


def pairs(
    hashes: ArrayLike,
    radius: int,
    *,
    mirrored: ArrayLike | None = None,
    memory: int = MEMORY,
    limit: int = 20_000_000,
) -> Rows:
    """Every pair of rows whose hashes differ in at most `radius` bits: (m, 2) int64, i < j, sorted, each once.

    With `mirrored`, (n,) uint64, the pairs of mirror images instead: the hash of each row lies within `radius` of the mirrored
    hash of the other. Raises `UsageError` where there are more than `limit` pairs: `groups` does without listing them.
    """
    search = _Search(hashes, radius, mirrored, memory)
    out: list[Rows] = [np.zeros((0, 2), dtype=np.int64)]
    total = 0
    for found in itertools.chain([search.same()], search.near(None)):
        if search.other is None:
            pieces = crossed(found[:, 0], found[:, 1], search.own, search.own)
        else:
            pieces = search.mirror_pairs(found)
        for i, j in pieces:
            # Rows of one hash meet twice, as do most mirror images.
            keep = i < j if search.other is None and found[0, 0] == found[0, 1] else i != j
            out.append(np.stack([np.minimum(i, j)[keep], np.maximum(i, j)[keep]], axis=1))
            total += len(out[-1])
            if total > 2 * limit:
                raise _too_many(limit, radius)
    listed = np.unique(np.concatenate(out), axis=0)
    if len(listed) > limit:
        raise _too_many(limit, radius)
    return listed


def _too_many(limit: int, radius: int) -> UsageError:
    return UsageError(f"more than {limit:,} near pairs at radius {radius}: lower the radius, or ask for groups instead")


def confirm_by(hashes: ArrayLike, others: ArrayLike | None = None, radius: int = CONFIRM_RADIUS) -> Confirm:
    """A `confirm` for `groups` from 256-bit hashes, (n, 4) uint64 (`images.confirm_hash`): pairs within `radius` bits agree.

    `others`: the hashes of the second of each pair, where they are not the first's: of mirror images, for `confirm_mirrored`.
    """
    left = np.ascontiguousarray(hashes, dtype=np.uint64).reshape(-1, 4)
    right = left if others is None else np.ascontiguousarray(others, dtype=np.uint64).reshape(-1, 4)

    def confirm(i: Rows, j: Rows) -> NDArray[np.bool_]:
        near: NDArray[np.bool_] = np.bitwise_count(left[i] ^ right[j]).sum(axis=1, dtype=np.int64) <= radius
        return near

    return confirm


def _checked(hashes: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(hashes)
    if array.ndim == 1 and array.dtype.kind in "fO" and not isinstance(hashes, np.ndarray):
        # Python's whole numbers, of which numpy makes floats or objects where some are above 2**63.
        listed = array.astype(object) if array.dtype.kind == "O" else np.array(hashes, dtype=object)
        if all(isinstance(value, int | np.integer) and 0 <= value < 2**64 for value in listed):
            array = listed.astype(np.uint64)
        elif all(isinstance(value, int | np.integer) for value in listed):
            wrong = next(value for value in listed if not 0 <= value < 2**64)
            raise UsageError(f"{wrong} is no 64-bit hash: give 0 to 2**64 - 1")
    if array.ndim != 1 or (array.size and array.dtype.kind not in "ui"):
        raise UsageError(f"hashes are one whole number a row, not {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise UsageError(
            f"{array.min()} is no 64-bit hash: give 0 to 2**64 - 1; signed ones of a file are hashes.view('uint64')"
        )
    return array.astype(np.uint64, copy=False)
