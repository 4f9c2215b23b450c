"""Plan and facts of every image to be published, joined on disk.

The plan lies in the order of the ids, the facts in that of the parts. In memory are a few numbers for each image and its id;
everything else is brought into the plan's order by way of a scratch file, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build.errors import BuildError
from imaginet_build.records import SPLITS
from imaginet_build.releases.rowfile import RowFile
from imaginet_build.store import Store, StoreError

FACTS = (
    *("family", "generator", "source", "source_key", "licence", "prompt", "seed", "pair_id"),
    *("sha256", "nbytes", "codec", "width", "height", "phash"),
)
VIEW = ("left", "top", "width", "height", "codec", "quality", "subsampling", "first_quality", "first_subsampling")
AT = ("part", "row")
"""Where the image lies: the number of its part in `Joined.parts`, and its row there."""

_ROWS = 1 << 14
"""Rows of facts in memory before they are set aside."""


class Joined:
    """What is to be published. `parts`: the files that hold it; `keep`: whether each image of the plan is; `left_out`: places
    in the plan and source keys of those that are not.

    Raises `BuildError` where plan and parts do not go together or the plan keeps nothing, `StoreError` for an id in two parts.
    """

    def __init__(self, store: Store, scratch: RowFile) -> None:
        self.parts: list[Path] = store.parts()
        self._store, self._scratch = store, scratch
        self.keep, self._starts, ids, self._group = _chosen(store)
        self._shared = np.zeros(0, dtype=np.int64)
        self.left_out = self._facts(ids)

    def tables(self) -> Iterator[pa.Table]:
        """Plan and facts of the images to be published, sorted by id, a piece at a time. `at`: the place in the plan; `AT`:
        that in the parts; `rank`: the group's number among all, by name; columns of the view begin with `view_`."""
        done = 0
        columns = ["id", "category", "origin", "split", "group", *VIEW]
        # Made here: the first scalar that pyarrow makes imports pandas, and no other command should wait for that.
        nothing = pa.scalar(None, pa.string())
        for number, (start, piece) in enumerate(_pieces(self._store, columns)):
            place = np.flatnonzero(self.keep[start : start + piece.num_rows])
            if not len(place):
                continue
            plan = pa.Table.from_batches([piece.take(pa.array(place))])
            facts = pa.Table.from_batches(list(self._scratch.batches(number)))
            facts = facts.take(pc.sort_indices(facts["at"]))
            table = plan.select(columns[:5])
            synthetic = pc.equal(plan["origin"], "synthetic")
            for name in (*FACTS, *AT, "at"):
                column = facts[name]
                if name in {"family", "generator"}:
                    # A folder may not say what drew its images; a real image has no generator whatever its card says.
                    column = pc.if_else(synthetic, pc.fill_null(column, "unknown"), nothing)
                elif name == "pair_id":
                    # Only where another kept image shares it: a photograph without its fake is no pair.
                    column = pc.if_else(pa.array(_among(_hashes(column), self._shared)), column, nothing)
                table = table.append_column(name, column)
            for name in VIEW:
                table = table.append_column(f"view_{name}", plan[name])
            yield table.append_column("rank", pa.array(self._group[done : done + len(place)])).combine_chunks()
            done += len(place)

    def _facts(self, ids: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], pa.ChunkedArray]:
        """Set the facts of every kept image aside, under the piece of the plan it stands in."""
        seen = np.zeros(len(ids), dtype=bool)
        held: list[pa.Table] = []
        pairs, places, keys = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], [pa.array([], pa.string())]
        for number, path in enumerate(self.parts):
            table = self._store.facts_of(path, FACTS)
            names = _bytes(table["id"], ids.dtype)
            place = np.searchsorted(ids, names)
            known = np.flatnonzero(_among(names, ids))
            place = place[known]
            ordered = np.sort(place)
            twice = [*ordered[1:][ordered[1:] == ordered[:-1]].tolist(), *place[seen[place]].tolist()]
            if twice:
                name = ids[min(twice)].decode()
                raise StoreError(
                    f"id {name} stands in two parts of {self._store.root}/parts: delete the part that was copied there"
                )
            seen[place] = True
            kept = self.keep[place]
            places.append(place[~kept])
            keys.append(table["source_key"].take(pa.array(known[~kept])).combine_chunks())
            table = table.take(pa.array(known[kept])).drop_columns(["id"])
            pairs.append(_hashes(table["pair_id"].drop_null()))
            table = table.append_column("part", pa.array(np.full(table.num_rows, number, dtype=np.int32)))
            table = table.append_column("row", pa.array(known[kept].astype(np.int32)))
            held.append(table.append_column("at", pa.array(place[kept])))
            if sum(one.num_rows for one in held) >= _ROWS:
                self._aside(held)
        self._aside(held)
        if (lost := np.flatnonzero(self.keep & ~seen)).size:
            raise BuildError(
                f"the plan keeps {lost.size} images that no part holds, such as {ids[lost[0]].decode()}: run build-imaginet "
                "balance again"
            )
        hashes, counts = np.unique(np.concatenate(pairs), return_counts=True)
        self._shared = hashes[counts > 1]
        order = np.argsort(np.concatenate(places))
        return np.concatenate(places)[order], pa.chunked_array(keys).take(pa.array(order))

    def _aside(self, held: list[pa.Table]) -> None:
        if not held:
            return
        table = pa.concat_tables(held)
        held.clear()
        table = table.take(pc.sort_indices(table["at"]))
        piece = np.searchsorted(self._starts, table["at"].to_numpy(), side="right") - 1
        for number in np.unique(piece).tolist():
            first, last = np.searchsorted(piece, [number, number + 1])
            self._scratch.put(number, table.slice(first, last - first))


def _pieces(store: Store, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The plan a piece at a time, always the same ones, each with the place of its first row."""
    start = 0
    for batch in store.plan_batches(columns):
        yield start, batch
        start += batch.num_rows


def _chosen(store: Store) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.bytes_], NDArray[np.int32]]:
    """Whether each image of the plan is published; the first place of each piece; the id of each image; the number of the group
    of each that is published."""
    keep, starts, width, group = _groups(store)
    ids = np.empty(len(keep), dtype=f"S{width}")
    for start, batch in _pieces(store, ["id"]):
        ids[start : start + batch.num_rows] = _bytes(batch["id"], ids.dtype)
    if (ids[1:] <= ids[:-1]).any():
        raise BuildError(f"{store.plan_path} is not sorted by id, or has one twice: make it anew with build-imaginet balance")
    return keep, starts, ids, group


def _groups(store: Store) -> tuple[NDArray[np.bool_], NDArray[np.int64], int, NDArray[np.int32]]:
    """As `_chosen`, but of the ids the length of the longest alone: the names of the groups are long too, and go first."""
    refused = store.rejects().filter(pc.field("stage") == "publish")["id"].combine_chunks()
    starts, width = [], 1
    keep: list[NDArray[np.bool_]] = []
    groups: list[pa.Array] = []
    splits: list[NDArray[np.int8]] = []
    lost: list[str] = []
    for start, batch in _pieces(store, ["id", "keep", "split", "group"]):
        starts.append(start)
        width = max(width, pc.max(pc.binary_length(batch["id"])).as_py() or 0)
        mine = pc.and_(batch["keep"], pc.invert(pc.is_in(batch["id"], value_set=refused)))
        keep.append(mine.to_numpy(zero_copy_only=False).astype(bool))
        kept = batch.filter(mine)
        split = pc.fill_null(pc.index_in(kept["split"], value_set=pa.array(SPLITS)), -1).to_numpy().astype(np.int8)
        lost += kept["id"].take(pa.array(np.flatnonzero(split < 0))).to_pylist()
        groups.append(kept["group"])
        splits.append(split)
    if not any(some.any() for some in keep):
        raise BuildError("the plan keeps no image, so there is nothing to publish: see why with build-imaginet balance")
    if lost:
        raise BuildError(
            f"the plan keeps {len(lost)} images without a split, such as {min(lost)}: run build-imaginet balance again"
        )
    number = _whole(pa.chunked_array(groups), np.concatenate(splits))
    return np.concatenate(keep), np.array(starts, dtype=np.int64), width, number


def _whole(groups: pa.ChunkedArray, split: NDArray[np.int8]) -> NDArray[np.int32]:
    """The number of each row's group. Raises `BuildError` for groups that stand in more than one split."""
    number = ranks(groups)
    least, most = np.full(number.max() + 1, 127, dtype=np.int8), np.full(number.max() + 1, -1, dtype=np.int8)
    np.minimum.at(least, number, split)
    np.maximum.at(most, number, split)
    torn = np.flatnonzero(least < most)
    if torn.size:
        name = groups[int(np.flatnonzero(number == torn[0])[0])].as_py()
        raise BuildError(f"{torn.size} groups stand in more than one split, such as {name}: run build-imaginet balance again")
    return number


def ranks(names: pa.ChunkedArray) -> NDArray[np.int32]:
    """The number of every name among all different names, sorted, from 0."""
    number: NDArray[np.int32] = pc.rank(names, tiebreaker="dense").to_numpy().astype(np.int32)
    return number - np.int32(1)


def _bytes(names: pa.ChunkedArray | pa.Array, kind: np.dtype[np.bytes_]) -> NDArray[np.bytes_]:
    """Names as bytes; longer ones than `kind` has room for are told apart from every name that fits."""
    values = names.cast(pa.binary()).to_pylist()
    wide = max(map(len, values), default=0)
    return np.array(values, dtype=f"S{wide}" if wide > kind.itemsize else kind)


def _hashes(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each name, the same for the same name while this process lives; 0 for no name."""
    return np.fromiter((0 if name is None else hash(name) for name in names.to_pylist()), dtype=np.int64, count=len(names))


def _among(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of `values` stand in `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[place] == values)
