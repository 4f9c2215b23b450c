"""Every pair of distinct 64-bit hashes within a Hamming radius, exactly.

Cut the 64 bits into m bands: two hashes within r bits of each other agree on at least m - r of them. So for each choice of
c = m - r bands, move the chosen bands to the top, sort, and look only among neighbours with equal tops. A pair is reported for
the first choice of bands it agrees on, so each pair comes once. Where bands would not pay (large radius, few hashes) every pair
is compared. Multi-index hashing (Norouzi, Punjani and Fleet, 2012), with sorting in place of hash tables.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imaginet_build.errors import BuildError

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

_BLOCK = 1 << 16
_TILE = 1 << 11
_DEEP = 48
_PROBES = 32
_MOST_PARTS = 256
_SORTING = 24
"""Bytes for each hash that is being moved and sorted."""

_PAIR = 96
"""Bytes for each pair of a tile, if all of them are near: the comparison, their places, and the edge that it becomes."""

_FULL = (1 << 64) - 1
# Nanoseconds for moving and sorting a hash, looking at a neighbour, comparing a pair in a tile: their ratios choose the plan.
_SORT, _LOOK, _COMPARE = 16.0, 12.0, 1.6


@dataclass(frozen=True, slots=True)
class _Choice:
    """Some bands of the 64 bits, as (low bit, width) pieces, the chosen bands first; `bits`: how many bits they have."""

    chosen: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]
    bits: int


def _bands(m: int) -> list[tuple[int, int]]:
    """The 64 bits in `m` bands of nearly equal width, as (low bit, width)."""
    edges = [64 * i // m for i in range(m + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


def _choices(m: int, c: int) -> Iterator[_Choice]:
    bands = _bands(m)
    for chosen in itertools.combinations(range(m), c):
        rest = [i for i in range(m) if i not in chosen]
        pieces: list[tuple[int, int]] = []
        for i in (*chosen, *rest):
            low, width = bands[i]
            # Neighbouring bands that keep their order move in one piece; no piece spans chosen and other bands.
            if pieces and sum(pieces[-1]) == low and rest and i != rest[0]:
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + width)
            else:
                pieces.append((low, width))
        yield _Choice(chosen, tuple(pieces), sum(bands[i][1] for i in chosen))


def plan(n: int, radius: int) -> tuple[int, int] | None:
    """How many bands and how many of them to choose, cheapest for `n` random hashes; None: compare every pair."""
    best, cheapest = None, _COMPARE * n * n / 2
    for c in range(1, 9):
        m = radius + c
        if m > 64:
            break
        look = n * n / 2 * 2.0 ** (-64 * c / m)
        cost = math.comb(m, c) * (n * _SORT + look * _LOOK + 20_000)
        if cost < cheapest:
            best, cheapest = (m, c), cost
    return best


def _moved(values: Hashes, pieces: tuple[tuple[int, int], ...], back: bool = False) -> Hashes:
    """The bits of every hash rearranged, the first piece highest; `back` undoes it."""
    out = np.zeros_like(values)
    top = 64
    for low, width in pieces:
        top -= width
        here, there = (top, low) if back else (low, top)
        part = values >> np.uint64(here)
        part &= np.uint64((1 << width) - 1)
        part <<= np.uint64(there)
        out |= part
    return out


def _sorted(values: Hashes, choice: _Choice, part: int, parts: int) -> Hashes:
    """The rearranged hashes whose tops fall into one of `parts` ranges, sorted."""
    shift = np.uint64(64 - (parts.bit_length() - 1))
    out = []
    for at in range(0, len(values), _BLOCK):
        moved = _moved(values[at : at + _BLOCK], choice.pieces)
        out.append(moved if parts == 1 else moved[moved >> shift == part])
    joined = np.concatenate(out)
    joined.sort()
    return joined


def _ordered(values: Hashes, choice: _Choice, parts: int, folder: Path | None) -> Iterator[Hashes]:
    """The rearranged hashes in sorted order, in one piece, or in `parts` by way of the disk."""
    if parts == 1:
        yield _sorted(values, choice, 0, 1)
        return
    shift = np.uint64(64 - (parts.bit_length() - 1))
    try:
        with tempfile.TemporaryDirectory(prefix="imaginet-hashes-", dir=folder) as spilled:
            paths = [Path(spilled, str(part)) for part in range(parts)]
            with ExitStack() as stack:
                files = [stack.enter_context(path.open("wb")) for path in paths]
                for at in range(0, len(values), _BLOCK):
                    moved = _moved(values[at : at + _BLOCK], choice.pieces)
                    # Sorting a block by its range alone would cost as much as sorting it.
                    moved.sort()
                    edges = np.searchsorted(moved >> shift, np.arange(parts + 1, dtype=np.uint64))
                    for file, (start, stop) in zip(files, itertools.pairwise(edges.tolist()), strict=True):
                        moved[start:stop].tofile(file)
            for path in paths:
                part = np.fromfile(path, dtype=np.uint64)
                path.unlink()
                part.sort()
                yield part
    except OSError as error:
        where = folder or tempfile.gettempdir()
        why = os.strerror(error.errno) if error.errno else error
        raise BuildError(
            f"{8 * len(values):,} bytes of hashes cannot be sorted on disk in {where}: {why}. "
            "Make room there, name another folder, or allow more memory"
        ) from error


def near(
    values: Hashes, radius: int, memory: int, settled: Callable[[], Rows] | None = None, folder: Path | None = None
) -> Iterator[Rows]:
    """Pairs of positions in `values` (sorted, distinct) whose hashes differ in at most `radius` bits: (k, 2) each, i < j.

    `memory`: bytes for the working arrays; more hashes than fit are sorted range by range on disk, in `folder` (else where
    temporary files go). A range is a 256th of the hashes at least, and those of equal chosen bands are never parted. Each pair
    comes once. With `settled`, which returns the current component of every position, pairs inside one component may be left
    out: only what they connect is promised, and crowded hashes cost little more than it takes to connect them.
    """
    n = len(values)
    if radius == 0 or n < 2:
        return
    chosen = plan(n, radius)
    if radius >= 64 and settled is not None:
        yield np.stack([np.zeros(max(n - 1, 0), dtype=np.int64), np.arange(1, n)], axis=1)
        return
    if chosen is None:
        yield from _compare(values, radius, settled, memory)
        return
    m, c = chosen
    deferred: list[tuple[_Choice, int, int]] = []
    fresh = 0
    crowded: Rows | None = None
    for choice in _choices(m, c):
        if settled is not None and fresh > n // 2:
            label = settled()
            if (label == label[0]).all():
                return
            # More pairs than hashes in one choice: from here on it pays to leave out what is connected before looking at it.
            crowded = label if crowded is not None or fresh > n else None
            fresh = 0
        parts = 1
        need = _SORTING * n * (1 if crowded is None else 2)
        while parts < min(2**choice.bits, _MOST_PARTS) and need > memory * parts:
            parts *= 2
        for part, ordered in enumerate(_ordered(values, choice, parts, folder)):
            sought = ordered if crowded is None else _mixed(values, ordered, choice, crowded)
            for first, second in _scan(sought, choice.bits, radius, deep=settled is not None):
                if first is None or second is None:
                    deferred.append((choice, part, parts))
                else:
                    found = _first_seen(first, second, choice, m)
                    if len(found[0]):
                        fresh += len(found[0])
                        yield _places(values, found)
    for choice, part, parts in deferred:
        assert settled is not None
        yield from _runs(values, _sorted(values, choice, part, parts), choice, radius, settled, memory)


def _scan(ordered: Hashes, bits: int, radius: int, deep: bool) -> Iterator[tuple[Hashes | None, Hashes | None]]:
    """Near pairs among neighbours with equal tops; with `deep`, of `_DEEP` neighbours, and (None, None) if there are more."""
    n = len(ordered)
    limit = np.uint64(1 << (64 - bits)) if bits else np.uint64(_FULL)
    longer = False
    for at in range(0, n - 1, _BLOCK):
        left = ordered[at : at + _BLOCK]
        right = ordered[at + 1 : at + 1 + _BLOCK]
        differ = left[: len(right)] ^ right
        index = np.flatnonzero(differ < limit)
        differ = differ[index]
        index += at
        step = 1
        while len(index):
            hit = index[np.bitwise_count(differ) <= radius]
            if len(hit):
                yield ordered[hit], ordered[hit + step]
            step += 1
            if deep and step > _DEEP:
                longer = True
                break
            index = index[: np.searchsorted(index, n - step)]
            differ = ordered[index] ^ ordered[index + step]
            inside = differ < limit
            index, differ = index[inside], differ[inside]
    if longer:
        yield None, None


def _first_seen(first: Hashes, second: Hashes, choice: _Choice, m: int) -> tuple[Hashes, Hashes]:
    """Those pairs of rearranged hashes whose first agreeing bands are the chosen ones, in their own bit order again."""
    first, second = _moved(first, choice.pieces, back=True), _moved(second, choice.pieces, back=True)
    differ = first ^ second
    last = choice.chosen[-1]
    own = np.ones(len(differ), dtype=np.bool_)
    for i, (low, width) in enumerate(_bands(m)[: last + 1]):
        if i not in choice.chosen:
            own &= (differ >> np.uint64(low)) & np.uint64((1 << width) - 1) != 0
    return first[own], second[own]


def _places(values: Hashes, found: tuple[Hashes, Hashes]) -> Rows:
    first, second = (np.searchsorted(values, side) for side in found)
    return np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _mixed(values: Hashes, ordered: Hashes, choice: _Choice, label: Rows) -> Hashes:
    """Those of the rearranged hashes that have neighbours of another component among those of equal tops."""
    if not len(ordered):
        return ordered
    own = label[np.searchsorted(values, _moved(ordered, choice.pieces, back=True))]
    starts = _starts(ordered, choice)
    several = np.minimum.reduceat(own, starts) != np.maximum.reduceat(own, starts)
    found: Hashes = ordered[np.repeat(several, np.diff(np.append(starts, len(ordered))))]
    return found


def _starts(ordered: Hashes, choice: _Choice) -> Rows:
    """Where each run of equal tops begins."""
    edges = np.flatnonzero((ordered[1:] ^ ordered[:-1]) >= np.uint64(1 << (64 - choice.bits))) + 1
    return np.concatenate([[0], edges])


def _runs(
    values: Hashes, ordered: Hashes, choice: _Choice, radius: int, settled: Callable[[], Rows], memory: int
) -> Iterator[Rows]:
    """The long runs of one choice, compared in full unless they are one component already."""
    label, fresh = settled(), False
    ordered = _mixed(values, ordered, choice, label)
    if not len(ordered):
        return
    starts = _starts(ordered, choice)
    ends = np.append(starts[1:], len(ordered))
    long = ends - starts > _DEEP
    for start, end in zip(starts[long], ends[long], strict=True):
        places = np.sort(np.searchsorted(values, _moved(ordered[start:end], choice.pieces, back=True)))

        def here(places: Rows = places) -> Rows:
            nonlocal label, fresh
            if fresh:
                label, fresh = settled(), False
            return label[places]

        for found in _compare(values[places], radius, here, memory):
            fresh = True
            yield places[found]


def _compare(values: Hashes, radius: int, settled: Callable[[], Rows] | None, memory: int) -> Iterator[Rows]:
    """Every pair compared, in tiles of which no more is held at once than `memory` allows. With `settled`, pairs inside one
    component are left out, and a few hashes are compared with all others first: in a crowd they connect nearly all of it."""
    n = len(values)
    order, label = np.arange(n), None
    if settled is not None:
        label = settled()
        for _ in range(_PROBES if n > _DEEP else 0):
            names, size = np.unique(label, return_counts=True)
            if len(names) == 1:
                return
            # The first of the smaller ones: what is connected with it was alone or in a crumb so far.
            probe = int(np.flatnonzero(label == names[np.argmin(size)])[0])
            hit = np.flatnonzero((np.bitwise_count(values ^ values[probe]) <= radius) & (label != label[probe]))
            if len(hit) * _PROBES < n:
                break
            yield np.stack([np.minimum(hit, probe), np.maximum(hit, probe)], axis=1)
            label = settled()
        order = np.argsort(label, kind="stable")
        values, label = values[order], label[order]
    height = int(np.clip(memory // (_PAIR * _TILE), 1, _TILE))
    fresh = 0
    for top in range(0, n, height):
        if label is not None and settled is not None and fresh > max(n // 2, height * _TILE):
            label, fresh = settled()[order], 0
        if label is not None and (label == label[0]).all():
            return
        for left in range(top, n, _TILE):
            rows, columns = slice(top, min(top + height, n)), slice(left, left + _TILE)
            apart = None
            if label is not None:
                mine, theirs = label[rows], label[columns]
                low, high = mine.min(), mine.max()
                if low == high and (theirs == low).all():
                    continue
                if low <= theirs.max() and theirs.min() <= high:
                    apart = mine[:, None] != theirs[None, :]
            hit = np.bitwise_count(values[rows, None] ^ values[None, columns]) <= radius
            if apart is not None:
                hit &= apart
            i, j = np.nonzero(np.triu(hit, 1) if top == left else hit)
            if len(i):
                fresh += len(i)
                i, j = order[i + top], order[j + left]
                yield np.stack([np.minimum(i, j), np.maximum(i, j)], axis=1)
