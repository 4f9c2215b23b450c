"""What the images of one shard tell that no other column says: how many bytes they have, their JPEG quality, their format.

It is counted from the bytes themselves: while they are written into the shard, or from the file afterwards.
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import containers, jpegfile

NO_PIXELS = "no pixels"
"""The codec of a row whose pixels stay with their source."""

_AT_ONCE = 10
"""Images in memory."""

_HEAD = 4096
"""Bytes in which the header of most JPEGs ends; the rest of the file says nothing of its quality."""


class ShardPixels:
    """`nbytes`, `quality`: of every row, in order (0 and nan for a row without pixels, nan for what is no JPEG); `codecs`: rows
    by file extension."""

    def __init__(self) -> None:
        self.nbytes = array("I")
        self.quality = array("f")
        self.codecs: Counter[str] = Counter()

    @classmethod
    def of(cls, path: Path) -> ShardPixels:
        """Those of a finished shard."""
        found = cls()
        # A few rows at a time, nothing read ahead: not even a row group need fit into memory.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(_AT_ONCE, columns=["image"], use_threads=False):
                names = pc.struct_field(batch["image"], "path").to_pylist()
                for image, name in zip(pc.struct_field(batch["image"], "bytes"), names, strict=True):
                    found.add(image.as_buffer() if image.is_valid else None, name)
        return found

    def add(self, data: bytes | memoryview | pa.Buffer | None, name: str | None) -> None:
        """Count one more row; `data`, `name`: the two halves of its image."""
        self.nbytes.append(0 if data is None else memoryview(data).nbytes)
        self.quality.append(np.nan if data is None else _quality(memoryview(data)))
        self.codecs[NO_PIXELS if data is None else str(name).rpartition(".")[2]] += 1


def _quality(image: memoryview) -> float:
    """The quality a JPEG's tables lie nearest to; nan for what is no JPEG."""
    data = bytes(image[:_HEAD])
    if containers.sniff(data) != "jpeg":
        return np.nan
    try:
        found = jpegfile.quality(data)
    except BadImage:
        found = jpegfile.quality(bytes(image))
    return float(found or np.nan)
