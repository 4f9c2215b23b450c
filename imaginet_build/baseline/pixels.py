"""Where the pixels of a release lie, so that a training crop is read from one place of one file.

Parquet is read a row group at a time: a crop of one image would cost the bytes of a hundred. The shards that `publish` writes
hold each image whole and uncompressed, so an index (file, offset, length) reaches it. It is made once and kept, shard by shard.
A file from which a crop costs a full decode is kept beside the index in a form from which it does not: a JPEG without restart
markers gets them (jpegtran, which touches no coefficient), anything else becomes lossless tiles. Every pixel stays.
"""

from __future__ import annotations

import functools
import logging
import mmap
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from imaginet_build.errors import BadImage, BuildError
from imaginet_build.imagefiles import crops, tiles
from imaginet_build.images import decode

log = logging.getLogger(__name__)

JPEGTRAN_SECONDS = 60
"""More than the largest image allowed takes."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """Crops of the rows of one split. `where`: (rows, 3) int64: which of `files`, first byte, number of bytes."""

    files: tuple[Path, ...]
    where: npt.NDArray[np.int64]

    def crop(self, row: int, left: int, top: int, side: int) -> npt.NDArray[np.uint8]:
        """(side, side, 3) uint8 of one row, as of a full decode. Raises `BadImage`."""
        file, begin, size = (int(n) for n in self.where[row])
        return crops.crop(_mapped(self.files[file])[begin : begin + size], left, top, side, side)


def index(places: Sequence[tuple[Path, int, int]], folder: Path) -> Pixels:
    """The pixels of some rows (file, row group, row in that), from an index in `folder` that is made where it is missing.

    A shard that was replaced (another size or time of change) is indexed anew, and its old index goes.
    """
    shards = list(dict.fromkeys(path for path, _, _ in places))
    files: list[Path] = []
    found: dict[tuple[Path, int, int], tuple[int, int, int]] = {}
    for shard in shards:
        state = shard.stat()
        kept = folder / f"{shard.stem}.{state.st_size:x}.{state.st_mtime_ns:x}.pixels"
        table = _load(kept) if kept.with_suffix(".npy").is_file() else _make(shard, kept)
        found |= {(shard, int(g), int(i)): (len(files) + int(own), int(at), int(n)) for g, i, own, at, n in table}
        files += [shard, kept]
    return Pixels(tuple(files), np.array([found[place] for place in places], np.int64).reshape(-1, 3))


def _load(kept: Path) -> npt.NDArray[np.int64]:
    table: npt.NDArray[np.int64] = np.load(kept.with_suffix(".npy"), allow_pickle=False)
    if table.ndim != 2 or table.shape[1] != 5:
        raise BuildError(f"{kept.with_suffix('.npy')} is no index of pixels; remove {kept.parent} and train again")
    return table


def _make(shard: Path, kept: Path) -> npt.NDArray[np.int64]:
    """(rows, 5): row group, row, 0 in the shard or 1 beside it, first byte, bytes; written when all of it is there."""
    log.info("indexing the pixels of %s", shard.name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    for old in kept.parent.glob(f"{shard.stem}.*.*.*"):
        old.unlink()
    beside = kept.with_name(f".{kept.name}.{os.getpid()}")
    table: list[tuple[int, int, int, int, int]] = []
    whole = _mapped(shard)
    with pq.ParquetFile(shard) as file, beside.open("wb") as out:
        column = [file.metadata.schema.column(c).path for c in range(file.metadata.num_columns)].index("image.bytes")
        for group in range(file.num_row_groups):
            begin = int(file.metadata.row_group(group).column(column).data_page_offset)
            for row, cell in enumerate(file.read_row_group(group, columns=["image.bytes"])["image"]):
                data: bytes | None = cell["bytes"].as_py()
                if not data:
                    table.append((group, row, 0, 0, 0))
                    continue
                ready = _prepared(data)
                at = whole.find(data, begin) if ready is data else -1
                if at < 0:
                    table.append((group, row, 1, out.tell(), len(ready)))
                    out.write(ready)
                else:
                    table.append((group, row, 0, at, len(data)))
                    begin = at + len(data)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(kept)
    made = np.array(table, np.int64).reshape(-1, 5)
    with beside.open("wb") as out:
        np.save(out, made, allow_pickle=False)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(kept.with_suffix(".npy"))
    return made


def prepare(data: bytes) -> bytes:
    """The file itself where a crop of it is quick, else the same pixels in a form of which it is. Raises `BadImage`."""
    if crops.quick(data):
        return data
    pixels = np.asarray(decode(data))
    marked = _marked(data) if data[:2] == b"\xff\xd8" else None
    try:
        if marked is not None and crops.quick(marked) and np.array_equal(np.asarray(decode(marked)), pixels):
            return marked
    except BadImage:
        log.debug("jpegtran left a file that does not decode")
    return tiles.cut(pixels)


def _prepared(data: bytes) -> bytes:
    """A broken image stays what it is: whoever crops it hears of it."""
    try:
        return prepare(data)
    except BadImage:
        return data


def _marked(data: bytes) -> bytes | None:
    """A JPEG with a restart marker after each row of MCUs and without metadata; None where jpegtran is missing or fails."""
    program = shutil.which("jpegtran")
    if program is None:
        return None
    command = [program, "-copy", "none", "-optimize", "-restart", "1"]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=JPEGTRAN_SECONDS, check=False)  # noqa: S603 - a fixed program, bytes on stdin
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("jpegtran cannot be used (%s): tiles instead, which take more room", type(error).__name__)
        return None
    return done.stdout if done.returncode == 0 else None


@functools.lru_cache(maxsize=64)
def _mapped(path: Path) -> mmap.mmap:
    if not path.stat().st_size:
        raise BuildError(f"{path} is empty; remove {path.parent} and train again")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
