"""From born bytes to the shards of a release, in bounded memory.

Images are read in the order in which they lie in the parts, rendered by whatever `map` the caller gives, set aside on disk, and
written in order of id: an external shuffle, one wave of shards at a time. The files follow what the Hugging Face viewer,
`datasets` and content-addressed storage like best: small row groups, a page index, content-defined chunking, and neither
dictionary nor statistics on image bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build import images, release
from imaginet_build.errors import BadImage
from imaginet_build.records import ORIGINS, View, view_of
from imaginet_build.store import Store

GROUP_ROWS = 50
GROUP_BYTES = 50_000_000
# What `datasets` itself writes with, so that its own rewrites share chunks with ours.
CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}

CHECKED = ("width", "height", "codec", "phash")
"""Facts that decide what a release holds, and are measured once more from the bytes that go into it."""

Task = tuple[str, bytes, View, Mapping[str, object]]
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One image of the `equalized` view with the facts of its own bytes, or in `fault` why there is none."""

    id: str
    data: bytes = b""
    sha256: str = ""
    width: int = 0
    height: int = 0
    phash: int = 0
    codec: str = ""
    fault: str = ""


class OrderedMap(Protocol):
    """Like `map`: answers in the order of the tasks, taking only a few tasks ahead. It may work in other processes."""

    def __call__(self, function: Callable[[Task], Rendered], tasks: Iterable[Task], /) -> Iterator[Rendered]:
        """`function` of every task, in the tasks' order."""
        ...


def render(task: Task) -> Rendered:
    """The equalized form of one image. At the top of the module so that it can be sent to another process."""
    name, data, view, told = task
    try:
        born = images.measure(data)
        lies = [f"{key} {told[key]}, in truth {getattr(born, key)}" for key in CHECKED if told[key] != getattr(born, key)]
        if lies:
            return Rendered(name, fault=f"its facts contradict its bytes ({'; '.join(lies)}): build-imaginet balance --verify")
        made = images.render(data, view)
        facts = images.measure(made)
    except BadImage as error:
        return Rendered(name, fault=str(error))
    return Rendered(name, made, facts.sha256, facts.width, facts.height, facts.phash, facts.codec)


def write(
    store: Store,
    folder: Path,
    kept: pa.Table,
    names: release.Names,
    views: Sequence[str],
    shards: Sequence[release.Shard],
    *,
    spill_bytes: int,
    map: OrderedMap = map,
    progress: Progress | None = None,
) -> list[str]:
    """Write every shard of `shards` that `folder` does not hold yet; returns what could not be written, one line an image.

    `kept`: one row an image in the order of the shards, as `publish` joins it from plan and facts (the columns of the view are
    called `view_*`). A shard with a faulty image is left out. `progress(done, total)` is told of every image.
    """
    todo = [s for s in shards if not all((folder / s.path(view)).is_file() for view in views)]
    total, done = sum(len(s.rows) for s in todo), 0
    faults: list[str] = []
    for wave in _waves(todo, kept["nbytes"].to_pylist(), spill_bytes):
        facts = {row["id"]: row for s in wave for row in kept.slice(s.rows.start, len(s.rows)).to_pylist()}
        with ExitStack() as stack:
            spills = {view: stack.enter_context(Spill(folder / ".spill" / view)) for view in views}
            made: dict[str, Rendered] = {}
            broken: set[str] = set()
            for name, born, rendered in _images(store, facts, "equalized" in views, map):
                done += 1
                if progress:
                    progress(done, total)
                fault = rendered.fault if rendered else ""
                if hashlib.sha256(born).hexdigest() != facts[name]["sha256"]:
                    fault = "its bytes are no longer those that were collected"
                if fault:
                    faults.append(f"{name} ({facts[name]['source_key'] or facts[name]['generator']}): {fault}")
                    broken.add(name)
                    continue
                if "native" in views:
                    spills["native"].put(name, born)
                if rendered:
                    spills["equalized"].put(name, rendered.data)
                    made[name] = replace(rendered, data=b"")
            for shard in wave:
                ids = kept["id"].slice(shard.rows.start, len(shard.rows)).to_pylist()
                if broken.isdisjoint(ids):
                    for view in views:
                        _write_shard(
                            folder / shard.path(view),
                            names,
                            ids=ids,
                            facts=facts,
                            made=made if view == "equalized" else {},
                            spill=spills[view],
                        )
    return faults


def _waves(shards: Sequence[release.Shard], nbytes: Sequence[int], limit: int) -> Iterator[list[release.Shard]]:
    """Shards in runs whose born bytes fit in `limit`; one that is larger makes a wave of its own."""
    wave: list[release.Shard] = []
    held = 0
    for shard in shards:
        size = sum(nbytes[shard.rows.start : shard.rows.stop])
        if wave and held + size > limit:
            yield wave
            wave, held = [], 0
        wave.append(shard)
        held += size
    if wave:
        yield wave


def _images(
    store: Store, facts: Mapping[str, Mapping[str, Any]], rendering: bool, map: OrderedMap
) -> Iterator[tuple[str, bytes, Rendered | None]]:
    """Id, born bytes and rendered form of every image of a wave, in the order in which they lie in the parts."""
    born = store.images(store.in_part_order(facts))
    if not rendering:
        yield from ((name, data, None) for name, data in born)
        return
    ahead: deque[bytes] = deque()

    def tasks() -> Iterator[Task]:
        for name, data in born:
            ahead.append(data)
            view = {key.removeprefix("view_"): value for key, value in facts[name].items() if key.startswith("view_")}
            yield name, data, view_of(view), {key: facts[name][key] for key in CHECKED}

    for rendered in map(render, tasks()):
        yield rendered.id, ahead.popleft(), rendered


def _write_shard(
    path: Path,
    names: release.Names,
    *,
    ids: Sequence[str],
    facts: Mapping[str, Mapping[str, Any]],
    made: Mapping[str, Rendered],
    spill: Spill,
) -> None:
    """One shard of one view; `made` has the facts of rendered bytes and is empty for bytes as they were born."""
    with ShardWriter(path, release.schema(names)) as writer:
        for name in ids:
            row = facts[name]
            own: Mapping[str, Any] = {f: getattr(made[name], f) for f in _OWN} if made else row
            writer.add(
                {
                    **{c: row[c] for c in ("id", "pair_id", "group", "source", "source_key", "licence", "prompt", "seed")},
                    **{c: own[c] for c in ("width", "height", "sha256")},
                    "image": (spill.take(name), release.image_path(name, own["codec"])),
                    "label": ORIGINS.index(row["origin"]),
                    "content_type": names.categories.index(row["category"]),
                    "family": names.families.index(row["family"] or "real"),
                    "generator": names.generators.index(row["generator"] or "real"),
                    "source_sha256": row["sha256"],
                    "phash": f"{own['phash']:016x}",
                }
            )
        writer.commit()


_OWN = ("width", "height", "sha256", "phash", "codec")


class Spill:
    """One scratch file of blobs by name, kept until their turn; where each lies is in memory.

    A context manager: the file goes when the block ends.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("w+b")
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()  # on a full disk even this fails: what is still buffered has no room
        finally:
            self._path.unlink(missing_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Set `data` aside under `name`; every `put` comes before the first `take`."""
        self._file.write(data)
        self._places[name] = (self._end, len(data))
        self._end += len(data)

    def take(self, name: str) -> bytes:
        """The bytes put aside under `name`; raises KeyError for a name that was never put."""
        start, size = self._places[name]
        self._file.seek(start)
        return self._file.read(size)


class ShardWriter:
    """Writes one shard, row by row, beside its place; `commit` puts it there. Holds one row group in memory.

    A row is a mapping with the schema's columns, where `image` is `(bytes, path)`. Leaving the `with` block without a
    `commit` leaves nothing behind.
    """

    def __init__(self, path: Path, shape: pa.Schema, group_rows: int = GROUP_ROWS, group_bytes: int = GROUP_BYTES) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".tmp")
        self._schema = shape
        self._limits = (group_rows, group_bytes)
        self._rows: list[Mapping[str, Any]] = []
        self._nbytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = [name for name in shape.names if name != "image"]
        columns = [*plain, "image.bytes", "image.path"]
        self._writer = pq.ParquetWriter(
            self._part,
            shape,
            # Encoded pixels do not shrink; everything else does.
            compression={name: "none" if name == "image.bytes" else "zstd" for name in columns},
            use_dictionary=[name for name in plain if name not in {"id", "sha256", "source_sha256", "phash"}],
            write_statistics=plain,
            write_page_index=True,
            use_content_defined_chunking=CHUNKING,
        )
        self._writer.add_key_value_metadata({"content_defined_chunking": json.dumps(CHUNKING)})

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
        self._part.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row; a full row group is written out first."""
        size = len(row["image"][0])
        rows, nbytes = self._limits
        if self._rows and (len(self._rows) >= rows or self._nbytes + size > nbytes):
            self._flush()
        self._rows.append(row)
        self._nbytes += size

    def commit(self) -> None:
        """Write what is left, make it durable, and move it to its name."""
        self._flush()
        self._writer.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self.path)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = []
        for field in self._schema:
            values = [row[field.name] for row in self._rows]
            if field.name == "image":
                halves = [pa.array([v[i] for v in values], field.type.field(i).type) for i in (0, 1)]
                columns.append(pa.StructArray.from_arrays(halves, fields=list(field.type)))
            else:
                columns.append(pa.array(values, field.type))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema), row_group_size=len(self._rows))
        self._rows, self._nbytes = [], 0
