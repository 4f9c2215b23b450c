"""Which images are near each other: what each looks like, and whom it is compared with.

Nothing is left out for its number: rows under one hash or among near ones are compared in one sweep, and a crowd that is too
large for that is named and tied together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build import dedup
from imaginet_build.duplicates import hamming
from imaginet_build.duplicates.connect import Places
from imaginet_build.errors import UsageError

log = logging.getLogger(__name__)

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

CROWD = 20_000
"""Different images of one origin under one hash that every row is compared with. A crowd above that is one group, aloud."""

CHAIN = 64
"""Rows that a resemblance which the closer look refused may tie into one group: among very many alike portraits chance would
tie all of them. What it confirms is tied whatever the number."""

PAIRS = 20_000_000
"""Near pairs of distinct hashes that are held in memory."""

_SMALL, _BLOCK = 24, 1 << 14
_SWEEP, _FEW = 250, 4000
"""To compare a row with as many others in one sweep costs what looking up one place does; and this many are always swept."""


class Near:
    """What every row looks like, and which hashes are near which."""

    def __init__(
        self, table: pa.Table, radius: int, closer: Closer | None, part: Flags, memory: int, folder: Path | None
    ) -> None:
        n = table.num_rows
        self.memory, self.folder = memory, folder
        self.part, self.confirms, self.radius = part, closer is not None, radius
        self.pixels = np.where(part, codes(table["pixel_hash"]), -1)
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
        order = np.argsort(a, kind="stable")
        self._neighbours, self._start = b[order], np.searchsorted(a[order], np.arange(count + 1))
        self.bucket = self._buckets(asks & speaks)
        self.full: set[int] = set()
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

    def _buckets(self, rows: Flags) -> Rows:
        """Where the rows of each place are held: places that nearly all neighbour each other share a bucket, and what is in it
        is compared in one sweep; elsewhere, and where a place is a crowd, each place has its own."""
        count = len(self.values)
        chain = dedup.components(count, self.edges)
        held = np.maximum(*(np.bincount(where[rows], minlength=count) for where in (self.at, self.back)))
        total, links = (np.bincount(x, weights=w, minlength=count) for x, w in ((chain, held), (chain[self.edges[:, 0]], None)))
        most = np.zeros(count, dtype=np.int64)
        np.maximum.at(most, chain, held)
        places = np.maximum(np.bincount(chain, minlength=count), 1)
        dense = (total < _SWEEP * (2 * links / places) + _FEW) & (most <= CROWD)
        bucket: Rows = np.where(dense[chain], chain, np.arange(count))
        # A chain is named by its first place: as a bucket it must hold all of them or be that place's own.
        self.shared = dense[chain]
        return bucket

    def around(self, place: int) -> list[int]:
        """The place and those near it."""
        return [place, *self._neighbours[self._start[place] : self._start[place + 1]].tolist()]

    def buckets(self, place: int) -> list[int]:
        """The buckets in which rows near `place` are."""
        return [int(self.bucket[place])] if self.shared[place] else self.around(place)

    def crowds(self, ids: pa.ChunkedArray) -> list[Rows]:
        """Edges that tie all rows at or near each place which more than `CROWD` different images share."""
        if not self.full:
            return []
        ties = []
        at, back = (Places(np.where(self.busy, where, len(self.values)), len(self.values)) for where in (self.at, self.back))
        for place in sorted(self.full):
            near = self.around(place)
            rows = np.unique(np.concatenate([where.rows(x) for where in (at, back) for x in near]))
            log.warning(
                "%s images lie within the radius of one pHash, %016x (%s is one), more than %s of them different: each was "
                "compared with the first %s of each origin, and all of them are one group, so that no copy straddles the "
                "splits; twins and label conflicts among the others may remain. Remove the source that has them, or lower "
                "balance.radius",
                *(f"{len(rows):,}", int(self.values[place]), ids[int(rows[0])].as_py(), f"{CROWD:,}", f"{CROWD:,}"),
            )
            ties.append(np.stack([rows, np.full(len(rows), rows[0])], axis=1))
        return ties

    def copies(self) -> Rows:
        """Edges among exact copies."""
        return same(self.pixels)

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


class _Crowd:
    """Rows that may be near each other, in the order in which they came; as mirror images where `flipped`. Of the rows of one
    picture that look the same, the first stands for all: a million copies of one sky cost no more than one."""

    __slots__ = ("arrays", "filled", "flipped", "known", "name", "near", "rows")

    def __init__(self, near: Near, flipped: bool) -> None:
        self.near, self.flipped = near, flipped
        self.rows: list[int] = []
        self.name: int | None = None
        self.known: set[tuple[int, ...]] | None = None
        self.arrays: Hashes | None = None
        self.filled = 0

    def add(self, row: int, picture: Rows) -> bool:
        """Whether the row found room here."""
        near = self.near
        if len(self.rows) >= _SMALL:
            if self.known is None:
                self.known = {self._key(k, picture) for k in self.rows}
            key = self._key(row, picture)
            if key in self.known:
                return True
            if len(self.rows) >= CROWD and not near.shared[near.back[row] if self.flipped else near.at[row]]:
                return False
            self.known.add(key)
        name = int(picture[row])
        self.name = name if self.name in (None, name) else -1
        self.rows.append(row)
        return True

    def _key(self, row: int, picture: Rows) -> tuple[int, ...]:
        near = self.near
        look = (near.long_mirror if self.flipped else near.long).get(int(near.speaker[row]), 0)
        return int(picture[row]), int(near.at[row]), int(near.back[row]), int(near.scaled[row]), look

    def like(self, row: int, picture: Rows, first: bool) -> list[int]:
        """The rows of other pictures that resemble `row`, or the first of them."""
        name, near = int(picture[row]), self.near
        if self.name == name:
            return []
        found: list[int] = []
        few = self.rows[:_SMALL]
        for k in few if len(self.rows) <= _SMALL or first else []:
            if picture[k] != name and near.pixels[k] != near.pixels[row] and near.resemble(row, k, self.flipped):
                found.append(k)
                if first:
                    return found
        if len(self.rows) > _SMALL:
            arrays = self._fill()
            for at in range(0, self.filled, _BLOCK):
                hits = self._compare(row, arrays[:, at : min(at + _BLOCK, self.filled)])
                other = hits[(picture[hits] != name) & (near.pixels[hits] != near.pixels[row])]
                found += other.tolist()
                if first and found:
                    return found[:1]
        return found

    def _fill(self) -> Hashes:
        """Bring the arrays up to the rows: hash, mirrored hash, whether scaled, row, and 256 bits."""
        new = np.array(self.rows[self.filled :], dtype=np.int64)
        if self.arrays is not None and not len(new):
            return self.arrays
        if self.arrays is None or len(self.rows) > self.arrays.shape[1]:
            wider = np.zeros((8, 2 * len(self.rows)), dtype=np.uint64)
            if self.arrays is not None:
                wider[:, : self.filled] = self.arrays[:, : self.filled]
            self.arrays = wider
        near = self.near
        part = self.arrays[:, self.filled : len(self.rows)]
        part[:4] = near.hash[new], near.mirror[new], near.scaled[new], new
        if near.confirms:
            looks = near.long_mirror if self.flipped else near.long
            part[4:] = _words([looks.get(speaker, 0) for speaker in near.speaker[new].tolist()])
        self.filled = len(self.rows)
        return self.arrays

    def _compare(self, row: int, arrays: Hashes) -> Rows:
        """`Near.resemble` of one row with many."""
        near, (hashes, mirrors, scaled, rows) = self.near, arrays[:4]
        bits = np.bitwise_count((mirrors if self.flipped else hashes) ^ near.hash[row])
        if self.flipped:
            bits = np.maximum(bits, np.bitwise_count(hashes ^ near.mirror[row]))
        close = bits <= near.radius + near.slack * (scaled != near.scaled[row]) if near.slack else bits <= near.radius
        some = np.flatnonzero(close)
        if near.confirms and len(some):
            looks, bits = arrays[4:], bits if len(some) == len(close) else bits[some]
            apart = np.zeros(len(some), dtype=np.uint16)
            for words, mine in zip(looks, _words([near.long[int(near.speaker[row])]])[:, 0], strict=True):
                apart += np.bitwise_count((words if len(some) == len(close) else words[some]) ^ mine)
            some = some[apart <= np.where(bits <= SURE, dedup.CONFIRM_RADIUS, STRICT)]
        hits: Rows = rows[some].astype(np.int64)
        return hits


class Index:
    """Rows of one origin by what they look like."""

    def __init__(self, near: Near) -> None:
        self.near = near
        self.exact: dict[int, dict[int, int]] = {}
        self.upright: dict[int, _Crowd] = {}
        self.mirrored: dict[int, _Crowd] = {}

    def add(self, row: int, picture: Rows) -> None:
        """Hold the row for those that come after it."""
        near, name = self.near, int(picture[row])
        self.exact.setdefault(int(near.pixels[row]), {}).setdefault(name, row)
        for table, place, flipped in ((self.upright, near.at[row], False), (self.mirrored, near.back[row], True)):
            bucket = int(near.bucket[place])
            crowd = table.get(bucket)
            if crowd is None:
                crowd = table[bucket] = _Crowd(near, flipped)
            if not crowd.add(row, picture):
                near.full.add(int(place))

    def like(self, row: int, picture: Rows, first: bool = False) -> list[int]:
        """The rows of other pictures that resemble `row`: an exact copy alone, or by hash, then by mirrored hash; with `first`
        one of them at most."""
        near, name = self.near, int(picture[row])
        for other, k in self.exact.get(int(near.pixels[row]), {}).items():
            if other != name:
                return [k]
        found: list[int] = []
        buckets = near.buckets(int(near.at[row]))
        for table in (self.upright, self.mirrored):
            for bucket in buckets:
                crowd = table.get(bucket)
                if crowd is not None:
                    found += crowd.like(row, picture, first)
                    if first and found:
                        return found
        # Those of the very same hash come first.
        return sorted(found, key=lambda k: int(near.hash[k] != near.hash[row])) if len(found) > 1 else found


def _words(looks: list[int]) -> Hashes:
    """256-bit whole numbers as (4, k) uint64."""
    return np.frombuffer(b"".join(x.to_bytes(32, "big") for x in looks), dtype=">u8").reshape(-1, 4).T.astype(np.uint64)


def _look(closer: Closer | None, rows: Rows, mirrored: bool) -> dict[int, int]:
    """256-bit hashes as whole numbers, by row."""
    if closer is None or not len(rows):
        return {}
    hashes = np.ascontiguousarray(closer(rows, mirrored).astype(">u8"))
    return {row: int.from_bytes(bits.tobytes(), "big") for row, bits in zip(rows.tolist(), hashes, strict=True)}


def codes(column: pa.ChunkedArray) -> Rows:
    """A number for every value, equal for equal values; -1 for null and for the empty text, which names nothing."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    empty = encoded.dictionary.index("").as_py()
    return np.where(codes == empty, -1, codes) if empty >= 0 else codes


def same(codes: Rows) -> Rows:
    """Edges that tie the rows of equal code together: from each to the first of its code. -1 ties nothing."""
    rows = np.flatnonzero(codes >= 0)
    _, first, place = np.unique(codes[rows], return_index=True, return_inverse=True)
    return np.stack([rows, rows[first[place]]], axis=1)
