"""The row groups of a Parquet file from a stranger: judged before they are read, then read in pieces that fit into memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.collectors import pages
from imaginet_build.collectors.members import FREE_BYTES, MAX_RATIO, Broken, BrokeOff

_FREE_ROWS = 100_000
"""A row group of more rows than this and than it has bytes is a bomb: nothing that is said in a row is less than a byte."""

_WIDTHS = (1, 4, 8, 12, 4, 8)
"""Bytes of a value of each physical type: BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE."""

_BYTE_ARRAY = 6
_COUNTED_ROWS = 4096
_LEAST_VALUE = 8
"""Bytes that a value of a list takes in memory beside its content."""

Fault = tuple[str, str]


class RowGroups:
    """An opened Parquet file. Raises `Broken`."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.judged: dict[tuple[int, tuple[str, ...]], Fault | None] = {}
        self.group = -1
        self.extents: dict[int, pages.Extent | None] = {}
        try:
            self.file = pq.ParquetFile(raw, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
            self.schema = self.file.schema_arrow
            self.stated = pages.row_groups(raw)
            if any(len(group.columns) != len(self.file.schema) for group in self.stated):
                raise ValueError("it states other columns than its schema has")
        except BrokeOff:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Broken("truncated" if "footer" in str(error).lower() else "damaged", _said(error)) from error
        self.lengths = [stated.rows for stated in self.stated]

    def batches(self, group: int, columns: Sequence[str], most: int) -> Iterator[pa.RecordBatch]:
        """The columns, at most `most` rows at a time: as many as surely fit into `FREE_BYTES`, and one at least."""
        leaves = self._leaves(group, columns)
        largest = sum(FREE_BYTES if (known := self._extent(group, n)) is None else known.largest for n in leaves)
        rows = max(1, min(most, FREE_BYTES // max(largest, 1)))
        stored = self._stored(group)
        came = 0
        try:
            for batch in self.file.iter_batches(rows, [group], list(columns), use_threads=False):
                came += batch.nbytes
                if came > _limit(stored):
                    raise Broken("bomb", f"{stored:,} bytes of row group {group} have already become {came:,}")
                yield batch
        except BrokeOff:
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise Broken("damaged", f"row group {group}: {_said(error)}") from error

    # --- bombs ---------------------------------------------------------------------------------------------------------

    def fault(self, group: int, columns: Sequence[str]) -> Fault | None:
        """Why these columns of a row group are a bomb: by what it states of itself, before anything is read; else, where its
        rows may share bytes, by what they come to, counted up to the limit."""
        asked = group, tuple(columns)
        if asked not in self.judged:
            self.judged[asked] = self._stated_too_much(group, columns) or self._shared_too_much(group, columns)
        return self.judged[asked]

    def _leaves(self, group: int, columns: Sequence[str]) -> list[int]:
        """The numbers of the stored columns that make up these."""
        paths = enumerate(column.path for column in self.stated[group].columns)
        return [n for n, path in paths if any(path == c or path.startswith(f"{c}.") for c in columns)]

    def _extent(self, group: int, number: int) -> pages.Extent | None:
        """What a stored column's pages come to; None where knowing it would mean fetching a long column twice."""
        if self.group != group:
            self.group, self.extents = group, {}
        if number not in self.extents:
            column = self.stated[group].columns[number]
            cheap = column.packed <= FREE_BYTES or isinstance(self.raw, io.BufferedReader)
            self.extents[number] = pages.extent(self.raw, column, _limit) if cheap else None
        return self.extents[number]

    def _stated_too_much(self, group: int, columns: Sequence[str]) -> Fault | None:
        stated, stored = self.stated[group], self._stored(group)
        if stated.rows > max(_FREE_ROWS, stored):
            return "bomb", f"row group {group} has {stated.rows:,} rows in {stored:,} bytes: nothing is as small"
        leaves = self._leaves(group, columns)
        if (full := sum(stated.columns[n].full for n in leaves)) > _limit(stored):
            return "bomb", f"{stored:,} bytes of row group {group} would become {full:,}"
        for number in leaves:
            known = self._extent(group, number)
            if known and (page := known.bomb):
                return "bomb", f"{page.packed:,} bytes of a page of row group {group} would become {page.full:,}"
        return None

    def _shared_too_much(self, group: int, columns: Sequence[str]) -> Fault | None:
        """By what the rows come to. A column is not judged by its own bytes: one licence on a million rows has hardly any,
        and is as honest as the addresses beside it."""
        flat: dict[str, int] = {}
        for number in self._leaves(group, columns):
            column = self.stated[group].columns[number]
            known = self._extent(group, number)
            if known is None:
                continue
            if self.file.schema.column(number).max_repetition_level:  # one row's list alone might not fit: nothing is opened
                limit = _limit(column.packed)
                content = self._of_lists(group, number, known, limit)
                if content > limit:
                    return "bomb", f"{column.path} of row group {group}: its lists may come to {content:,} bytes"
            else:
                flat[column.path] = known.content
        if sum(flat.values()) > _limit(self._stored(group)):
            try:
                for _ in self.batches(group, list(flat), _COUNTED_ROWS):
                    pass
            except Broken as error:  # damage is told where it is read, after the rows before it
                if error.reason == "bomb":
                    return "bomb", f"{error.detail}: its rows share bytes"
        return None

    def _stored(self, group: int) -> int:
        return sum(column.packed for column in self.stated[group].columns)

    def _of_lists(self, group: int, number: int, known: pages.Extent, limit: int) -> int:
        """What the lists of a stored column come to: the most they can, or counted as far as `limit` where that is more.

        They are counted by what they name of the dictionary, without being made.
        """
        column = self.stated[group].columns[number]
        if known.values * _LEAST_VALUE > limit:
            return known.values * _LEAST_VALUE
        if column.kind != _BYTE_ARRAY:
            width = _WIDTHS[column.kind] if column.kind < len(_WIDTHS) else int(self.file.schema.column(number).length)
            return known.values * width
        if known.content <= limit or known.prefixed:
            return known.content
        path = column.path
        total = 0
        try:
            named = pq.ParquetFile(self.raw, metadata=self.file.metadata, read_dictionary=[path], pre_buffer=False)
            for batch in named.iter_batches(_COUNTED_ROWS, [group], [path], use_threads=False):
                leaf = batch.column(0)
                while not pa.types.is_dictionary(leaf.type):
                    leaf = leaf.flatten()[0] if pa.types.is_struct(leaf.type) else leaf.flatten()
                total += int(pc.sum(pc.binary_length(leaf.dictionary).take(leaf.indices)).as_py() or 0)
                if total > limit:
                    break
        except BrokeOff:
            raise
        except (pa.ArrowException, OSError, ValueError):
            return total  # damage is told where it is read, after the rows before it
        return total


def _limit(packed: int) -> int:
    """The most bytes that so many may become."""
    return max(FREE_BYTES, MAX_RATIO * packed)


# --- cells -------------------------------------------------------------------------------------------------------------


def rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], Fault | None]]:
    """Each row of a batch, and why it is refused where it holds bytes that are no text: one row's fault is its own."""
    try:
        found = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from (_cell_by_cell(batch, number) for number in range(batch.num_rows))
    else:
        yield from ((row, None) for row in found)


def _cell_by_cell(batch: pa.RecordBatch, number: int) -> tuple[dict[str, Any], Fault | None]:
    row: dict[str, Any] = {}
    fault = None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = _value(column[number])
        except UnicodeDecodeError:
            row[name], fault = None, ("not-utf8", f"its column {name!a} holds bytes that are no UTF-8")
    return row, fault


def values(column: pa.Array) -> list[Any]:
    """The cells of a column; None where Python has no such thing, as for a day in the year 10000."""
    try:
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(cell) for cell in column]
    return found


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):
        return None


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
