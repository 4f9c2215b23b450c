"""Files of rows as people keep them: CSV, TSV, JSON Lines, Parquet, or plain text with a URL a line; one, or a folder of them.

They are read as streams and never held: a million rows cost what a thousand do. Cells are data: nothing in them is evaluated.
Bytes that are no UTF-8 are kept as lone surrogates, so that a row is judged by itself.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.errors import UsageError, suggest
from imaginet_build.records import Refusal

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
MAX_LINE = 1 << 20
"""A longer line is refused unread."""

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
    header = _header(path)
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
    if faults:
        raise UsageError(f"{path}: {'; '.join(faults)}. It has {', '.join(header)[:500] or 'no columns'}")
    return found


def _header(path: Path) -> list[str]:
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            with pq.ParquetFile(path) as file:
                return list(file.schema_arrow.names)
        if kind == ".txt":
            return ["url"]
        with path.open("rb") as raw:
            start = raw.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError(f"{path} is UTF-16: save it as UTF-8")
        if not start:
            raise UsageError(f"{path} is empty: there is not even a header")
        if kind in (".jsonl", ".ndjson"):
            objects = (row for _, row in _objects(path, 100) if not isinstance(row, Refusal))
            return list(dict.fromkeys(name for row in objects for name in row))
        return next((row for row in csv.reader(_texts(path, set()), delimiter=_delimiter(path)) if any(row)), [])
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a list of URLs: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def cells(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | Refusal]]:
    """The number of each row (of each line, in text) and its cells by field, or why it has none."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path, columns)
    elif kind in (".jsonl", ".ndjson"):
        for number, row in _objects(path):
            yield number, row if isinstance(row, Refusal) else {f: _text(row.get(c)) for f, c in columns.items()}
    elif kind == ".txt":
        for number, line in _lines(path):
            yield number, _TOO_LONG if line is None else {"url": line.decode("utf-8", "surrogateescape").strip()}
    else:
        yield from _table(path, columns)


_TOO_LONG = Refusal("broken-row", f"a line of more than {MAX_LINE:,} bytes")


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None in place of one that is too long to be read."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) < MAX_LINE or line.endswith(b"\n"):
                yield number, line
                continue
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            yield number, None


def _texts(path: Path, too_long: set[int]) -> Iterator[str]:
    """Lines as the csv module takes them. A line that is too long becomes a cell of one letter, and its number is noted."""
    for number, line in _lines(path):
        if line is None:
            too_long.add(number)
        yield "-\n" if line is None else line.decode("utf-8", "surrogateescape")


def _delimiter(path: Path) -> str:
    """A tab for .tsv; for .csv the one of comma, semicolon and tab that is most often in the header."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next((line for line in _texts(path, set()) if line.strip()), "")
    return max(",;\t", key=first.count)


def _table(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells | Refusal]]:
    too_long: set[int] = set()
    reader = csv.reader(_texts(path, too_long), delimiter=_delimiter(path))
    places: dict[str, int] | None = None
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, Refusal("broken-row", str(error))
            continue
        if reader.line_num in too_long:
            too_long.discard(reader.line_num)
            yield reader.line_num, _TOO_LONG
        elif not any(row):
            continue
        elif places is None:
            places = {field: row.index(column) for field, column in columns.items()}
        else:
            yield reader.line_num, {f: row[at] if at < len(row) else None for f, at in places.items()}


def _objects(path: Path, most: int | None = None) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    for number, line in _lines(path):
        if most is not None and number > most:
            return
        if line is None:
            yield number, _TOO_LONG
            continue
        text = line.decode("utf-8", "surrogateescape").strip()
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
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for group in range(file.num_row_groups):
            start = number
            try:
                names = list(dict.fromkeys(columns.values()))
                for batch in file.iter_batches(1024, row_groups=[group], columns=names, use_threads=False):
                    values = {field: _column(batch.column(name)) for field, name in columns.items()}
                    for row in range(batch.num_rows):
                        number += 1
                        yield number, {field: column[row] for field, column in values.items()}
            except (OSError, pa.ArrowException) as error:
                yield number + 1, Refusal("broken-list", f"row group {group} breaks off: {_first_line(error)}")
            number = start + file.metadata.row_group(group).num_rows


def _column(values: pa.Array) -> Sequence[str | None]:
    """A column in words; letters that are no UTF-8 as surrogates, nested values as None."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if any(test(kind) for test in _STRINGS):
        found: Iterable[bytes | None] = values.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in found]
    if pa.types.is_nested(kind):
        return [None] * len(values)
    return [None if value is None else str(value) for value in values.to_pylist()]


_STRINGS = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary,
    pa.types.is_binary_view,
)  # fmt: skip
