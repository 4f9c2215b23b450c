"""A release folder that holds nothing but equalized test shards, and a driver that makes its robustness set in a process."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pictures import jpeg, write

from imaginet_build import images
from imaginet_build.records import Record, make_id
from imaginet_build.releases import release, robustness
from imaginet_build.releases.shardwriter import ShardWriter
from imaginet_build.store import Store

NAMES = release.Names(("paintings", "photos"), ("real", "gan"), ("real", "tiny-gan"))


def equalized(folder: Path, count: int, files: int = 1, side: int = 280, withheld: Iterable[int] = ()) -> Path:
    """`count` test images, real and synthetic in turn, of two content types, in `files` shards; the n-th pair is of
    `side` + 8 n pixels. `withheld`: places whose pixels are not in the release."""
    rows = []
    for i in range(count):
        real, size = i % 2 == 0, side + 8 * (i // 2)
        data = jpeg(f"test {i}", size, size)
        facts = images.measure(data)
        rows.append(
            {
                "image": (None, None) if i in withheld else (data, f"{i}.jpg"),
                "fetch": f"hint {i}.jpg" if i in withheld else None,
                "label": 0 if real else 1,
                "content_type": i // 2 % 2,
                "family": 0 if real else 1,
                "generator": 0 if real else 1,
                "id": make_id("tested", i),
                "pair_id": None,
                "group": f"g{i}",
                "source": "album" if real else None,
                "source_key": f"{i}.jpg",
                "licence": "CC0-1.0",
                "prompt": None if real else f"picture {i}",
                "seed": None if real else i,
                "width": size,
                "height": size,
                "sha256": facts.sha256,
                "source_sha256": facts.sha256,
                "phash": f"{facts.phash:016x}",
            }
        )
    rows.sort(key=lambda row: str(row["id"]))
    for k in range(files):
        path = folder / "data" / "equalized" / f"test-{k:05d}-of-{files:05d}.parquet"
        with ShardWriter(path, release.schema(NAMES)) as writer:
            for row in rows[k * count // files : (k + 1) * count // files]:
                writer.add(dict.fromkeys(release.features(NAMES)) | row)
            writer.commit()
    return folder


def work_folder(root: Path, count: int) -> Store:
    """A work folder of `count` images of one content type, real and synthetic in turn, in all three splits."""
    store = Store(root)
    records, born, plan = [], [], []
    for i in range(count):
        real, name = i % 2 == 0, make_id("tested", i)
        data = jpeg(f"test {i}", 120, 120)
        record = Record(
            id=name, origin="real" if real else "synthetic", category="photos", family=None if real else "gan",
            generator=None if real else "tiny-gan", source="album" if real else None, source_key=f"{i}.jpg",
            licence="CC0-1.0", revision="1", prompt=None, negative=None, seed=None, params="{}", pair_id=None,
            group=f"g{i}", extension="jpg", facts=images.measure(data),
        )  # fmt: skip
        records.append(record.row())
        born.append(data)
        view = {"left": 8, "top": 8, "width": 96, "height": 96, "codec": "jpeg", "quality": 85, "subsampling": "4:2:0"}
        said = {"id": name, "keep": True, "category": "photos", "origin": record.origin, "group": record.group}
        split = ("train", "calibration", "test", "test")[i // 2 % 4]
        plan.append(said | view | {"generator_or_source": record.generator or record.source, "split": split})
    store.write_part("collect", "part", records, born)
    store.write_plan(plan)
    return store


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the robustness set by name."""
    found = sorted((folder / "data" / "robustness").glob("*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def dying(after: int) -> Callable[..., Iterator[Any]]:
    """A `map` that ends its process, as a lost machine would, once it has answered so many tasks."""

    numbers = itertools.count()

    def mapped(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
        for task in tasks:
            if next(numbers) == after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield function(task)

    return mapped


if __name__ == "__main__":
    place, conditions, rows, after = sys.argv[1:]
    wanted = robustness.Wanted(conditions)  # type: ignore[arg-type]
    how = {"map": dying(int(after))} if int(after) >= 0 else {}
    robustness.write(Path(place), wanted, rows_per_file=int(rows), **how)
    write(Path(place) / "digests.txt", repr(digests(Path(place))))
