"""Rows set aside on disk under a number each, and given back number by number: what is sorted so need not fit into memory."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from imaginet_build.store import StoreError

_AT_ONCE = 2048


class RowFile:
    """Tables of one schema in a nameless file in `folder`: it is gone with this object, and when the process ends, however
    that happens. Raises `StoreError` where the disk is full or broken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        self._end = 0
        self._schema: pa.Schema | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".rows")
            Path(name).unlink()
        except OSError as error:
            raise self._said("written", error) from error
        weakref.finalize(self, os.close, self._file)

    def put(self, number: int, table: pa.Table) -> None:
        """Set rows aside under `number`, after those that are there."""
        self._schema = self._schema or table.schema
        for batch in table.combine_chunks().to_batches(max_chunksize=_AT_ONCE):
            data = memoryview(batch.serialize())
            size, left = len(data), data
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                raise self._said("written", error) from error
            self._places[number].append((self._end, size, batch.num_rows))
            self._end += size

    def numbers(self) -> list[int]:
        """The numbers that have rows, in order."""
        return sorted(self._places)

    def rows(self, number: int) -> int:
        """How many rows a number has."""
        return sum(rows for _, _, rows in self._places[number])

    def batches(self, number: int, start: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows of a number, from its row `start` on, as they were put."""
        for place, size, rows in self._places[number]:
            if start >= rows:
                start -= rows
                continue
            try:
                data = os.pread(self._file, size, place)
            except OSError as error:
                raise self._said("read", error) from error
            yield pa.ipc.read_record_batch(pa.py_buffer(data), self._schema).slice(start)
            start = 0

    def _said(self, what: str, error: OSError) -> StoreError:
        why = os.strerror(error.errno) if error.errno else error
        return StoreError(f"{self._folder} cannot be {what}: {why}. What was finished is kept; publish again to go on")
