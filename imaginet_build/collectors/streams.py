"""A data set as shards of rows that come one after the other, and how a seed draws from such a stream."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaginet_build.collectors import rowgroups
from imaginet_build.collectors.columns import Row
from imaginet_build.collectors.members import BrokeOff
from imaginet_build.collectors.rowgroups import Fault
from imaginet_build.records import Found, Refusal, make_id

log = logging.getLogger(__name__)

WINDOW = 256
"""Rows of a shard among which the seed draws where only some are wanted."""

WINDOW_BYTES = 64 * 2**20

_ROWS = 16
"""Rows of a Parquet file held at a time, fewer where they might not fit into memory."""

Numbered = tuple[int, Row | str, Fault | None]
"""A row's number, the row, and why it is refused; in place of the row the name of a row group that is refused as a whole."""

Answer = tuple[str, Found | Refusal | None]
"""A row's name, and what it is; None where it is here already."""


@dataclass(frozen=True, slots=True)
class Data:
    """An opened data set: its stream, the place its files lie below, class names, number of shards, the Parquet files that
    are its shards, where they are, and the columns that are wanted."""

    stream: Any
    home: str
    names: Mapping[str, list[str]]
    shards: int
    files: Sequence[str]
    columns: Sequence[str]

    def rows(self, shard: int, start: int) -> Iterator[Numbered]:
        """The rows of one shard from `start` on."""
        if len(self.files) == self.shards and (path := Path(self.files[shard])).is_file():
            yield from _of_parquet(path, start, self.columns)
            return
        stream = self.stream.shard(self.shards, shard) if self.shards > 1 else self.stream
        for number, row in enumerate(stream.skip(start) if start else stream, start):
            yield number, row, None

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


def _of_parquet(path: Path, start: int, columns: Sequence[str]) -> Iterator[Numbered]:
    """The rows of a Parquet file on this machine, none of it read that is a bomb, and no row's fault another's."""
    number = 0
    with path.open("rb") as raw:
        groups = rowgroups.RowGroups(raw)
        for group, length in enumerate(groups.lengths):
            after = number + length
            if after > start and (fault := groups.fault(group, columns)):
                yield number, f"row-group-{group}", fault
            elif after > start:
                rows = (row for batch in groups.batches(group, columns, _ROWS) for row in rowgroups.rows(batch))
                for at, (row, wrong) in enumerate(rows, number):
                    if at >= start:
                        yield at, row, wrong
            number = after


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
