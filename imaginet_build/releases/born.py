"""Where the bytes of each image lie in the parts, so that any one can be read alone, in any order, by any process.

`Store` writes images uncompressed and plain: the bytes of an image stand in its part as they are, after a page header and their
own length. The headers are read once (Apache Parquet format, `PageHeader`, in Thrift's compact protocol), and from then on an
image is one read at a known place. What was written otherwise, by another tool, is first copied to a scratch file, row by row.

Nothing here is trusted: a place that is wrong gives bytes whose SHA-256 is not the one in the facts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imaginet_build.store import StoreError

_HEADER = 256
"""Bytes read for one page header; without statistics they have about 40."""

_DATA_PAGE, _PLAIN = 0, 0
_BATCH = 32

Sizes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """`size` bytes from byte `start` of the file `path`."""

    path: str
    start: int
    size: int

    def read(self) -> bytes:
        """The bytes. Raises `StoreError` where the file is gone or shorter than it was."""
        data = bytearray(self.size)
        self.read_into(memoryview(data))
        return bytes(data)

    def read_into(self, room: memoryview) -> None:
        """Put the bytes into `room`, which has their size. Raises `StoreError` as `read` does."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                size = os.preadv(descriptor, [room], self.start) if self.size else 0
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read ({error}): run collect and generate again, then publish") from error
        if size != self.size:
            raise StoreError(f"{self.path} is shorter than it was: delete it, run collect and generate again, then publish")


class Born:
    """The places of the images of `parts`. `scratch`: where the images of parts that another tool wrote are put; the file is
    the caller's to delete. Raises `StoreError` for a part that cannot be read."""

    def __init__(self, parts: Sequence[Path], scratch: Path) -> None:
        self._scratch = scratch
        self._parts = parts
        self._places = [self._found(path) for path in parts]

    def place(self, part: int, row: int) -> Place:
        """Where the image of a row of a part lies. Raises `StoreError` for a row that the part no longer has."""
        path, start, size = self._places[part]
        if row >= len(start):
            raise StoreError(f"{self._parts[part]} has changed while it was read: publish again")
        return Place(path, int(start[row]), int(size[row]))

    def _found(self, path: Path) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
        """The file that holds the images of a part; start and size of each."""
        try:
            with pq.ParquetFile(path) as part, path.open("rb") as raw:
                nbytes = part.read(columns=["nbytes"], use_threads=False)["nbytes"].to_numpy().astype(np.int64)
                if found := _plain(part, raw, nbytes):
                    return str(path), *found
                return str(self._scratch), *_copied(part, self._scratch)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{path} cannot be read ({error}): delete it and run the same command again") from error


def _plain(part: pq.ParquetFile, raw: BinaryIO, nbytes: Sizes) -> tuple[Sizes, Sizes] | None:
    """Start and size of every image of a part, or None where they do not stand in it as they are."""
    schema = part.schema_arrow
    # Columns without parts: Parquet counts them as Arrow does. (`part.schema.column` of pyarrow 26 keeps its memory for ever.)
    if len(schema) != part.metadata.num_columns or schema.field("image").nullable:
        return None
    place, starts, row = schema.get_field_index("image"), [np.zeros(0, dtype=np.int64)], 0
    for group in range(part.num_row_groups):
        rows = part.metadata.row_group(group)
        chunk, end = rows.column(place), row + rows.num_rows
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
            return None
        at = chunk.data_page_offset
        while row < end:
            page = _page(os.pread(raw.fileno(), _HEADER, at))
            if page is None or row + page[2] > end:
                return None
            header, size, count = page
            mine = nbytes[row : row + count]
            if size != 4 * count + mine.sum():
                return None
            starts.append(at + header + 4 * np.arange(1, count + 1) + np.concatenate([[0], np.cumsum(mine)[:-1]]))
            at, row = at + header + size, row + count
    return np.concatenate(starts), nbytes


def _page(data: bytes) -> tuple[int, int, int] | None:
    """Length of the header, of the page, and its values, of a plain uncompressed data page; None for anything else."""
    try:
        header, length = _struct(data, 0)
        about = header[5]
        if header[1] != _DATA_PAGE or header[2] != header[3] or about[2] != _PLAIN:
            return None
        return length, header[2], about[1]
    except (IndexError, KeyError, ValueError):
        return None


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """One Thrift struct (compact protocol) by field number, and where it ends; ValueError for a kind no page header has."""
    fields: dict[int, Any] = {}
    number = 0
    while lead := data[at]:
        at += 1
        step, kind = lead >> 4, lead & 15
        if not step:
            step, at = _varint(data, at)
            step, number = step >> 1 ^ -(step & 1), 0
        number += step
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind in (4, 5, 6):
            value, at = _varint(data, at)
            fields[number] = value >> 1 ^ -(value & 1)
        elif kind == 8:
            length, at = _varint(data, at)
            at += length
        elif kind == 12:
            fields[number], at = _struct(data, at)
        else:
            raise ValueError(f"a field of kind {kind}")
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def _copied(part: pq.ParquetFile, scratch: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images of a part one after another at the end of `scratch`, where each begins there and how long it is."""
    sizes: list[int] = []
    first = scratch.stat().st_size if scratch.exists() else 0
    for batch in part.iter_batches(_BATCH, columns=["image"], use_threads=False):
        images = [image.as_py() for image in batch["image"]]
        _append(scratch, images)
        sizes += map(len, images)
    size = np.array(sizes, dtype=np.int64)
    return first + np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64) if len(size) else size, size


def _append(path: Path, images: Iterable[bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.writelines(images)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}. What was finished is kept; publish again to go on") from error
