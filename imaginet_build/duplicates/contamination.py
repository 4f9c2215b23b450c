"""Sketches: the hashes of a data set in a file of its own, and which images of one data set another one already holds.

A sketch holds no pixel and gives none back, so that a benchmark can publish one. Images are *equal* where their bytes or their
decoded pixels are, and *near* where their 64-bit pHashes are (upright or mirrored) and 256 bits confirm it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imaginet_build import dedup
from imaginet_build.duplicates import hamming
from imaginet_build.duplicates.connect import Places, crossed
from imaginet_build.duplicates.twins import SLACK, STRICT, SURE
from imaginet_build.errors import UsageError

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Closer = Callable[[Rows, bool], Hashes]
"""The 256-bit pHashes, (k, 4) uint64, of the k rows asked for, or of their mirror images."""

FORMAT = 1
EXAMPLES = 10
PAIRS = 20_000_000
"""Near pairs of distinct hashes that are held in memory."""

LOOKS = 4_000_000_000
"""Pairs of images that are compared at most, unless the radius is 0: some minutes."""

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("pixel_hash", pa.binary(32), nullable=False),
        pa.field("phash", pa.uint64(), nullable=False),
        pa.field("phash_mirror", pa.uint64(), nullable=False),
        pa.field("dhash", pa.uint64(), nullable=False),
        pa.field("long", pa.binary(32), nullable=False),
        pa.field("long_mirror", pa.binary(32), nullable=False),
        pa.field("scaled", pa.bool_(), nullable=False),
        pa.field("blank", pa.bool_(), nullable=False),
    ]
)
"""A sketch, a row an image: its name in the data set, SHA-256 of bytes and of pixels, hashes of 64 bits, pHashes of 256 bits
(highest bits first) upright and mirrored, whether it was a JPEG, which is hashed scaled, and whether it is one flat surface,
which resembles everything and is compared by pixels alone."""

_META = b"imaginet-build-sketch"


@dataclass(frozen=True)
class Sketch:
    """A sketch as read. `version`: what its maker says of the data set's edition, '' where nothing. `table`: SCHEMA."""

    name: str
    version: str
    table: pa.Table


@dataclass(frozen=True, slots=True)
class Match:
    """A row that a sketch holds too. `kind`: equal or near; `bits`: of the 64 that differ; `mirrored`: only as mirror image."""

    row: int
    other: int
    kind: str
    bits: int
    mirrored: bool


@dataclass(frozen=True)
class Contamination:
    """What of `rows` images one sketch of `count` images holds. `examples`: the first few, as `{"id", "path", "kind", "bits",
    "mirrored"}`; `path` is the name in the sketch. `matches`: every row found; `paths`: their names in the sketch."""

    name: str
    version: str
    count: int
    rows: int
    equal: int
    near: int
    radius: int
    examples: tuple[dict[str, Any], ...]
    matches: tuple[Match, ...]
    paths: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All but `matches` and `paths`, and the share of rows found."""
        document = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("matches", "paths")}
        document["examples"] = list(self.examples)
        return document | {"share": (self.equal + self.near) / self.rows if self.rows else 0.0}


@dataclass(frozen=True)
class Hashed:
    """The images of one side, n of them. `sha256`, `pixel_hash`: (n,) texts of 64 digits; `phash`, `mirror`: (n,) uint64;
    `scaled`, `blank`: (n,) bool; `closer` gives the 256 bits of some."""

    names: Sequence[str]
    sha256: NDArray[np.object_]
    pixel_hash: NDArray[np.object_]
    phash: Hashes
    mirror: Hashes
    scaled: NDArray[np.bool_]
    blank: NDArray[np.bool_]
    closer: Closer


def write(path: Path, name: str, version: str, rows: Sequence[dict[str, Any]]) -> int:
    """Write a sketch of `rows` (SCHEMA), sorted by path, whole or not at all; the number of rows."""
    from imaginet_build.store import written

    ordered = sorted(rows, key=lambda row: (row["path"], row["sha256"]))
    said = json.dumps({"format": FORMAT, "name": name, "version": version, "count": len(ordered)}).encode()
    table = pa.Table.from_pylist(ordered, schema=SCHEMA).replace_schema_metadata({_META: said})
    with written(path, replace=True) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return len(ordered)


def read(path: Path | str) -> Sketch:
    """A sketch from its file. Raises `UsageError` for anything that is none, with what is wrong."""
    path = Path(path)
    make = "make one with build-imaginet sketch TARGET --out FILE"
    if not path.is_file():
        raise UsageError(f"no sketch at {path}: {make}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            said = json.loads((file.schema_arrow.metadata or {}).get(_META, b"null"))
            if not isinstance(said, dict) or not {"format", "name", "version", "count"} <= said.keys():
                raise UsageError(f"{path} is a Parquet file, but no sketch: {make}")
            if said["format"] != FORMAT:
                raise UsageError(f"{path} is a sketch of format {said['format']}, this release reads {FORMAT}: {make}")
            found = file.schema_arrow.remove_metadata()
            if [(f.name, f.type) for f in found] != [(f.name, f.type) for f in SCHEMA]:
                raise UsageError(f"{path} is no sketch: its columns are {', '.join(found.names[:20]) or 'none'}; {make}")
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} cannot be read as a sketch ({reason}): fetch it again, or {make}") from error
    holes = [name for name in SCHEMA.names if table[name].null_count]
    if holes or table.num_rows != said["count"]:
        wrong = f"no value in some rows of {holes[0]}" if holes else f"{table.num_rows} rows where it states {said['count']}"
        raise UsageError(f"{path} is a damaged sketch: {wrong}. Fetch it again, or {make}")
    return Sketch(str(said["name"]), str(said["version"]), table)


def hashed(table: pa.Table) -> Hashed:
    """The rows of a sketch as one side of a comparison."""
    long, mirrored = (
        np.frombuffer(b"".join(table[name].to_pylist()), dtype=">u8").reshape(-1, 4) for name in ("long", "long_mirror")
    )

    def closer(rows: Rows, mirror: bool) -> Hashes:
        chosen: Hashes = (mirrored if mirror else long)[rows].astype(np.uint64)
        return chosen

    sha256, pixels = (np.array([v.hex() for v in table[name].to_pylist()], dtype=object) for name in ("sha256", "pixel_hash"))
    phash, mirror = (table[name].to_numpy().astype(np.uint64) for name in ("phash", "phash_mirror"))
    scaled, blank = (np.array(table[name].to_pylist(), dtype=bool) for name in ("scaled", "blank"))
    return Hashed(table["path"].to_pylist(), sha256, pixels, phash, mirror, scaled, blank, closer)


def report(
    own: Hashed, sketches: Sequence[Sketch], radius: int, *, memory: int = dedup.MEMORY, folder: Path | None = None
) -> list[Contamination]:
    """What each of `sketches` holds of `own`, in their order. `memory`, `folder`: as in `dedup.groups`. Raises `UsageError`
    where more than `PAIRS` pairs of hashes or `LOOKS` pairs of images are within a radius that is not 0."""
    found = []
    for sketch in sketches:
        other = hashed(sketch.table)
        matches = sorted(_matches(own, other, radius, sketch.name, memory, folder), key=lambda match: match.row)
        examples = tuple(
            {"id": own.names[m.row], "path": other.names[m.other], "kind": m.kind, "bits": m.bits, "mirrored": m.mirrored}
            for m in matches[:EXAMPLES]
        )
        paths = tuple(other.names[match.other] for match in matches)
        equal = sum(m.kind == "equal" for m in matches)
        counts = len(other.names), len(own.names), equal, len(matches) - equal
        found.append(Contamination(sketch.name, sketch.version, *counts, radius, examples, tuple(matches), paths))
    return found


def _matches(own: Hashed, other: Hashed, radius: int, name: str, memory: int, folder: Path | None) -> Iterator[Match]:
    """One match for each row that has any: equal ones first, then the nearest."""
    equal = _equal(own, other)
    yield from (Match(row, match, "equal", 0, False) for row, match in equal.items())
    asks = ~own.blank
    asks[list(equal)] = False
    rows = np.flatnonzero(asks)
    # One row speaks for all its copies, of which there may be a million, on either side.
    speaker = _first(own, rows)
    theirs = np.unique(_first(other, np.flatnonzero(~other.blank)))
    best: dict[int, Match] = {}
    for mirrored in (False, True):
        pairs = _Pairs(own, other, np.unique(speaker), theirs, radius, mirrored, name, memory, folder)
        for match in _nearest(own, other, pairs, mirrored):
            if match.row not in best or match.bits < best[match.row].bits:
                best[match.row] = match
    yield from (
        replace(best[spoken], row=row) for row, spoken in zip(rows.tolist(), speaker.tolist(), strict=True) if spoken in best
    )


def _first(side: Hashed, rows: Rows) -> Rows:
    """For each of `rows` the first that has the same pixels and hashes."""
    first: dict[tuple[Any, ...], int] = {}
    looks = zip(side.pixel_hash[rows], side.phash[rows], side.mirror[rows], side.scaled[rows], strict=True)
    return np.array([first.setdefault(look, row) for look, row in zip(looks, rows.tolist(), strict=True)], dtype=np.int64)


def _equal(own: Hashed, other: Hashed) -> dict[int, int]:
    """Rows whose bytes or whose pixels the other side has."""
    known: dict[str, int] = {}
    for row in range(len(other.names) - 1, -1, -1):
        known[f"p{other.pixel_hash[row]}"] = known[f"b{other.sha256[row]}"] = row
    found = {}
    for row in range(len(own.names)):
        match = known.get(f"b{own.sha256[row]}", known.get(f"p{own.pixel_hash[row]}"))
        if match is not None:
            found[row] = match
    return found


def _nearest(own: Hashed, other: Hashed, pairs: _Pairs, mirrored: bool) -> list[Match]:
    """The nearest match that 256 bits confirm, for each row that has any; of several the first."""
    asked = np.zeros(len(own.names), dtype=bool), np.zeros(len(other.names), dtype=bool)
    for i, j, _ in pairs:
        asked[0][i] = asked[1][j] = True
    if not asked[0].any():
        return []
    mine, theirs = own.closer(np.flatnonzero(asked[0]), False), other.closer(np.flatnonzero(asked[1]), mirrored)
    place, where = (np.cumsum(some) - 1 for some in asked)
    count = len(other.names)
    best = np.full(len(own.names), 65 * count, dtype=np.int64)
    for i, j, bits in pairs:
        apart = np.bitwise_count(mine[place[i]] ^ theirs[where[j]]).sum(axis=1, dtype=np.int64)
        agreed = apart <= np.where(bits <= SURE, dedup.CONFIRM_RADIUS, STRICT)
        np.minimum.at(best, i[agreed], bits[agreed] * count + j[agreed])
    rows = np.flatnonzero(best < 65 * count).tolist()
    return [Match(row, int(best[row]) % count, "near", int(best[row]) // count, mirrored) for row in rows]


def _bits(own: Hashed, other: Hashed, i: Rows, j: Rows, mirrored: bool) -> Rows:
    """How many of the 64 bits differ; of mirror images, which must be one both ways, the larger number of either way."""
    one = np.bitwise_count(own.phash[i] ^ (other.mirror if mirrored else other.phash)[j])
    ways = np.bitwise_count(own.mirror[i] ^ other.phash[j]) if mirrored else one
    bits: Rows = np.maximum(one, ways).astype(np.int64)
    return bits


class _Pairs:
    """Pairs of rows within the radius, or `SLACK` more between a scaled hash and a full one (unless the radius is 0). They come
    in pieces, as often as they are asked for: rows of one side, of the other, bits that differ."""

    def __init__(
        self, own: Hashed, other: Hashed, mine: Rows, theirs: Rows, radius: int, mirrored: bool, name: str,
        memory: int, folder: Path | None,
    ) -> None:  # fmt: skip
        self.own, self.other, self.mine, self.theirs, self.radius, self.mirrored = own, other, mine, theirs, radius, mirrored
        hashes = np.concatenate([own.phash[mine], (other.mirror if mirrored else other.phash)[theirs]])
        values, place = np.unique(hashes, return_inverse=True)
        self.left, self.right = Places(place[: len(mine)], len(values)), Places(place[len(mine) :], len(values))
        self.slack = SLACK if radius else 0
        found = [self._both(np.stack([np.arange(len(values))] * 2, axis=1))]
        total = 0
        for near in hamming.near(values, radius + self.slack, memory, folder=folder):
            found += [self._both(near), self._both(near[:, ::-1])]
            total += len(found[-1]) + len(found[-2])
            if total > PAIRS:
                raise UsageError(f"more than {PAIRS:,} hashes resemble each other between this and {name}: lower the radius")
        self.x, self.y = np.concatenate(found).T
        looks = int((self.left.size[self.x] * self.right.size[self.y]).sum())
        if radius and looks > LOOKS:
            raise UsageError(f"{looks:,} pairs resemble each other between this and {name}: lower the radius, if need be to 0")

    def _both(self, pairs: Rows) -> Rows:
        """Those pairs of places where the first has rows of ours and the second of theirs."""
        return pairs[(self.left.size[pairs[:, 0]] > 0) & (self.right.size[pairs[:, 1]] > 0)]

    def __iter__(self) -> Iterator[tuple[Rows, Rows, Rows]]:
        for first, second in crossed(self.x, self.y, self.left, self.right):
            i, j = self.mine[first], self.theirs[second]
            bits = _bits(self.own, self.other, i, j, self.mirrored)
            near = bits <= self.radius + self.slack * (self.own.scaled[i] != self.other.scaled[j])
            yield i[near], j[near], bits[near]
