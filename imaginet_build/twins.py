"""Who is a twin of whom, and what must stay together.

Twins are near-duplicates of the same origin: one of them is kept. Near-duplicates across the origins would carry both labels:
both are rejected as `label-conflict`. Rows of one picture (a pair, crops of one photograph) are grouped and never removed as
twins of each other, because an autoencoder's reconstruction is a near-duplicate on purpose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from imaginet_build import dedup, hamming

Rows = np.typing.NDArray[np.int64]
Hashes = np.typing.NDArray[np.uint64]
Confirm = Callable[[int, int, bool], bool]
"""Whether rows i and j (or i and the mirror image of j) are near-duplicates indeed."""


@dataclass(frozen=True, slots=True)
class Twins:
    """What was found among n rows. `twin_of[i]`: the kept row that row i is a twin of, else -1. `conflict[i]`: a row of
    the other origin that row i resembles, else -1. `near`, `group`: (n,) the component of each row over near-duplicates alone,
    and over everything that must not straddle a split; a component is named by its first row."""

    twin_of: Rows
    conflict: Rows
    near: Rows
    group: Rows


def find(table: pa.Table, radius: int, confirm: Confirm | None = None) -> Twins:
    """Twins, conflicts and groups of a facts table (columns id, origin, pixel_hash, phash, phash_mirror, pair_id, group,
    prompt, width, height; sorted by id). `radius`: bits of the 64-bit pHash that may differ, also against mirror images.

    Exact copies are always near; other pairs are asked about through `confirm` where it is given.
    """
    n = table.num_rows
    synthetic = np.array([origin == "synthetic" for origin in table["origin"].to_pylist()], dtype=bool)
    pixels = _codes(table["pixel_hash"])
    picture = dedup.components(n, np.concatenate([_same(_codes(table["group"])), _same(_codes(table["pair_id"]))]))
    hashes = table["phash"].to_numpy().astype(np.uint64)
    mirrors = table["phash_mirror"].to_numpy().astype(np.uint64)
    near = _Near(hashes, mirrors, pixels, picture + n * synthetic, radius, confirm)

    def strange(row: int, same_class: bool, k: int) -> bool:
        return bool(synthetic[k] == synthetic[row]) == same_class and bool(picture[k] != picture[row])

    twin_of = np.full(n, -1, dtype=np.int64)
    conflict = np.full(n, -1, dtype=np.int64)
    edges = [_same(pixels)]
    kept: list[int] = []
    for row in _best_first(table, picture, synthetic):
        # Of the rows kept so far, only those of the same class and of another picture can make this one a twin.
        match = next(near.of(row, partial(strange, row, True)), None)
        if match is None:
            near.add(row)
            kept.append(row)
        else:
            twin_of[row] = match
            edges.append(np.array([[row, match]]))
    for row in kept:
        for k in near.of(row, partial(strange, row, False)):
            conflict[row], conflict[k] = k, row
            edges.append(np.array([[row, k]]))
    links = np.concatenate(edges)
    together = np.concatenate([links, _same(picture), _same(_codes(table["prompt"])), _same(near.looks())])
    return Twins(twin_of, conflict, dedup.components(n, links), dedup.components(n, together))


class _Near:
    """Rows by what they look like; answers which of the rows added so far resemble a row.

    Of the rows of one picture and class that share a hash, the first stands for all: a million crops of one sky cost no more
    than one.
    """

    def __init__(
        self, hashes: Hashes, mirrors: Hashes, pixels: Rows, kinds: Rows, radius: int, confirm: Confirm | None
    ) -> None:
        values, place = np.unique(np.concatenate([hashes, mirrors]), return_inverse=True)
        self.at, self.back = place[: len(hashes)], place[len(hashes) :]
        self.hashes, self.mirrors, self.radius = hashes, mirrors, radius
        self.pixels, self.kinds, self.confirm = pixels, kinds, confirm
        found = [pairs for pairs in hamming.near(values, radius, dedup.MEMORY) if len(pairs)]
        self.pairs = np.concatenate([*found, np.stack([self.at, self.back], axis=1)])
        self.beside: dict[int, list[int]] = defaultdict(list)
        for pairs in found:
            for a, b in pairs.tolist():
                self.beside[a].append(b)
                self.beside[b].append(a)
        self.upright: dict[int, dict[int, int]] = defaultdict(dict)
        self.mirrored: dict[int, dict[int, int]] = defaultdict(dict)
        self.exact: dict[int, dict[int, int]] = defaultdict(dict)

    def looks(self) -> Rows:
        """A number for each row, equal along any chain of resemblance, confirmed or not: what splits must not part."""
        return dedup.components(int(self.pairs.max()) + 1 if len(self.pairs) else 0, self.pairs)[self.at]

    def add(self, row: int) -> None:
        kind = int(self.kinds[row])
        self.upright[int(self.at[row])].setdefault(kind, row)
        self.mirrored[int(self.back[row])].setdefault(kind, row)
        self.exact[int(self.pixels[row])].setdefault(kind, row)

    def of(self, row: int, eligible: Callable[[int], bool]) -> Iterator[int]:
        """The eligible rows added so far that resemble `row`: exact copies first, then by hash, then by mirrored hash."""
        yield from (k for k in self.exact.get(int(self.pixels[row]), {}).values() if eligible(k))
        here = int(self.at[row])
        places = [here, *self.beside.get(here, ())]
        for table, flipped in ((self.upright, False), (self.mirrored, True)):
            for k in (k for place in places for k in table.get(place, {}).values() if eligible(k)):
                if self.pixels[k] == self.pixels[row]:
                    continue
                # A true mirror image is one both ways; one way alone is two alike portraits.
                if flipped and int(self.mirrors[row] ^ self.hashes[k]).bit_count() > self.radius:
                    continue
                if self.confirm is None or self.confirm(row, k, flipped):
                    yield k


def _best_first(table: pa.Table, picture: Rows, synthetic: np.typing.NDArray[np.bool_]) -> list[int]:
    """Rows in the order in which they may stay: those with a partner of the other origin, then the larger, then by id."""
    both = np.zeros((len(picture), 2), dtype=bool)
    both[picture, synthetic.astype(int)] = True
    alone = ~(both[:, 0] & both[:, 1])[picture]
    area = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
    return [int(row) for row in np.lexsort((np.arange(len(picture)), -area, alone))]


def _codes(column: pa.ChunkedArray) -> Rows:
    """A number for every value, equal for equal values; -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _same(codes: Rows) -> Rows:
    """Edges that tie the rows of equal code together: from each to the first of its code. -1 ties nothing."""
    rows = np.flatnonzero(codes >= 0)
    _, first, place = np.unique(codes[rows], return_index=True, return_inverse=True)
    return np.stack([rows, rows[first[place]]], axis=1)
