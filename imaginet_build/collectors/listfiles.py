"""Files of rows as people keep them: CSV, TSV, JSON Lines, Parquet, or plain text with a URL a line; one, or a folder of them.

They are read as streams and never held: a million rows cost what a thousand do. Cells are data: nothing in them is evaluated.
Bytes that are no UTF-8 are kept as lone surrogates, so that a row is judged by itself. A stray quote costs its own line.
"""

from __future__ import annotations

import csv
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.collectors import rowgroups
from imaginet_build.collectors.members import Broken
from imaginet_build.errors import UsageError, suggest
from imaginet_build.records import Refusal

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
MAX_LINE = 1 << 20
"""Characters; a longer line is refused unread."""

MAX_SPAN = 100
"""Lines that one row may span, where a quoted cell holds line ends."""

NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url", "urls"),
    "key": ("key",),
    "caption": ("caption", "prompt", "text"),
    "group": ("group",),
    "sha256": ("sha256",),
    "md5": ("md5",),
    "etag": ("etag",),
    "origin": ("origin",),
    "category": ("category", "content_type"),
    "generator": ("generator",),
    "licence": ("licence", "license"),
    "source": ("source",),
    "stratum": ("stratum",),
    "date": ("date", "uploaded", "upload_date", "date_uploaded"),
}
"""What a list may say of an image, and the column names (in any case) that are taken for it where no option names one."""

_SUFFIXED = frozenset({"url", "origin", "category", "generator", "licence", "source"})  # the others are options by themselves

Cells = dict[str, str | None]


def files(index: Path) -> list[Path]:
    """The file itself, or the lists in the folder, by name. Raises `UsageError` where there is none of a known form."""
    kinds = ", ".join(SUFFIXES)
    if index.is_dir():
        found = sorted(path for path in index.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
        if not found:
            raise UsageError(f"no list in {index}: it may hold {kinds}")
        return found
    if not index.is_file():
        near = suggest(index.name, [p.name for p in index.parent.iterdir()]) if index.parent.is_dir() else ""
        raise UsageError(f"no list {index}{near or '.'} Give the file that names the images as `root`")
    if index.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{index}: a list of URLs is one of {kinds}, by its name")
    return [index]


def columns(path: Path, asked: Mapping[str, str | None]) -> dict[str, str]:
    """Field of `NAMES` -> the column of this file that has it. Raises `UsageError` for a file or a column that is not there."""
    kinds = _header(path)
    header = list(kinds)
    by_case = {name.strip().lower(): name for name in reversed(header)}
    found: dict[str, str] = {}
    faults: list[str] = []
    for field, usual in NAMES.items():
        name = asked.get(field)
        if name is None:
            known = next((by_case[word] for word in usual if word in by_case), None)
            found |= {} if known is None else {field: known}
        elif name in header:
            found[field] = name
        elif name:
            option = f"{field}_column" if field in _SUFFIXED else field
            faults.append(f"{option}: no column '{name}'{suggest(name, header)}")
    if "url" not in found and not faults:
        faults.append("no column 'url': name the one that holds URLs with the option `url_column`")
    for field, name in tuple(found.items()):
        kind = kinds[name]
        if kind is None or _is_text(kind) or (field != "url" and not pa.types.is_nested(kind)):
            continue
        if field == "url" or asked.get(field):
            faults.append(f"the column '{name}' holds {kind}, which is no text: give one of strings")
        else:
            log.warning("%s: its column '%s' is not taken as %s: it holds %s, which is no text", path, name, field, kind)
        del found[field]
    if faults:
        raise UsageError(f"{path}: {'; '.join(faults)}. It has {', '.join(header)[:500] or 'no columns'}")
    return found


def _header(path: Path) -> dict[str, pa.DataType | None]:
    """The names of the columns, with their types where the file states them."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            with pq.ParquetFile(path) as file:
                return {field.name: field.type for field in file.schema_arrow}
        if kind == ".txt":
            return {"url": None}
        with path.open("rb") as raw:
            start = raw.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError(f"{path} is UTF-16: save it as UTF-8")
        if not start:
            raise UsageError(f"{path} is empty: there is not even a header")
        if kind in (".jsonl", ".ndjson"):
            objects = (row for _, row in _objects(path, 100) if not isinstance(row, Refusal))
            return dict.fromkeys(name for row in objects for name in row)
        for number, names in records(lines(path), _delimiter(path), _holds_an_address):
            if isinstance(names, Refusal):
                raise UsageError(f"{path}: line {number} should name the columns, but {names.detail}")
            if any(names):
                return dict.fromkeys(names)
        return {}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as a list of URLs: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def cells(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | Refusal]]:
    """The number of each row (of its line, in text) and its cells by field, or why it has none; empty lines are passed over."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path, columns)
    elif kind in (".jsonl", ".ndjson"):
        for number, row in _objects(path):
            yield number, row if isinstance(row, Refusal) else _of_object(row, columns)
    elif kind == ".txt":
        for number, line in lines(path):
            if line is None:
                yield number, TOO_LONG
            elif line.strip():
                yield number, {"url": line.strip()}
    else:
        yield from _table(path, columns)


TOO_LONG = Refusal("broken-row", f"a line of more than {MAX_LINE:,} characters")


def lines(path: Path, errors: str = "surrogateescape") -> Iterator[tuple[int, str | None]]:
    """Each line with its number; None in place of one that is too long to be read. `errors`: see `open`."""
    with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) < MAX_LINE or line.endswith(("\n", "\r")):
                yield number, line
                continue
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                pass
            yield number, None


def records(
    lines: Iterable[tuple[int, str | None]], delimiter: str, is_row: Callable[[list[str]], bool]
) -> Iterator[tuple[int, list[str] | Refusal]]:
    """The rows of a table in text that are not empty, each with the number of the line it begins on; or why a line is none.

    A quoted cell may hold line ends if it is closed within `MAX_SPAN` lines, nothing but a delimiter follows its closing
    quote, and no line in between reads as a row by itself (`is_row`). Else a quote went astray: the line it stands on is
    refused, and reading goes on with the very next line, so that one flaw costs one line.
    """
    source = iter(lines)
    ahead: deque[tuple[int, str | None]] = deque()
    while item := ahead.popleft() if ahead else next(source, None):
        number, line = item
        if line is None:
            yield number, TOO_LONG
            continue
        taken: list[tuple[int, str | None]] = []
        span = _span(line, ahead, source, taken, delimiter, is_row) if '"' in line else (line,)
        reader = csv.reader(span, delimiter=delimiter, strict=True)
        try:
            row = next(reader)
        except csv.Error as error:
            ahead.extendleft(reversed(taken))
            yield number, Refusal("broken-row", _why(line, error))
            continue
        if row:
            yield number, row


def _span(
    line: str,
    ahead: deque[tuple[int, str | None]],
    source: Iterator[tuple[int, str | None]],
    taken: list[tuple[int, str | None]],
    delimiter: str,
    is_row: Callable[[list[str]], bool],
) -> Iterator[str]:
    """A line, and those after it for as long as they may belong to the same row; what was taken for that is noted."""
    yield line
    size = 0
    while len(taken) < MAX_SPAN - 1 and size < MAX_LINE and (item := ahead.popleft() if ahead else next(source, None)):
        taken.append(item)
        following = item[1]
        if following is None or is_row(_alone(following, delimiter)):
            return
        size += len(following)
        yield following


def _alone(line: str, delimiter: str) -> list[str]:
    """The cells of a line by itself, whatever its quotes are like."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _why(line: str, error: csv.Error) -> str:
    if '"' not in line or "field limit" in str(error):
        return f"it is not a row of cells: {error}"
    return f"a quote in it is not closed, or is not written twice inside of quotes ({error})"


def _holds_an_address(cells: Iterable[str]) -> bool:
    return any("://" in cell for cell in cells)


def _delimiter(path: Path) -> str:
    """A tab for .tsv; for .csv the one of comma, semicolon and tab that is most often in the header."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next((line for _, line in lines(path) if line and line.strip()), "")
    return max(",;\t", key=first.count)


def _table(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | Refusal]]:
    places: dict[str, int] = {}
    width = 0

    def is_row(row: list[str]) -> bool:
        if not places:
            return _holds_an_address(row)
        return len(row) == width and _holds_an_address([row[places["url"]]])

    for number, row in records(lines(path), _delimiter(path), is_row):
        if isinstance(row, Refusal):
            yield number, row
        elif not any(row):
            continue
        elif not places:
            places, width = {field: row.index(column) for field, column in columns.items()}, len(row)
        else:
            yield number, {f: row[at] if at < len(row) else None for f, at in places.items()}


def _of_object(row: Mapping[str, Any], columns: Mapping[str, str]) -> Cells | Refusal:
    """The cells of a JSON object; a key in another case is taken where the column's own is not there."""
    if any(column not in row for column in columns.values()):
        by_case = {name.strip().lower(): value for name, value in row.items()}
        found = {field: row.get(column, by_case.get(column.strip().lower())) for field, column in columns.items()}
    else:
        found = {field: row[column] for field, column in columns.items()}
    url, column = found["url"], columns["url"]
    if url is None:
        near = suggest(column, filter(str.isprintable, row))
        return Refusal("no-url", f"its '{column}' is null" if column in row else f"no '{column}'{near}")
    if _text(url) is None:
        return Refusal("no-url", f"its '{column}' is no text but {json.dumps(url)[:60]}")
    return {field: _text(value) for field, value in found.items()}


def _objects(path: Path, most: int | None = None) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    for number, line in lines(path):
        if most is not None and number > most:
            return
        if line is None:
            yield number, TOO_LONG
            continue
        text = line.strip()
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, Refusal("broken-row", f"it is not JSON: {_first_line(error)}")
            continue
        yield number, row if isinstance(row, dict) else Refusal("broken-row", "it is JSON, but no object")


def _text(value: object) -> str | None:
    """A value in words; None for what has none, such as a list."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _parquet(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | Refusal]]:
    number = 0
    names = list(dict.fromkeys(columns.values()))
    with path.open("rb") as raw:
        try:
            groups = rowgroups.RowGroups(raw)
        except Broken as error:
            yield 1, Refusal("broken-list", _first_line(error))
            return
        for group, length in enumerate(groups.lengths):
            start = number
            try:
                if fault := groups.fault(group, names):
                    raise Broken(*fault)
                for batch in groups.batches(group, names, 1024):
                    values = {field: _column(batch.column(name)) for field, name in columns.items()}
                    for row in range(batch.num_rows):
                        number += 1
                        yield number, _short({field: column[row] for field, column in values.items()})
            except (Broken, pa.ArrowException, OSError, ValueError, OverflowError) as error:
                reason = "bomb" if isinstance(error, Broken) and error.reason == "bomb" else "broken-list"
                yield number + 1, Refusal(reason, f"row group {group} breaks off: {_first_line(error)}")
            number = start + length


def _short(row: Cells) -> Cells | Refusal:
    """The row, where no cell of it is longer than a line of text may be."""
    longest = max((len(cell) for cell in row.values() if cell), default=0)
    return row if longest <= MAX_LINE else Refusal("broken-row", f"a cell of {longest:,} characters, more than {MAX_LINE:,}")


def _column(values: pa.Array) -> Sequence[str | None]:
    """A column in words; letters that are no UTF-8 as surrogates."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if any(test(values.type) for test in _STRINGS):
        found: Iterable[bytes | None] = values.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in found]
    return [None if value is None else str(value) for value in rowgroups.values(values)]


_STRINGS = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary,
    pa.types.is_binary_view,
)  # fmt: skip


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold text; one that is null in every row says nothing else."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_null(kind) or any(test(kind) for test in _STRINGS)
