"""The rows of a release in its order, without their pixels: on disk, so that any number of them fits into memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build.records import SPLITS
from imaginet_build.releases import notices, release, rights, tiers
from imaginet_build.releases.carrying import Older
from imaginet_build.releases.joining import AT, Joined
from imaginet_build.releases.rowfile import RowFile

_ORDER = sorted(SPLITS)
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ReleaseRows:
    """What a version adds. `runs`: the rows of one split and tier after another, each sorted by id; `tiers`: the tiers there
    are (`tiers.Arranged`). `parts`: the files that hold the images; the columns `joining.AT` say where. `published`: by place
    in the plan. `names`: of categories, families and generators that occur."""

    runs: tuple[release.Run, ...]
    tiers: tuple[str, ...]
    parts: list[Path]
    published: NDArray[np.bool_]
    names: tuple[set[str], set[str | None], set[str | None]]
    file: RowFile
    numbers: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """How many."""
        return sum(run.rows for run in self.runs)

    def rows(self, some: range) -> Iterator[dict[str, Any]]:
        """The rows `some`, in order, as mappings."""
        left, skip = len(some), some.start
        for number, run in zip(self.numbers, self.runs, strict=True):
            if skip >= run.rows:
                skip -= run.rows
                continue
            for batch in self.file.batches(number, skip):
                for start in range(0, min(batch.num_rows, left), _AT_ONCE):
                    yield from batch.slice(start, min(_AT_ONCE, left - start)).to_pylist()
                left -= min(batch.num_rows, left)
                if not left:
                    return
            skip = 0

    def digest(self, settings: object) -> str:
        """What the data of a release follows from: its settings, and every row. How parts are cut does not matter."""
        columns: dict[str, tuple[Any, Any]] = {}
        for number in self.numbers:
            for batch in self.file.batches(number):
                for name in batch.schema.names:
                    if name not in {*AT, "at", "rank"}:
                        states = columns.setdefault(name, (hashlib.sha256(), hashlib.sha256()))
                        for state, data in zip(states, _plain(batch[name]), strict=True):
                            state.update(data)
        found = {name: [state.hexdigest() for state in states] for name, states in columns.items()}
        runs = [[run.split, run.tier, run.rows] for run in self.runs]
        return hashlib.sha256(json.dumps([settings, runs, found], sort_keys=True).encode()).hexdigest()


def arranged(joined: Joined, file: RowFile, cleared: rights.Clearance, older: Older) -> ReleaseRows:
    """Put what is joined, but for rows that an older version has, into `file` in the order of the release."""
    members = tiers.Members(int(joined.keep.sum()))
    for table in joined.tables():
        members.add(older.added(notices.corrected(table, cleared.notices.errata)))
    _give_back()
    found = tiers.arrange(members, *tiers.before(older.previous))
    del members
    _give_back()
    published = np.zeros(len(joined.keep), dtype=bool)
    names: tuple[set[str], set[str | None], set[str | None]] = (set(), set(), set())
    nbytes: Counter[int] = Counter()
    done = 0
    for table in (older.added(rights.applied(table, cleared)) for table in joined.tables()):
        if not table.num_rows:
            continue
        published[table["at"].to_numpy()] = True
        names[0].update(table["category"].unique().to_pylist())
        names[1].update(table["family"].unique().to_pylist())
        names[2].update(table["generator"].unique().to_pylist())
        split = pc.index_in(table["split"], value_set=pa.array(_ORDER)).to_numpy()
        number = split * (len(found.names) + 1) + found.place[done : done + table.num_rows]
        done += table.num_rows
        for one in np.unique(number).tolist():
            some = table.filter(pa.array(number == one))
            file.put(one, some)
            nbytes[one] += pc.sum(some["nbytes"]).as_py()
    numbers = tuple(file.numbers())
    runs = tuple(
        release.Run(_ORDER[one // (len(found.names) + 1)], one % (len(found.names) + 1), file.rows(one), nbytes[one])
        for one in numbers
    )
    return ReleaseRows(runs, found.names, joined.parts, published, names, file, numbers)


def _give_back() -> None:
    """What was many small arrays: else it stays in pieces that are too small for what comes next."""
    pa.system_memory_pool().release_unused()


def _plain(column: pa.Array) -> tuple[bytes | pa.Buffer, bytes | pa.Buffer]:
    """The values of a column one after another, and how long each is (words) or which are there (numbers)."""
    if pa.types.is_string(column.type):
        lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy()
        whole = pc.fill_null(column, "")
        start, end = (whole.offset, whole.offset + len(whole))
        ends = np.frombuffer(whole.buffers()[1], dtype=np.int32)
        return whole.buffers()[2].slice(int(ends[start]), int(ends[end] - ends[start])) if ends[end] else b"", lengths.tobytes()
    values = pc.fill_null(column, 0).to_numpy()
    return values.tobytes(), column.is_valid().to_numpy(zero_copy_only=False).tobytes()
