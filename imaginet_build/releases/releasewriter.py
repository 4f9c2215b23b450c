"""From born bytes to the shards of a release, in bounded memory.

Images are read one at a time from where they lie in the parts (`born`), in the order of the release, so nothing is sorted, set
aside or held. No byte is taken on trust: the SHA-256 of every image is computed from what was read and held against its facts
before it is written or rendered, and the SHA-256 of every file is computed from what is written, while it is written.

An image is measured once, when it arrives. Its SHA-256 proves that these are the bytes its facts were measured from, so they
are not measured again here (`balance --verify` does that, for whoever suspects the facts themselves). What is made here is new,
so the facts of every rendered file are measured from that file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from imaginet_build import images
from imaginet_build.errors import BadImage
from imaginet_build.records import ORIGINS, View, view_of
from imaginet_build.releases import release
from imaginet_build.releases.born import Born, Place
from imaginet_build.releases.joining import VIEW
from imaginet_build.releases.releaserows import ReleaseRows
from imaginet_build.releases.shardpixels import ShardPixels
from imaginet_build.releases.shardwriter import ShardWriter

_CHANGED = "its bytes are no longer those that were collected"

Task = tuple[str, Place, View, str]
"""An image's id, where its bytes lie, its view, and the SHA-256 of the bytes as born."""

Progress = Callable[[int, int], object]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Rendered:
    """One image of a view with the facts of its own bytes, or in `fault` why there is none."""

    id: str
    data: bytes | memoryview = b""
    sha256: str = ""
    width: int = 0
    height: int = 0
    phash: int = 0
    codec: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """Of every shard written now, by path: `files`, `{"sha256", "nbytes"}`; `pixels`, what its images tell. `faults`: what
    could not be written, one line an image."""

    files: dict[str, dict[str, object]] = field(default_factory=dict)
    pixels: dict[str, ShardPixels] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class OrderedMap(Protocol):
    """Like `map`: answers in the order of the tasks, taking only a few tasks ahead. It may work in other processes."""

    def __call__(self, function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
        """`function` of every task, in the tasks' order."""
        ...


def render(task: Task) -> Rendered:
    """The equalized form of one image. At the top of the module so that it can be sent to another process."""
    name, place, view, sha256 = task
    data = place.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        return Rendered(name, fault=_CHANGED)
    try:
        made = images.render(data, view)
        facts = images.measure(made)
    except BadImage as error:
        return Rendered(name, fault=str(error))
    return Rendered(name, made, facts.sha256, facts.width, facts.height, facts.phash, facts.codec)


def unchanged(row: Mapping[str, Any], born: Born, writer: ShardWriter) -> Rendered:
    """The native form of one image: its bytes as they were born, read to where they are written from."""
    place = born.place(row["part"], row["row"])
    data = writer.room(place.size)
    place.read_into(data)
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return Rendered(row["id"], fault=_CHANGED)
    return Rendered(row["id"], data, row["sha256"], row["width"], row["height"], row["phash"], row["codec"])


def write(
    folder: Path,
    added: ReleaseRows,
    names: release.Names,
    views: Sequence[str],
    shards: Sequence[release.Shard],
    *,
    map: OrderedMap = map,
    progress: Progress | None = None,
) -> Written:
    """Write every shard of `shards` that `folder` does not hold yet.

    `added`: one row an image in the order of the shards; `joining.Joined.tables` says what its columns are. `map` does the
    rendering. A shard with a faulty image is left out. `progress(done, total)` is told of every image of every view. Raises
    `StoreError` where the disk or a part is at fault.
    """
    # Bytes as they are cost little and prove every part: hours of rendering wait until all of them are in order.
    todo = {
        view: [shard for shard in shards if not (folder / shard.path(view)).is_file()]
        for view in ("native", "equalized")
        if view in views
    }
    total, done = sum(len(shard.rows) for some in todo.values() for shard in some), 0
    written = Written()
    scratch = folder / ".spill" / "born"
    try:
        born = Born(added.parts, scratch) if total else None
        for view, some in todo.items():
            if born is None or written.faults:
                break
            rendered = map(render, _tasks(born, added, some)) if view == "equalized" else None
            for shard in some:
                with ShardWriter(folder / shard.path(view), release.schema(names)) as writer:
                    whole, pixels = True, ShardPixels()
                    for row in added.rows(shard.rows):
                        made = next(rendered) if rendered is not None else unchanged(row, born, writer)
                        done += 1
                        if progress:
                            progress(done, total)
                        if made.fault:
                            written.faults.append(f"{made.id} ({row['source_key'] or row['generator']}): {made.fault}")
                            whole = False
                        elif whole:
                            filled = _row(row, made, names)
                            pixels.add(*filled["image"])
                            writer.add(filled)
                    if whole:
                        written.files[shard.path(view)], written.pixels[shard.path(view)] = writer.commit(), pixels
    finally:
        scratch.unlink(missing_ok=True)
        # Arrow keeps what it has freed; what comes after the pixels needs other memory.
        pa.default_memory_pool().release_unused()
    return written


def _tasks(born: Born, added: ReleaseRows, shards: Iterable[release.Shard]) -> Iterator[Task]:
    for shard in shards:
        for row in added.rows(shard.rows):
            view = {name: row[f"view_{name}"] for name in VIEW}
            yield row["id"], born.place(row["part"], row["row"]), view_of(view), row["sha256"]


def _row(row: Mapping[str, Any], made: Rendered, names: release.Names) -> dict[str, Any]:
    """One row of a shard: the facts of the image, and what is its own in this view."""
    return {
        **{name: row[name] for name in ("id", "pair_id", "group", "source", "source_key", "licence", "prompt", "seed")},
        "width": made.width,
        "height": made.height,
        "sha256": made.sha256,
        "image": (None, None) if row["fetch"] else (made.data, release.image_path(made.id, made.codec)),
        "label": ORIGINS.index(row["origin"]),
        "content_type": names.categories.index(row["category"]),
        "family": names.families.index(row["family"] or "real"),
        "generator": names.generators.index(row["generator"] or "real"),
        "source_sha256": row["sha256"],
        "phash": f"{made.phash:016x}",
        "fetch": row["fetch"],
    }
