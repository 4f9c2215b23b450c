"""What the pages of a Parquet column say of their own sizes, read before Arrow makes room for them.

A footer can lie: Arrow allocates what each page's own header claims, up to two gigabytes. Nor may Arrow be asked what a footer
says: one that contradicts itself ends the whole process (pyarrow 26, `ColumnChunkMetaData`). Footers and headers are Thrift
structs in the compact protocol (parquet-format; PageHeader: 1 type, 2 uncompressed_page_size, 3 compressed_page_size, 5
data_page_header, 8 data_page_header_v2). Nor does a page's size say what it becomes: two thousand rows may name one value of a
dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_WINDOWS = (2**14, 2**20)
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12


_DICTIONARY_PAGE = 2
_DICTIONARY = frozenset({2, 8})
"""Encodings of numbers that stand for the values of the dictionary."""

_AS_LONG_AS_STORED = frozenset({0, 6, 9})
"""Encodings whose values together are no longer than their page: PLAIN, DELTA_LENGTH_BYTE_ARRAY, BYTE_STREAM_SPLIT."""


@dataclass(frozen=True, slots=True)
class Column:
    """A stored column of a row group: its dotted path, the number of its physical type, its bytes packed and full, and where
    its first page begins."""

    path: str
    kind: int
    packed: int
    full: int
    begin: int


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What a footer states of a row group."""

    rows: int
    columns: tuple[Column, ...]


def row_groups(file: BinaryIO) -> list[RowGroup]:
    """The row groups that the footer of a file lists (FileMetaData: 4 row_groups). Raises `ValueError`."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(0, end - 8 - length))
    data = file.read(length)
    at = number = 0
    try:
        while (head := data[at]) != 0:
            step = head >> 4
            number, at = (number + step, at + 1) if step else _integer(data, at + 1)
            if number == 4:
                count, kind, at = _list(data, at)
                groups = []
                for _ in range(count if kind == _STRUCT else 0):
                    fields, at = _struct(data, at, 1)
                    groups.append(_row_group(fields))
                return groups
            if head & 15 not in (_TRUE, _FALSE):
                _, at = _value(data, at, head & 15, 0)
    except (IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its list of row groups cannot be read ({type(error).__name__})") from error
    return []


def _row_group(fields: dict[int, Any]) -> RowGroup:
    """A row group (1 columns, 3 num_rows) and its columns (3 meta_data: 1 type, 3 path_in_schema, 6 total_uncompressed_size,
    7 total_compressed_size, 9 data_page_offset, 11 dictionary_page_offset)."""
    columns = []
    rows: int = fields[3]
    for chunk in fields[1]:
        said = chunk[3]
        if min(rows, said[6], said[7]) < 0:
            raise ValueError("it states a size below zero")
        path = ".".join(part.decode("utf-8", "surrogateescape") for part in said[3])
        begin = min(said[9], said[11]) if said.get(11, 0) > 0 else said[9]
        columns.append(Column(path, said[1], said[7], said[6], begin))
    return RowGroup(rows, tuple(columns))


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its size packed and full, how many values it holds (0: it is a dictionary), and whether one stretch of its
    bytes, or of the dictionary's, may stand for several values (`prefixed`: as each says only what it adds to the last)."""

    packed: int
    full: int
    values: int
    shared: bool
    prefixed: bool = False


def headers(file: BinaryIO, column: Column) -> Iterator[Page]:
    """Every page of a stored column. Ends where a header cannot be read: Arrow, which
    reads it next, says what is wrong with it."""
    at = column.begin
    end = at + column.packed
    while at < end:
        for window in _WINDOWS:
            try:
                file.seek(at)
                head = file.read(window)
            except (OSError, ValueError, OverflowError):  # no file is as long
                return
            try:
                fields, length = _struct(head, 0, 0)
                break
            except (IndexError, ValueError, RecursionError):
                if window == _WINDOWS[-1] or len(head) < window:
                    return
        full, packed = _number(fields, 2), _number(fields, 3)
        if full < 0 or packed < 0:
            return
        if _number(fields, 1) == _DICTIONARY_PAGE:
            yield Page(packed, full, 0, False)
        else:
            first, second = fields.get(5), fields.get(8)
            said, encoding = (first, 2) if isinstance(first, dict) else (second if isinstance(second, dict) else {}, 4)
            kind = _number(said, encoding)
            shared = kind not in _AS_LONG_AS_STORED
            yield Page(packed, full, max(_number(said, 1), 0), shared, shared and kind not in _DICTIONARY)
        at += length + packed


@dataclass(frozen=True, slots=True)
class Extent:
    """The most bytes that one value of a column chunk may have, and all of them; how many values there are; whether some say
    only what they add to the one before; and a page that has too many bytes."""

    largest: int = 0
    content: int = 0
    values: int = 0
    prefixed: bool = False
    bomb: Page | None = None


def extent(file: BinaryIO, column: Column, limit: Callable[[int], int]) -> Extent:
    """What a column chunk's pages come to. `limit`: the most bytes that so many may become."""
    largest = content = dictionary = values = 0
    prefixed = False
    for page in headers(file, column):
        if page.full > limit(page.packed):
            return Extent(largest, content, values, prefixed, page)
        largest = max(largest, page.full)
        values, prefixed = values + page.values, prefixed or page.prefixed
        if page.values:
            content += page.values * max(dictionary, page.full) if page.shared else page.full
        else:
            dictionary = max(dictionary, page.full)
    return Extent(largest, content, values, prefixed)


def _number(fields: dict[int, Any], field: int) -> int:
    value = fields.get(field, 0)
    return value if isinstance(value, int) else 0


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct by field, and where it ends."""
    if depth > 8:
        raise ValueError("nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        kind = head & 15
        if kind not in (_TRUE, _FALSE):
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of this kind (None for those of no use here), and where it ends."""
    if kind in (_TRUE, _FALSE, _BYTE):
        return None, at + 1
    if kind in (_I16, _I32, _I64):
        return _integer(data, at)
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _plain(data, at)
        return data[at : at + length], at + length
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind not in (_LIST, _SET):
        raise ValueError("a kind of value that Thrift does not have")
    count, inner, at = _list(data, at)
    values = []
    for _ in range(count):
        value, at = _value(data, at, inner, depth)
        values.append(value)
    return values, at


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """How many values a list has, of which kind, and where they begin."""
    head = data[at]
    count, at = _plain(data, at + 1) if head >> 4 == 15 else (head >> 4, at + 1)
    return count, head & 15, at


def _plain(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("an integer without end")


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _plain(data, at)
    return (value >> 1) ^ -(value & 1), at
