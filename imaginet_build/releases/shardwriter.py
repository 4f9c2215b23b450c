"""One shard of a release: a Parquet file written row by row, hashed while it is written, and whole or absent.

The files follow what the Hugging Face viewer, `datasets` and content-addressed storage like best: row groups of few rows and
bytes, a page index, content-defined chunking, and neither dictionary nor statistics on image bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.store import StoreError

GROUP_ROWS = 50
LEAST_ROWS = 25
GROUP_BYTES = 50_000_000
"""Rows of a row group as they are wanted, and at least; the most image bytes in it."""

# What `datasets` itself writes with, so that its own rewrites share chunks with ours.
CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}


def next_group(
    sizes: Sequence[int], ended: bool, rows: int = GROUP_ROWS, least: int = LEAST_ROWS, most: int = GROUP_BYTES
) -> int:
    """How many of the next rows make a row group, 0 where that cannot be said before more rows are known.

    `sizes`: bytes of the images ahead; `ended`: no more will come. A group has `rows` rows or as many as fit into `most` bytes,
    but at least one. Fewer than `least` rows at the end join the group before them, or are made up from it, unless bytes
    forbid.
    """
    fit = max(sum(total <= most for total in accumulate(sizes)), 1)
    full, left = min(rows, fit), len(sizes) - min(rows, fit)
    if left >= least or full < least:
        # Of many large images ahead nobody needs to know more: they could not be joined.
        return full if left > 0 or ended else 0
    if not ended:
        return full if sum(sizes) > 2 * most else 0
    if fit == len(sizes):
        return fit
    shorter = len(sizes) - least
    return shorter if shorter >= least and sum(sizes[shorter:]) <= most else full


class _Hashed(io.RawIOBase):
    """A new file that knows the SHA-256 and the length of what was written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._state = hashlib.sha256()
        self.nbytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(data)
        self._state.update(data)
        self.nbytes += len(data)
        return len(data)

    def finish(self) -> str:
        """Make the file durable; its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._state.hexdigest()

    def close(self) -> None:
        super().close()
        self._file.close()


class ShardWriter:
    """Writes one shard, row by row, beside its place; `commit` puts it there. Holds one row group in memory, and the few rows
    that decide where it ends.

    A row is a mapping with the schema's columns, where `image` is `(bytes, path)`, or `(None, None)`. Leaving the `with` block
    without a `commit` leaves nothing behind. Raises `StoreError` where the disk is full or broken.
    """

    def __init__(self, path: Path, shape: pa.Schema, group_rows: int = GROUP_ROWS, group_bytes: int = GROUP_BYTES) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".tmp")
        self._schema = shape
        self._limits = (group_rows, min(LEAST_ROWS, group_rows), group_bytes)
        self._rows: list[Mapping[str, Any]] = []
        self._sizes: list[int] = []
        # All images ahead, one after another: Arrow writes them from here, and the memory is used again.
        self._bytes = np.empty(1 << 20, dtype=np.uint8)
        self._nbytes = 0
        self._room: memoryview | None = None
        plain = [name for name in shape.names if name != "image"]
        columns = [*plain, "image.bytes", "image.path"]
        with self._saying():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _Hashed(self._part)
            self._writer = pq.ParquetWriter(
                self._file,
                shape,
                # Encoded pixels do not shrink; everything else does.
                compression={name: "none" if name == "image.bytes" else "zstd" for name in columns},
                use_dictionary=[name for name in plain if name not in {"id", "sha256", "source_sha256", "phash"}],
                write_statistics=plain,
                write_page_index=True,
                use_content_defined_chunking=CHUNKING,
            )
            self._writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKING)})

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            # Of a file that nobody will see: on a full disk even closing fails.
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            with suppress(OSError):
                self._file.close()
        finally:
            self._part.unlink(missing_ok=True)

    def room(self, size: int) -> memoryview:
        """Where the bytes of the next image may be put, so that `add` need not copy them. Asked again, it is the same."""
        end = self._nbytes + size
        if end > len(self._bytes):
            wider = np.empty(2 * end, dtype=np.uint8)
            wider[: self._nbytes] = self._bytes[: self._nbytes]
            self._bytes = wider
        self._room = self._bytes.data[self._nbytes : end]
        return self._room

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row; a row group is written as soon as it is settled what belongs to it."""
        data, path = row["image"]
        self._rows.append({**row, "image": (data is not None, path)})
        self._sizes.append(0 if data is None else len(data))
        if data is not None and data is not self._room:
            self.room(len(data))[:] = data
        self._room = None
        self._nbytes += self._sizes[-1]
        rows, least, most = self._limits
        if len(self._rows) >= rows + least or self._nbytes > most:
            while count := next_group(self._sizes, False, *self._limits):
                self._flush(count)

    def commit(self) -> dict[str, object]:
        """Write what is left, make it durable, and move it to its name; the file's `{"sha256", "nbytes"}`."""
        while self._rows:
            self._flush(next_group(self._sizes, True, *self._limits))
        with self._saying():
            self._writer.close()
            digest = self._file.finish()
            self._part.replace(self.path)
        return {"sha256": digest, "nbytes": self._file.nbytes}

    def _flush(self, count: int) -> None:
        """The next `count` rows as a row group."""
        rows, self._rows = self._rows[:count], self._rows[count:]
        sizes, self._sizes = self._sizes[:count], self._sizes[count:]
        columns = []
        for field in self._schema:
            values = [row[field.name] for row in rows]
            if field.name == "image":
                there = pa.array([v[0] for v in values])
                ends = pa.array([0, *accumulate(sizes)], pa.int32()).buffers()[1]
                pixels = pa.Array.from_buffers(pa.binary(), count, [there.buffers()[1], ends, pa.py_buffer(self._bytes)])
                halves = [pixels, pa.array([v[1] for v in values], pa.string())]
                # An image that is not there is null as a whole: `datasets` opens what has a path.
                columns.append(pa.StructArray.from_arrays(halves, fields=list(field.type), mask=halves[0].is_null()))
            else:
                columns.append(pa.array(values, field.type))
        with self._saying():
            # As a table: a batch would be kept in memory until its row group is closed.
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=count)
        written = sum(sizes)
        self._bytes[: self._nbytes - written] = self._bytes[written : self._nbytes]
        self._nbytes -= written

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """Turn what the disk refuses into a sentence."""
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise StoreError(f"cannot write {self.path}: {why}. What was finished is kept; publish again to go on") from error
