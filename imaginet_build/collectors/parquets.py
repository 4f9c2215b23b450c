"""Rows of a Parquet file as members: the image column's bytes, and the other columns as the row beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa

from imaginet_build.collectors.members import MAX_BYTES, Broken, Member, Unreadable, bad_name, clean, refused
from imaginet_build.collectors.rowgroups import Fault, RowGroups, rows
from imaginet_build.errors import suggest

_ROWS = 16
"""Images held at a time, fewer where they might not fit into memory."""

_NAMES = 4096
"""Rows of the small columns held at a time, fewer likewise."""


class Parquet:
    """An opened Parquet file. `image`: the column of the images; `key`: the column of their names, else they are numbered;
    `columns`: further columns that are wanted beside them."""

    def __init__(self, file: BinaryIO, image: str, key: str | None, columns: Mapping[str, str]) -> None:
        self.image, self.key = image, key
        self.groups = RowGroups(file)
        schema = self.groups.schema
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
            cast = ": cast it to binary" if pa.types.is_dictionary(kind) else ""
            raise Broken("missing-column", f"the column '{image}' holds {kind}, no bytes of image files{cast}")
        self.beside = list(dict.fromkeys([*([key] if key else []), *columns.values()]))
        self.small = [*self.beside, *([self.path] if self.path else [])]

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """Every row; `row` holds the wanted columns. Raises `Broken`."""
        number = 0
        for group, length in enumerate(self.groups.lengths):
            fault = self.groups.fault(group, [self.bytes, *self.small])
            if fault:
                yield Member(f"row-group-{group}", refused, fault, {})
            elif any(wanted(self._name(row, number + at)[0]) for at, (row, _) in enumerate(self._small(group))):
                yield from self._images(group, number, wanted)
            else:
                for at, (row, bad) in enumerate(self._small(group)):
                    name, wrong = self._name(row, number + at)
                    yield Member(name, refused, bad or wrong, row)
            number += length

    def _images(self, group: int, number: int, wanted: Callable[[str], bool]) -> Iterator[Member]:
        beside = self._small(group)
        for batch in self.groups.batches(group, [self.bytes], _ROWS):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = column.flatten()[0]
            for place in range(len(column)):
                row, bad = next(beside)
                name, wrong = self._name(row, number)
                usable = (bad or wrong) is None and wanted(name)
                yield Member(name, _Value(column, place, number) if usable else refused, bad or wrong, row)
                number += 1

    def _small(self, group: int) -> Iterator[tuple[dict[str, Any], Fault | None]]:
        """The columns beside the image, row by row, and what is wrong with a row."""
        if not self.small:
            yield from (({}, None) for _ in range(self.groups.lengths[group]))
            return
        for batch in self.groups.batches(group, self.small, _NAMES):
            yield from rows(batch)

    def _name(self, row: Mapping[str, Any], number: int) -> tuple[str, tuple[str, str] | None]:
        if self.key:
            value = row.get(self.key)
            name = clean(str(value)) if value not in (None, "") else ""
            return (name, bad_name(name)) if name else (f"{number}", ("no-key", f"row {number}: {self.key} is empty"))
        inside = row.get(self.image) if self.path else None
        path = inside.get("path") if isinstance(inside, Mapping) else None
        suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", path if isinstance(path, str) else "")
        return f"{number}{suffix[0].lower() if suffix else ''}", None


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
