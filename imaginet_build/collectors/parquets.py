"""Rows of a Parquet file as members: the image column's bytes, and the other columns as the row beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Rows held at a time, fewer where they might not fit into `FREE_BYTES`."""

_NAMES = 4096
"""Rows of the small columns held at a time, fewer likewise."""

_FREE_ROWS = 100_000
"""A row group of more rows than this and than it has bytes is a bomb: no picture is less than a byte."""


class Parquet:
    """An opened Parquet file. `image`: the column of the images; `key`: the column of their names, else they are numbered;
    `columns`: further columns that are wanted beside them."""

    def __init__(self, file: BinaryIO, image: str, key: str | None, columns: Mapping[str, str]) -> None:
        self.image, self.key, self.raw = image, key, file
        self.judged: dict[int, tuple[str, str] | None] = {}
        self.group = -1
        self.extents: dict[int, pages.Extent | None] = {}
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
        self.small = [*self.beside, *([self.path] if self.path else [])]

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
        for batch in self._batches(group, [self.bytes]):
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
        for batch in self._batches(group, self.small):
            yield from batch.to_pylist()

    def _batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The columns, as many rows at a time as surely fit into `FREE_BYTES`, and one at least."""
        leaves = self._leaves(group, columns)
        most = sum(FREE_BYTES if (known := self._extent(group, n)) is None else known.largest for n in leaves)
        rows = max(1, min(_ROWS if columns == [self.bytes] else _NAMES, FREE_BYTES // max(most, 1)))
        packed = sum(self.file.metadata.row_group(group).column(n).total_compressed_size for n in leaves)
        came = 0
        try:
            for batch in self.file.iter_batches(rows, [group], columns, use_threads=False):
                came += batch.nbytes
                if came > _limit(packed):
                    raise Broken("bomb", f"{packed:,} bytes of row group {group} have already become {came:,}")
                yield batch
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

    # --- bombs ---------------------------------------------------------------------------------------------------------

    def _leaves(self, group: int, columns: Sequence[str]) -> list[int]:
        """The numbers of the stored columns that make up these."""
        stated = self.file.metadata.row_group(group)
        paths = [stated.column(number).path_in_schema for number in range(stated.num_columns)]
        return [n for n, path in enumerate(paths) if any(path == c or path.startswith(f"{c}.") for c in columns)]

    def _extent(self, group: int, number: int) -> pages.Extent | None:
        """What a stored column's pages come to; None where knowing it would mean fetching a long column twice."""
        if self.group != group:
            self.group, self.extents = group, {}
        if number not in self.extents:
            column = self.file.metadata.row_group(group).column(number)
            cheap = column.total_compressed_size <= FREE_BYTES or isinstance(self.raw, io.BufferedReader)
            self.extents[number] = pages.extent(self.raw, column, _limit) if cheap else None
        return self.extents[number]

    def _too_much(self, group: int) -> tuple[str, str] | None:
        """Why a row group is a bomb: by what it states of itself, before anything is read; else, where its rows may share
        bytes, by what they come to, counted up to the limit. It is the same whatever part of it is wanted."""
        if group in self.judged:
            return self.judged[group]
        fault = self._stated_too_much(group) or self._shared_too_much(group)
        self.judged[group] = fault
        return fault

    def _stated_too_much(self, group: int) -> tuple[str, str] | None:
        stated = self.file.metadata.row_group(group)
        columns = [stated.column(number) for number in range(stated.num_columns)]
        stored = sum(column.total_compressed_size for column in columns)
        if stated.num_rows > max(_FREE_ROWS, stored):
            return "bomb", f"row group {group} has {stated.num_rows:,} rows in {stored:,} bytes: no pictures are as small"
        for number, column in enumerate(columns):
            full, packed = column.total_uncompressed_size, column.total_compressed_size
            if full > _limit(packed):
                return "bomb", f"{packed:,} bytes of row group {group} would become {full:,}"
            known = self._extent(group, number)
            if known and (page := known.bomb):
                return "bomb", f"{page.packed:,} bytes of a page of row group {group} would become {page.full:,}"
        return None

    def _shared_too_much(self, group: int) -> tuple[str, str] | None:
        for number in self._leaves(group, [self.bytes, *self.small]):
            column = self.file.metadata.row_group(group).column(number)
            known = self._extent(group, number)
            if known is None or known.content <= _limit(column.total_compressed_size):
                continue
            if self.file.schema.column(number).max_repetition_level:  # even one row might not fit
                return "bomb", f"{column.path_in_schema} of row group {group}: its lists may come to {known.content:,} bytes"
            try:
                for _ in self._batches(group, [column.path_in_schema]):
                    pass
            except Broken as error:  # damage is told where it is read, after the rows before it
                if error.reason == "bomb":
                    return "bomb", f"{error.detail}: its rows share bytes"
        return None


def _limit(packed: int) -> int:
    """The most bytes that so many may become."""
    return max(FREE_BYTES, MAX_RATIO * packed)


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
