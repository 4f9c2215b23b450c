"""Reading a release back from where it was sent: rows streamed, images hashed again, a sample kept for an audit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError
from imaginet_build.records import random_of

T = TypeVar("T")

BUDGET = 2_000_000_000
"""Bytes that are read back at most, besides one row group of every view and split."""

SAMPLE_ROWS = 3_000
"""Rows of the audited view that are kept for an audit."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: `rows` of them, `images` hashed (the others travel without pixels). `whole`: everything there is.
    `sampled`: rows in the sample; `complete`: it holds every row of its view, all with pixels."""

    rows: int
    images: int
    nbytes: int
    whole: bool
    sampled: int
    complete: bool


def shards(files: Mapping[str, Any]) -> list[str]:
    """The Parquet files of a release that hold images, sorted."""
    return sorted(path for path in files if path.startswith("data/") and path.endswith(".parquet"))


def read_back(
    files: Mapping[str, int],
    open: Callable[[str], IO[bytes]],
    ask: Callable[[str, Callable[[], Any]], Any],
    digest: str,
    sample: Path,
    view: str,
    view_rows: int,
    *,
    budget: int = BUDGET,
    sample_rows: int = SAMPLE_ROWS,
) -> Read:
    """Stream the shards among `files` (path -> bytes) and hash every image against its row.

    `open` opens one of them there, `ask` makes a call again that failed in passing. Past `budget` bytes one row group of a
    shard is read, of as many shards as fit, drawn by `digest`. Rows of `view`, which has `view_rows`, go to `sample`, a folder
    of the same form.
    Raises `BuildError` for an image whose bytes are not those of its row.
    """
    paths = shards(files)
    total = sum(files[path] for path in paths)
    whole = total <= budget
    chosen = paths if whole else _spread(paths, files, digest, budget)
    own = [path for path in chosen if path.startswith(f"data/{view}/")]
    most = view_rows if view_rows <= sample_rows else -(-sample_rows // max(len(own), 1))
    rows = images = nbytes = sampled = bare = 0
    for path in chosen:
        with _Shard(open, path) as shard, _Sample(sample / path, most if path in own else 0) as keeping:
            groups = ask(f"reading back {path}", shard.groups)
            for number in range(groups) if whole else [int(random_of(digest, path).integers(groups))]:
                for table in shard.group(number, partial(ask, f"reading back {path}")):
                    rows += table.num_rows
                    hashed, size = _check(table, path)
                    images, nbytes = images + hashed, nbytes + size
                    kept = keeping.add(table)
                    sampled, bare = sampled + kept, bare + (kept > 0) * (table.num_rows - hashed)
    return Read(rows, images, nbytes, whole, sampled, whole and sampled == view_rows and not bare)


def _spread(paths: Sequence[str], files: Mapping[str, int], digest: str, budget: int) -> list[str]:
    """Shards in an order that `digest` draws: one of every view and split first, then others as far as `budget` reaches."""
    order = [paths[i] for i in random_of(digest, "read back").permutation(len(paths))]
    first: dict[tuple[str, str], str] = {}
    for path in order:
        first.setdefault((path.split("/")[1], path.rpartition("/")[2].partition("-")[0]), path)
    chosen = set(first.values())
    left = budget - sum(_PIECE for _ in chosen)
    for path in order:
        if path not in chosen and left >= _PIECE:
            chosen.add(path)
            left -= min(_PIECE, files[path])
    return sorted(chosen)


_BUFFER = 1 << 20
_ROWS = 8
_PIECE = 50_000_000
"""A row group is that large at most."""


class _Shard:
    """One file there, opened when it is first asked and again after anything went wrong."""

    def __init__(self, open: Callable[[str], IO[bytes]], path: str) -> None:
        self._open, self._path = open, path
        self._file: IO[bytes] | None = None
        self._shard: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] | None = None

    def __enter__(self) -> _Shard:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def groups(self) -> int:
        return self._asked(lambda shard: int(shard.metadata.num_row_groups))

    def group(self, number: int, ask: Callable[[Callable[[], Any]], Any]) -> Iterator[pa.Table]:
        """One row group, a few rows at a time; after a fault what was given already is read again and passed over."""
        given = 0
        while (table := ask(partial(self._asked, partial(self._next, number, given)))) is not None:
            given += 1
            yield table

    def _next(self, number: int, given: int, shard: pq.ParquetFile) -> pa.Table | None:
        if self._batches is None:
            self._batches = islice(shard.iter_batches(_ROWS, row_groups=[number]), given, None)
        batch = next(self._batches, None)
        if batch is None:
            self._batches = None
            return None
        return pa.Table.from_batches([batch])

    def _asked(self, question: Callable[[pq.ParquetFile], T]) -> T:
        try:
            if self._shard is None:
                self._file = self._open(self._path)
                self._shard = pq.ParquetFile(self._file, buffer_size=_BUFFER, pre_buffer=False)
            return question(self._shard)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        shard, file = self._shard, self._file
        self._shard = self._file = self._batches = None
        if shard is not None:
            shard.close()
        if file is not None:
            file.close()


def _check(table: pa.Table, path: str) -> tuple[int, int]:
    """How many images were hashed, and their bytes."""
    if not {"image", "sha256"} <= set(table.column_names):
        return 0, table.nbytes
    hashed = size = 0
    for image, told in zip(table["image"], table["sha256"].to_pylist(), strict=True):
        data = image["bytes"].as_buffer() if image.is_valid and image["bytes"].is_valid else None
        if data is None:
            continue
        hashed += 1
        size += data.size
        if hashlib.sha256(data).hexdigest() != told:
            raise BuildError(f"{path}: an image read back is not the one of its row ({told}). Nothing was tagged")
    return hashed, size


class _Sample:
    """One file of the sample: the first rows that are added, at most `rows`."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._left = path, rows
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> int:
        kept = table.slice(0, self._left)
        if kept.num_rows:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._writer or pq.ParquetWriter(self._path, table.schema, use_dictionary=False, compression="none")
            self._writer.write_table(kept)
            self._left -= kept.num_rows
        return int(kept.num_rows)

    def __enter__(self) -> _Sample:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer:
            self._writer.close()
