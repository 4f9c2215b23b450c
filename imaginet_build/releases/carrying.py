"""What a version takes over from the one before: its data files byte for byte, but for rows that are withdrawn or put right."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imaginet_build.errors import BuildError
from imaginet_build.releases import licences, living
from imaginet_build.releases.living import Previous
from imaginet_build.releases.notices import CORRECTABLE, Erratum
from imaginet_build.releases.shardwriter import ShardWriter

log = logging.getLogger(__name__)

DECIDED = ("split", "left", "top", "width", "height", "codec", "quality", "subsampling", "first_quality", "first_subsampling")
"""What a plan decides of a row, and no later version may decide otherwise."""

_STAYING = ("category", "origin", "group")
"""What a published row keeps, whatever the plan says of it now."""

_AT_ONCE = 50


@dataclass(frozen=True)
class Older:
    """What is there already; nothing for a first version. `plan`: all that the work folder's plan says; `errata`: what was
    wrong with rows."""

    plan: pa.Table
    previous: Previous | None = None
    errata: Sequence[Erratum] = ()

    @cached_property
    def right(self) -> Mapping[str, Mapping[str, str]]:
        """By id the columns of older rows that are to be put right."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        wanted = {(e.id, e.column): e.value for e in self.errata if e.column in CORRECTABLE}
        for name, column in wanted if self.previous else ():
            value = wanted[name, column]
            found[name][column] = licences.spdx(value) if column == "licence" else value
        if self.previous is None or not found:
            return {}
        rows = self.previous.rows.filter(pc.is_in(self.previous.rows["id"], value_set=pa.array(sorted(found), pa.string())))
        return {
            row["id"]: found[row["id"]]
            for row in rows.to_pylist()
            if any(row[column] != value for column, value in found[row["id"]].items())
        }

    @property
    def touched(self) -> frozenset[str]:
        """The ids whose files are written again."""
        return frozenset() if self.previous is None else self.previous.withdrawn | self.right.keys()

    def added(self, kept: pa.Table) -> pa.Table:
        """The rows of `kept` that are new."""
        if self.previous is None:
            return kept
        return kept.filter(pc.invert(pc.is_in(kept["id"], value_set=self.previous.plan["id"].combine_chunks())))

    def check(self) -> None:
        """Raises `BuildError` where the plan decides of older rows otherwise than when they were published."""
        if self.previous is None:
            return
        old, plan = self.previous.staying, self.plan
        place = pc.index_in(plan["id"], value_set=old["id"].combine_chunks())
        now, was = plan.filter(pc.is_valid(place)), old.take(place.drop_null())
        unlike = np.asarray(pc.invert(now["keep"]).to_numpy(), dtype=bool)
        for name in DECIDED:
            unlike |= _unlike(now[name], was[name])
        if unlike.any():
            raise BuildError(
                f"the plan decides otherwise than {self.previous.folder} of {int(unlike.sum())} rows, such as "
                f"{now['id'][int(np.argmax(unlike))].as_py()}: make it anew with build-imaginet balance --from "
                f"{self.previous.folder}"
            )
        for name in _STAYING:
            if (odd := np.flatnonzero(_unlike(now[name], was[name]))).size:
                first = int(odd[0])
                log.warning(
                    "%d rows of %s are of another %s by now, such as %s (%s, published as %s): they stay as they were. "
                    "To have them out, list them in takedown.csv",
                    odd.size, self.previous.folder, name,
                    *(side[first].as_py() for side in (now["id"], now[name], was[name])),
                )  # fmt: skip

    def number(self, more: int, wanted: str | None) -> str:
        """The version: the one `wanted`, or the next one. `more`: how many rows are new."""
        changed = self.previous is not None and bool(more or self.previous.gone or self.right)
        return living.next_version(self.previous, changed, wanted)

    def inputs(self, number: str) -> list[object]:
        """What the data follows from besides the new rows; nothing for a first version."""
        if self.previous is None:
            return []
        gone = sorted(self.previous.withdrawn.intersection(self.previous.plan["id"].to_pylist()))
        right = hashlib.sha256(json.dumps(self.right, sort_keys=True).encode()).hexdigest()
        return [number, self.previous.manifest["digest"], gone, right]

    def carry(self, to: Path) -> dict[str, dict[str, object]]:
        """Put the older data files into the folder `to`: linked where the file system can, else copied; without the rows that
        are withdrawn, and what was made from them. Returns `{path: {"sha256", "nbytes"}}`."""
        known: dict[str, dict[str, object]] = {}
        if self.previous is None:
            return known
        for path, facts in self.previous.manifest["files"].items():
            if not path.startswith("data/"):
                continue
            old, new = self.previous.folder / path, to / path
            new.parent.mkdir(parents=True, exist_ok=True)
            if self.touched and not self.touched.isdisjoint(_ids(old)):
                new.unlink(missing_ok=True)
                if written := self._again(old, new):
                    known[path] = written
            else:
                link(old, new)
                known[path] = dict(facts)
        return known

    def _again(self, old: Path, new: Path) -> dict[str, object] | None:
        """A file without the rows that are withdrawn, the others put right; None where nothing is left of it."""
        gone = self.previous.withdrawn if self.previous else frozenset()
        if gone.issuperset(_ids(old)):
            return None
        with pq.ParquetFile(old) as file, ShardWriter(new, file.schema_arrow) as writer:
            key = _key(file.schema_arrow)
            for batch in file.iter_batches(batch_size=_AT_ONCE):
                some = batch.filter(pc.invert(pc.is_in(batch[key], value_set=pa.array(sorted(gone), pa.string()))))
                for row in some.to_pylist():
                    image = row["image"] or {"bytes": None, "path": None}  # withheld: no image at all
                    writer.add(row | self.right.get(row[key], {}) | {"image": (image["bytes"], image["path"])})
            return writer.commit()


def link(old: Path, new: Path) -> None:
    """`new` with the bytes of `old`, as a second name of the same file where that can be."""
    beside = new.with_name(new.name + ".tmp")
    beside.unlink(missing_ok=True)
    try:
        os.link(old, beside)
    except OSError:
        shutil.copyfile(old, beside)
    beside.replace(new)
    beside.unlink(missing_ok=True)  # it stays where both names are of one file already


def _unlike(now: pa.ChunkedArray, was: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where two columns differ; nothing is like nothing."""
    null = [pc.is_null(side) for side in (now, was)]
    same = pc.or_(pc.fill_null(pc.equal(now, was), False), pc.and_(*null))
    return ~np.asarray(same.to_numpy(), dtype=bool)


def _key(schema: pa.Schema) -> str:
    """The column that names the published image: of a row that was made from another, that other one."""
    return "parent_id" if "parent_id" in schema.names else "id"


def _ids(path: Path) -> list[str]:
    column = _key(pq.read_schema(path))
    ids: list[str] = pq.read_table(path, columns=[column])[column].to_pylist()
    return ids
