"""Rows of a Parquet file as members: the image column's bytes, and the other columns as the row beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.collectors import pages
from imaginet_build.collectors.members import (
    FREE_BYTES,
    MAX_BYTES,
    MAX_RATIO,
    Broken,
    BrokeOff,
    Member,
    Unreadable,
    bad_name,
    clean,
    refused,
)
from imaginet_build.errors import suggest

_ROWS = 16
"""Rows held at a time: images of a megabyte make this a few dozen."""

_NAMES = 4096
"""Rows of the small columns held at a time."""


class Parquet:
    """An opened Parquet file. `image`: the column of the images; `key`: the column of their names, else they are numbered;
    `columns`: further columns that are wanted beside them."""

    def __init__(self, file: BinaryIO, image: str, key: str | None, columns: Mapping[str, str]) -> None:
        self.image, self.key, self.raw = image, key, file
        try:
            self.file = pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
            schema = self.file.schema_arrow
        except BrokeOff:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Broken("truncated" if "footer" in str(error).lower() else "damaged", _said(error)) from error
        wanted = {"image": image} | ({"key": key} if key else {}) | dict(columns)
        missing = [f"{k}: no column '{c}'{suggest(c, schema.names)}" for k, c in wanted.items() if c not in schema.names]
        if missing:
            raise Broken("missing-column", f"{'; '.join(missing)}. It has {', '.join(schema.names)[:500]}")
        kind = schema.field(image).type
        self.path = None
        if pa.types.is_struct(kind):
            inside = [kind.field(n).name for n in range(kind.num_fields)]
            self.bytes = f"{image}.bytes"
            self.path = f"{image}.path" if "path" in inside else None
            kind = kind.field("bytes").type if "bytes" in inside else kind
        else:
            self.bytes = image
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
            raise Broken("missing-column", f"the column '{image}' holds {kind}, no bytes of image files")
        self.beside = list(dict.fromkeys([*([key] if key else []), *columns.values()]))

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Every row; `row` holds the wanted columns. Raises `Broken`."""
        number = 0
        for group in range(self.file.num_row_groups):
            fault = self._too_much(group)
            if fault or not any(wanted(self._name(row, number + at)[0]) for at, row in enumerate(self._small(group))):
                for at, row in enumerate(self._small(group) if fault is None else [{}]):
                    name, wrong = self._name(row, number + at) if fault is None else (f"row-group-{group}", fault)
                    yield Member(name, refused, wrong, row)
            else:
                yield from self._images(group, number, wanted)
            number += self.file.metadata.row_group(group).num_rows

    def _images(self, group: int, number: int, wanted: Callable[[str], bool]) -> Iterator[Member]:
        beside = self._small(group)
        for batch in self._batches(group, [self.bytes], _ROWS):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = column.flatten()[0]
            for place in range(len(column)):
                row = next(beside)
                name, wrong = self._name(row, number)
                usable = wrong is None and wanted(name)
                yield Member(name, _Value(column, place, number) if usable else refused, wrong, row)
                number += 1

    def _small(self, group: int) -> Iterator[dict[str, Any]]:
        """The columns beside the image, row by row."""
        if not self.beside and self.path is None:
            yield from ({} for _ in range(self.file.metadata.row_group(group).num_rows))
            return
        columns = [*self.beside, *([self.path] if self.path else [])]
        for batch in self._batches(group, columns, _NAMES):
            yield from batch.to_pylist()

    def _batches(self, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.file.iter_batches(rows, [group], columns, use_threads=False)
        except BrokeOff:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise Broken("damaged", f"row group {group}: {_said(error)}") from error

    def _name(self, row: Mapping[str, Any], number: int) -> tuple[str, tuple[str, str] | None]:
        if self.key:
            value = row.get(self.key)
            name = clean(str(value)) if value not in (None, "") else ""
            return (name, bad_name(name)) if name else (f"{number}", ("no-key", f"row {number}: {self.key} is empty"))
        inside = row.get(self.image) if self.path else None
        path = inside.get("path") if isinstance(inside, Mapping) else None
        suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", path if isinstance(path, str) else "")
        return f"{number}{suffix[0].lower() if suffix else ''}", None

    def _too_much(self, group: int) -> tuple[str, str] | None:
        """What a row group states of its columns before any is read: a bomb is not opened."""
        stated = self.file.metadata.row_group(group)
        for number in range(stated.num_columns):
            column = stated.column(number)
            full, packed = column.total_uncompressed_size, column.total_compressed_size
            if full > FREE_BYTES and full > MAX_RATIO * max(packed, 1):
                return "bomb", f"{packed:,} bytes of row group {group} would become {full:,}"
            # Over a network a long column would have to be fetched twice for it.
            if packed <= FREE_BYTES or isinstance(self.raw, io.BufferedReader):
                for packed, full in pages.sizes(self.raw, column):
                    if full > FREE_BYTES and full > MAX_RATIO * max(packed, 1):
                        return "bomb", f"{packed:,} bytes of a page of row group {group} would become {full:,}"
        return None


class _Value:
    """The bytes of one row."""

    __slots__ = ("column", "number", "place")

    def __init__(self, column: pa.Array, place: int, number: int) -> None:
        self.column, self.place, self.number = column, place, number

    def __call__(self) -> bytes:
        value = self.column[self.place]
        if not value.is_valid:
            raise Unreadable("no-bytes", f"row {self.number} holds no image")
        data: bytes = value.as_py()
        if len(data) > MAX_BYTES:
            raise Unreadable("too-large", f"it has {len(data):,} bytes, more than {MAX_BYTES:,}")
        return data


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
