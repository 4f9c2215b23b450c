"""A data set as shards of rows that come one after the other, and how a seed draws from such a stream."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imaginet_build.collectors.columns import Row
from imaginet_build.collectors.members import BrokeOff
from imaginet_build.records import Found, Refusal, make_id

log = logging.getLogger(__name__)

WINDOW = 256
"""Rows of a shard among which the seed draws where only some are wanted."""

WINDOW_BYTES = 64 * 2**20

Answer = tuple[str, Found | Refusal | None]
"""A row's name, and what it is; None where it is here already."""


@dataclass(frozen=True, slots=True)
class Data:
    """An opened data set: its stream, the place its files lie below, class names, number of shards, and the Parquet files that
    are its shards, where they are."""

    stream: Any
    home: str
    names: Mapping[str, list[str]]
    shards: int
    files: Sequence[str]

    def rows(self, shard: int, start: int) -> Iterator[Row]:
        """The rows of one shard from `start` on."""
        stream = self.stream.shard(self.shards, shard) if self.shards > 1 else self.stream
        yield from stream.skip(start) if start else stream

    def length(self, shard: int) -> int | None:
        """How many rows a shard has, by its Parquet file's own end; None where nothing says so."""
        if len(self.files) != self.shards:
            return None
        import pyarrow.parquet as pq
        from datasets.utils.file_utils import xopen

        try:
            with xopen(self.files[shard], "rb") as file:
                return int(pq.ParquetFile(file).metadata.num_rows)
        except Exception as error:  # then it is read, and says what is wrong with it
            log.debug("%s: its length is not known: %s", self.files[shard], first_line(error))
            return None


def drawn(rows: Iterator[Answer], seed: int, keep: bool) -> Iterator[Found | Refusal]:
    """A shard's rows in an order that the seed draws: from a window, always the row whose number is the lowest.

    Rows that are here already take part as if they were not, so that the order of the others stays what it was. Where the rows
    break off, those that wait are given all the same if `keep` (nothing better will come), else left for the next call.
    """
    window: list[tuple[str, int, Found | Refusal | None]] = []
    held = 0

    def size(answer: Found | Refusal | None) -> int:
        return len(answer.data) if isinstance(answer, Found) else 0

    broken: BrokeOff | None = None
    for place in itertools.count():
        try:
            name, answer = next(rows)
        except StopIteration:
            break
        except BrokeOff as error:
            broken = error
            break
        heapq.heappush(window, (make_id(seed, name), place, answer))
        held += size(answer)
        while len(window) > WINDOW or held > WINDOW_BYTES:
            _, _, first = heapq.heappop(window)
            held -= size(first)
            if first is not None:
                yield first
    if broken is None or keep:
        yield from (waiting for _, _, waiting in sorted(window, key=lambda item: item[:2]) if waiting is not None)
    if broken is not None:
        raise broken


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
