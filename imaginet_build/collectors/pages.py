"""What the pages of a Parquet column say of their own sizes, read before Arrow makes room for them.

A footer can lie: Arrow allocates what each page's own header claims, up to two gigabytes. Headers are Thrift structs in the
compact protocol (parquet-format, PageHeader: 2 uncompressed_page_size, 3 compressed_page_size).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

_WINDOWS = (2**14, 2**20)
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12


def sizes(file: BinaryIO, column: Any) -> Iterator[tuple[int, int]]:
    """Packed and full size of every page of a column chunk (its metadata as pyarrow gives them). Ends where a header cannot be
    read: Arrow, which reads it next, says what is wrong with it."""
    at = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        at = min(at, column.dictionary_page_offset)
    end = at + column.total_compressed_size
    while at < end:
        for window in _WINDOWS:
            file.seek(at)
            head = file.read(window)
            try:
                fields, length = _struct(head, 0, 0)
                break
            except (IndexError, ValueError, RecursionError):
                if window == _WINDOWS[-1] or len(head) < window:
                    return
        full, packed = fields.get(2, 0), fields.get(3, 0)
        if full < 0 or packed < 0:
            return
        yield packed, full
        at += length + packed


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, int], int]:
    """The integers of a struct by field, and where it ends."""
    if depth > 8:
        raise ValueError("nested too deeply")
    fields: dict[int, int] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        kind = head & 15
        if kind in (_I16, _I32, _I64):
            fields[number], at = _integer(data, at)
        elif kind not in (_TRUE, _FALSE):
            at = _past(data, at, kind, depth)
    return fields, at + 1


def _past(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value of this kind ends."""
    if kind in (_TRUE, _FALSE, _BYTE):
        return at + 1
    if kind in (_I16, _I32, _I64):
        return _integer(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        length, at = _plain(data, at)
        return at + length
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)[1]
    if kind not in (_LIST, _SET):
        raise ValueError("no kind of a page header's fields")
    head = data[at]
    count, at = _plain(data, at + 1) if head >> 4 == 15 else (head >> 4, at + 1)
    for _ in range(count):
        at = _past(data, at, head & 15, depth + 1)
    return at


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
