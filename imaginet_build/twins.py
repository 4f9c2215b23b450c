"""Who is a twin of whom, and what must stay together.

Twins are near-duplicates of the same origin: one of them is kept. Near-duplicates across the origins would carry both labels:
both are rejected as `label-conflict`, and so is every twin of theirs. Rows of one picture (a pair, crops of one photograph) are
grouped and never removed as twins of each other, because an autoencoder's reconstruction is a near-duplicate on purpose; nor is
the reconstruction of a photograph's twin a conflict.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build import dedup, hamming
from imaginet_build.errors import UsageError

Rows = np.typing.NDArray[np.int64]
Flags = np.typing.NDArray[np.bool_]
Hashes = np.typing.NDArray[np.uint64]
Closer = Callable[[Rows, bool], Hashes]
"""A closer look: the 256-bit pHashes, (k, 4) uint64, of the k rows asked for, or of their mirror images."""

SLACK = 2
"""More bits between the hash of a JPEG decoded small and that of a full decode: nearly all scaled hashes are this near."""

SURE = 6
"""Up to here 64 bits seldom err, and `dedup.CONFIRM_RADIUS` confirms: two views of one scene may be 80 of 256 bits apart."""

STRICT = 56
"""Bits of 256 that may differ where more than `SURE` of the 64 do: recompressed, resized, blurred, brighter and slightly
cropped copies stay below 50 there, aligned portraits of two people begin at 62."""

LOOKS = 64
"""Candidates that one row is compared with: a crowd under one hash, all different from each other, costs no more."""

CHAIN = 64
"""Rows that resemblance alone may tie into one group. Among very many alike portraits chance would tie all of them."""

PAIRS = 20_000_000
"""Near pairs of distinct hashes that are held in memory."""


@dataclass(frozen=True, slots=True)
class Twins:
    """What was found among n rows. `twin_of[i]`: the kept row that row i is a twin of, else -1. `conflict[i]`: a row of the
    other origin that row i or a twin of it resembles, else -1. `near`, `group`: (n,) the component of each row over
    near-duplicates alone, and over everything that must not straddle a split; a component is named by its first row."""

    twin_of: Rows
    conflict: Rows
    near: Rows
    group: Rows


def find(
    table: pa.Table,
    radius: int,
    closer: Closer | None = None,
    rank: Rows | None = None,
    *,
    also: Rows | None = None,
    memory: int = dedup.MEMORY,
    folder: Path | None = None,
) -> Twins:
    """Twins, conflicts and groups of a facts table (columns id, origin, codec, pixel_hash, phash, phash_mirror, pair_id, group,
    prompt, width, height; sorted by id). `radius`: bits of the 64-bit pHash that may differ, also against mirror images (both
    ways), and `SLACK` more between a JPEG and what is none, unless it is 0.

    Exact copies are always near; other pairs are confirmed by 256 bits where `closer` is given. `rank`, (n,): of twins the one
    of the lowest rank stays; rows of negative rank (blank ones) take no part. Within a rank, those stay whose picture has
    images of both origins, then the larger picture, then the first by id. `also`, (n,): rows of one number belong into one
    group, for another reason than these columns know. `memory`, `folder`: as in `dedup.groups`. Raises `UsageError` where more
    than `PAIRS` pairs are near.
    """
    n = table.num_rows
    rank = np.zeros(n, dtype=np.int64) if rank is None else rank
    synthetic = np.asarray(pc.equal(table["origin"], "synthetic").to_numpy(), dtype=bool)
    picture = dedup.components(n, np.concatenate([_same(_codes(table["group"])), _same(_codes(table["pair_id"]))]))
    near = _Near(table, radius, closer, rank >= 0, memory, folder)
    busy = [row for row in _best_first(table, picture, synthetic, rank) if near.busy[row]]

    twin_of = np.full(n, -1, dtype=np.int64)
    stay = (_Index(near), _Index(near))
    for row in busy:
        same = stay[int(synthetic[row])]
        match = next(same.like(row, picture), None)
        if match is None:
            same.add(row, picture)
        else:
            twin_of[row] = match
    twins = np.stack([np.flatnonzero(twin_of >= 0), twin_of[twin_of >= 0]], axis=1)

    # A pair of a photograph and its reconstruction, and a twin of either: still one picture, not two labels.
    picture = dedup.components(n, np.concatenate([_same(picture), twins]))
    every = (_Index(near), _Index(near))
    for row in busy:
        every[int(synthetic[row])].add(row, picture)
    conflict = np.full(n, -1, dtype=np.int64)
    for row in busy:
        conflict[row] = next(every[1 - int(synthetic[row])].like(row, picture), -1)
    found = np.stack([np.flatnonzero(conflict >= 0), conflict[conflict >= 0]], axis=1)
    # Whose own search ended elsewhere is in conflict all the same; and so are all twins of such a row.
    lonely = found[conflict[found[:, 1]] < 0]
    conflict[lonely[:, 1]] = lonely[:, 0]
    for left, right in ((twins[:, 0], twins[:, 1]), (twins[:, 1], twins[:, 0])):
        doubt = (conflict[left] >= 0) & (conflict[right] < 0)
        conflict[right[doubt]] = conflict[left[doubt]]

    links = np.concatenate([near.copies(), twins, found])
    together = [links, _same(picture), _same(_codes(table["prompt"])), _same(near.looks())]
    together += [] if also is None else [_same(also)]
    return Twins(twin_of, conflict, dedup.components(n, links), dedup.components(n, np.concatenate(together)))


class _Near:
    """What every row looks like, and which hashes are near which."""

    def __init__(
        self, table: pa.Table, radius: int, closer: Closer | None, part: Flags, memory: int, folder: Path | None
    ) -> None:
        n = table.num_rows
        self.memory, self.folder = memory, folder
        self.part, self.confirms, self.radius = part, closer is not None, radius
        self.pixels = np.where(part, _codes(table["pixel_hash"]), -1)
        # One row speaks for all its exact copies: they need no second look.
        self.speaker = np.arange(n)
        copies = self.copies()
        self.speaker[copies[:, 0]] = copies[:, 1]
        speaks = part & (self.speaker == np.arange(n))
        self.hash = table["phash"].to_numpy().astype(np.uint64)[self.speaker]
        self.mirror = table["phash_mirror"].to_numpy().astype(np.uint64)[self.speaker]
        self.scaled = np.asarray(pc.equal(table["codec"], "jpeg").to_numpy(), dtype=bool)[self.speaker]
        self.slack = SLACK if radius and self.scaled[part].any() and not self.scaled[part].all() else 0

        self.values, place = np.unique(np.concatenate([self.hash, self.mirror]), return_inverse=True)
        self.at, self.back = place[:n], place[n:]
        count = len(self.values)
        uprights, mirrors = (np.bincount(where[speaks], minlength=count) for where in (self.at, self.back))
        self.edges = self._near_places(uprights, mirrors)
        a, b = np.concatenate([self.edges, self.edges[:, ::-1]]).T
        uprights, mirrors = (
            own + np.bincount(a, weights=own[b], minlength=count).astype(np.int64) for own in (uprights, mirrors)
        )
        itself = np.bitwise_count(self.hash ^ self.mirror) <= radius + self.slack
        flipped = (mirrors[self.at] > itself) & (uprights[self.back] > itself)
        asks = part & ((uprights[self.at] > 1) | flipped)
        copied = part & (np.bincount(self.speaker, minlength=n)[self.speaker] > 1)
        self.busy = asks | copied
        self.beside: dict[int, list[int]] = defaultdict(list)
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            self.beside[x].append(y)
        self.long = _look(closer, np.flatnonzero(asks & speaks), False)
        self.long_mirror = _look(closer, np.flatnonzero(asks & speaks & flipped), True)

    def _near_places(self, upright: Rows, mirrored: Rows) -> Rows:
        """Pairs of places with rows that could be near each other: (m, 2)."""
        found = [np.zeros((0, 2), dtype=np.int64)]
        total = 0
        for pairs in hamming.near(self.values, self.radius + self.slack, self.memory, folder=self.folder):
            a, b = pairs.T
            any_rows = (upright[a] > 0) & (upright[b] + mirrored[b] > 0) | (upright[b] > 0) & (mirrored[a] > 0)
            found.append(pairs[any_rows])
            total += len(found[-1])
            if total > PAIRS:
                raise UsageError(f"more than {PAIRS:,} near pairs at radius {self.radius}: lower balance.radius")
        return np.concatenate(found)

    def copies(self) -> Rows:
        """Edges among exact copies."""
        return _same(self.pixels)

    def looks(self) -> Rows:
        """A number for each row, equal along a chain of resemblance, confirmed or not: what splits should not part. -1 for what
        resembles nothing and for chains of more than `CHAIN` rows, which chance has made."""
        near, count = self.edges, len(self.values)
        if self.slack:
            kinds = np.zeros((count, 2), dtype=bool)
            kinds[self.at, self.scaled.astype(int)] = kinds[self.back, self.scaled.astype(int)] = True
            a, b = near.T
            mixed = (kinds[a, 0] & kinds[b, 1]) | (kinds[a, 1] & kinds[b, 0])
            near = near[np.bitwise_count(self.values[a] ^ self.values[b]) <= self.radius + self.slack * mixed]
        rows = np.flatnonzero(self.busy)
        label = dedup.components(count, np.concatenate([near, np.stack([self.at[rows], self.back[rows]], axis=1)]))[self.at]
        label[~self.part] = -1
        size = np.bincount(label[self.part], minlength=count)
        label[self.part & (size[label] > CHAIN)] = -1
        return label

    def resemble(self, i: int, j: int, mirrored: bool) -> bool:
        """Whether rows of near places are near indeed."""
        limit = self.radius + (self.slack if self.scaled[i] != self.scaled[j] else 0)
        here, there = int(self.hash[i]), int(self.hash[j])
        if mirrored:
            # A true mirror image is one both ways; one way alone is two alike portraits.
            bits = max((here ^ int(self.mirror[j])).bit_count(), (there ^ int(self.mirror[i])).bit_count())
        else:
            bits = (here ^ there).bit_count()
        if bits > limit or not self.confirms:
            return bits <= limit
        mine, other = self.long[self.speaker[i]], (self.long_mirror if mirrored else self.long)[self.speaker[j]]
        return (mine ^ other).bit_count() <= (dedup.CONFIRM_RADIUS if bits <= SURE else STRICT)


class _Index:
    """Rows of one origin by what they look like. Of the rows of one picture under one hash, the first stands for all: a million
    crops of one sky cost no more than one."""

    def __init__(self, near: _Near) -> None:
        self.near = near
        self.exact: dict[int, dict[int, int]] = defaultdict(dict)
        self.upright: dict[int, dict[int, int]] = defaultdict(dict)
        self.mirrored: dict[int, dict[int, int]] = defaultdict(dict)

    def add(self, row: int, picture: Rows) -> None:
        near, name = self.near, int(picture[row])
        self.exact[int(near.pixels[row])].setdefault(name, row)
        self.upright[int(near.at[row])].setdefault(name, row)
        self.mirrored[int(near.back[row])].setdefault(name, row)

    def like(self, row: int, picture: Rows) -> Iterator[int]:
        """The rows of other pictures that resemble `row`: exact copies first, then by hash, then by mirrored hash."""
        near, name = self.near, int(picture[row])
        yield from (k for other, k in self.exact.get(int(near.pixels[row]), {}).items() if other != name)
        here = int(near.at[row])
        places = [here, *near.beside.get(here, ())]
        left = LOOKS
        for table, flipped in ((self.upright, False), (self.mirrored, True)):
            for place in places:
                for other, k in table.get(place, {}).items():
                    if other == name or near.pixels[k] == near.pixels[row]:
                        continue
                    if near.resemble(row, k, flipped):
                        yield k
                    left -= 1
                    if not left:
                        return


def _look(closer: Closer | None, rows: Rows, mirrored: bool) -> dict[int, int]:
    """256-bit hashes as whole numbers, by row."""
    if closer is None or not len(rows):
        return {}
    hashes = np.ascontiguousarray(closer(rows, mirrored).astype(">u8"))
    return {row: int.from_bytes(bits.tobytes(), "big") for row, bits in zip(rows.tolist(), hashes, strict=True)}


def _best_first(table: pa.Table, picture: Rows, synthetic: Flags, rank: Rows) -> list[int]:
    """Rows in the order in which they may stay; the rows of one picture follow each other, so that it stays whole."""
    n = len(picture)
    both = np.zeros((n, 2), dtype=bool)
    both[picture, synthetic.astype(int)] = True
    alone = ~(both[:, 0] & both[:, 1])[picture]
    area = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
    largest = np.zeros(n, dtype=np.int64)
    np.maximum.at(largest, picture, area)
    order = np.lexsort((np.arange(n), -area, picture, -largest[picture], alone, rank))
    return [int(row) for row in order if rank[row] >= 0]


def _codes(column: pa.ChunkedArray) -> Rows:
    """A number for every value, equal for equal values; -1 for null and for the empty text, which names nothing."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    empty = encoded.dictionary.index("").as_py()
    return np.where(codes == empty, -1, codes) if empty >= 0 else codes


def _same(codes: Rows) -> Rows:
    """Edges that tie the rows of equal code together: from each to the first of its code. -1 ties nothing."""
    rows = np.flatnonzero(codes >= 0)
    _, first, place = np.unique(codes[rows], return_index=True, return_inverse=True)
    return np.stack([rows, rows[first[place]]], axis=1)
