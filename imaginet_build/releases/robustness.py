"""The frozen robustness test set: the test images of the `equalized` view under the conditions of `perturb.CONDITIONS`.

The paper's own test set is drawn from worker-local random state, so that it changes with the number of workers. This one is
made once, at publishing, and lies in the release as the config `robustness`. A row follows from its image, its condition, what
is drawn for the two together, and the libraries that `release.json` names; from nothing else of the machine that makes it.

No row gives its label away by how it was treated. Each real image has a synthetic partner (of its pair if it has one, else the
next in size), and partners share every draw: crop, codec, quality, noise. Both classes hold every condition equally often.

A file is what its condition leaves: JPEG after JPEG, WebP after WebP, and PNG where nothing lossy came last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build import images, perturb
from imaginet_build.errors import BadImage, BuildError, UsageError
from imaginet_build.records import make_id
from imaginet_build.releases import release
from imaginet_build.releases.partners import Parents, chosen, partners
from imaginet_build.releases.releasewriter import OrderedMap, Progress
from imaginet_build.releases.shardwriter import ShardWriter
from imaginet_build.releases.spill import Spill

log = logging.getLogger(__name__)

CONFIG = "robustness"
SOCIAL = "social"
"""The one condition that may cover the whole test split; all others are on a subset of it."""

ROWS = 10_000
"""The most rows of a shard, about: an image is never cut in two."""

_COLUMNS = ["id", "label", "content_type", "generator", "source", "pair_id", "group", "width", "height", "fetch"]

Draw = tuple[str, str, int]
"""A condition, the name its random numbers belong to, and the largest square that a social network sees of the image."""

Place = tuple[int, int, int]
"""Where an image lies: its shard, its row group there, its row in that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a release's robustness set holds. `conditions`: nothing, the paper's social network alone, or everything.

    `social_images`, `sweep_images`: how many images at most, both classes together, come under the social network and under
    each other condition; None: the whole test split. `seed` decides which.
    """

    conditions: Literal["none", "social", "all"] = "none"
    social_images: int | None = None
    sweep_images: int | None = 1000
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """What decides the set, for the digest of a release's inputs; empty where none is wanted."""
        return {} if self.conditions == "none" else asdict(self) | {"known": list(perturb.CONDITIONS)}


@dataclass(frozen=True, slots=True)
class File:
    """One image under one condition, with the facts of its own bytes."""

    condition: str
    draw: str
    draw_side: int
    data: bytes
    sha256: str
    width: int
    height: int
    phash: int
    codec: str


@dataclass(frozen=True, slots=True)
class Made:
    """The files of one image, or in `fault` why there are none."""

    id: str
    files: tuple[File, ...] = ()
    fault: str = ""


Task = tuple[str, bytes, tuple[Draw, ...]]


def check(wanted: Wanted, views: Sequence[str]) -> None:
    """Raise `UsageError` where the set is wanted and the view that it is made from is not."""
    if wanted.conditions != "none" and "equalized" not in views:
        raise UsageError(
            f"publish.robustness = '{wanted.conditions}' is made from the view equalized, which publish.views leaves out: add "
            "it, or set publish.robustness to 'none'"
        )


def make(task: Task) -> Made:
    """One image under its conditions. At the top of the module so that it can be sent to another process."""
    name, data, draws = task
    files = []
    try:
        image = images.decode(data)
        for draw in draws:
            made = perturb.perturbed_file(image, *draw)
            facts = images.measure(made)
            files.append(File(*draw, made, facts.sha256, facts.width, facts.height, facts.phash, facts.codec))
    except BadImage as error:
        return Made(name, fault=f"{name}: {error}")
    return Made(name, tuple(files))


def write(
    folder: Path,
    wanted: Wanted,
    *,
    rows_per_file: int = ROWS,
    whole: Path | None = None,
    map: OrderedMap = map,
    progress: Progress | None = None,
) -> dict[str, dict[str, object]]:
    """Write `data/robustness/test-*.parquet` into the release at `folder` from its equalized test shards.

    Shards that are there are kept, so that a killed run goes on where it was. Memory holds one row group and a few images a
    worker, and for every row of a shard its columns without pixels; those wait on disk. Where rows of the equalized view carry
    no pixels, `whole` is the release that holds them all: its set is taken, without the pixels of these rows.
    `progress(done, total)` is told of every image. Returns `{path: {"sha256", "nbytes"}}` of the shards written now. Raises
    `BuildError` naming what cannot be treated.
    """
    files: dict[str, dict[str, object]] = {}
    if wanted.conditions == "none":
        return files
    paths = release.shards(folder, "equalized").get("test", [])
    if not paths:
        log.warning("there is no test split, and so no robustness set: give balance.splits.test a share")
        return files
    parents, places, bare = read(paths)
    if bare:
        return _withheld(folder, whole, bare)
    draws = drawn(parents, wanted)
    # Images that come under every condition first; else the order of the files, so that each is read once.
    order = sorted(draws, key=lambda row: (len(draws[row]) == 1, places[row]))
    shards = cut([len(draws[row]) for row in order], min(rows_per_file, ROWS))
    done, faults = 0, list[str]()
    for number, part in enumerate(shards):
        name = f"data/{CONFIG}/test-{number:05d}-of-{len(shards):05d}.parquet"
        rows = order[part.start : part.stop]
        if (folder / name).is_file():
            done += len(rows)
            continue
        facts: list[tuple[dict[str, Any], tuple[File, ...]]] = []
        with Spill(folder / ".spill" / CONFIG) as spill:
            for row, made in made_of(paths, [(places[row], draws[row]) for row in rows], map):
                done += 1
                if progress:
                    progress(done, len(order))
                if made.fault:
                    faults.append(made.fault)
                for file in made.files:
                    spill.put(row_id(made.id, file.condition), file.data)
                facts.append((row, tuple(replace(file, data=b"") for file in made.files)))
            if not faults:
                files[name] = _write_shard(folder / name, features_of(paths), facts, spill)
    if faults:
        more = f" and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise BuildError(
            f"{len(faults)} images of the equalized view cannot be put under the conditions of the robustness set: "
            f"{'; '.join(faults[:20])}{more}. Delete {folder} and publish again"
        )
    return files


def row_id(parent: str, condition: str) -> str:
    """The id of an image under a condition."""
    return make_id("robustness", parent, condition)


def features_of(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The columns of the set: those of the equalized shards, `condition`, `parent_id` (the row that it was made from), and what
    was drawn: `draw`, alike for partners, and `draw_side`, the largest square a social network sees of both."""
    own = release.newest_features(paths)
    first = {name: own.pop(name) for name in ("image", "label")}
    return first | {
        "condition": {"names": list(perturb.CONDITIONS), "_type": "ClassLabel"},
        **own,
        "parent_id": {"dtype": "string", "_type": "Value"},
        "draw": {"dtype": "string", "_type": "Value"},
        "draw_side": {"dtype": "int32", "_type": "Value"},
    }


def read(paths: Sequence[Path]) -> tuple[Parents, list[Place], dict[str, str | None]]:
    """The images of equalized shards, where each lies, and by id those whose pixels are not there, with their fetch hint."""
    found: list[dict[str, Any]] = []
    places: list[Place] = []
    bare: dict[str, str | None] = {}
    for shard, path in enumerate(paths):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[*_COLUMNS, "image.bytes"])
                here = pc.is_valid(pc.struct_field(table["image"], "bytes")).to_pylist()
                rows = table.select(_COLUMNS).to_pylist()
                found += rows
                places += [(shard, group, row) for row in range(len(rows))]
                bare |= {row["id"]: row["fetch"] for row, held in zip(rows, here, strict=True) if not held}
    return (
        Parents(
            [row["id"] for row in found],
            [row["label"] for row in found],
            [row["content_type"] for row in found],
            [f"{row['generator']} {row['source']}" for row in found],
            [row["pair_id"] for row in found],
            [row["group"] for row in found],
            [min(row["width"], row["height"]) for row in found],
        ),
        places,
        bare,
    )


def drawn(parents: Parents, wanted: Wanted) -> dict[int, tuple[Draw, ...]]:
    """What is done to each image of the set, in the order of `perturb.CONDITIONS`."""
    social = chosen(parents, range(len(parents.id)), wanted.social_images, wanted.seed)
    found: dict[int, dict[str, Draw]] = {row: {SOCIAL: (SOCIAL, *told)} for row, told in partners(parents, social).items()}
    if wanted.conditions == "all":
        for row, told in partners(parents, chosen(parents, social, wanted.sweep_images, wanted.seed)).items():
            found[row] |= {condition: (condition, *told) for condition in perturb.CONDITIONS if condition != SOCIAL}
    return {row: tuple(own[c] for c in perturb.CONDITIONS if c in own) for row, own in sorted(found.items())}


def cut(sizes: Sequence[int], most: int) -> list[range]:
    """Images of `sizes` rows each, in runs of nearly equal rows: as few as keep to `most` rows, give or take an image."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    count = max(1, -(-int(before[-1]) // most))
    edges = np.searchsorted(before, np.arange(count + 1) * before[-1] / count)
    return [range(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True) if b > a]


def _withheld(folder: Path, whole: Path | None, bare: Mapping[str, str | None]) -> dict[str, dict[str, object]]:
    """The set of the release at `whole`, without the pixels of what was made from images that are `bare` in this one."""
    paths = release.shards(whole, CONFIG).get("test", []) if whole else []
    if not paths:
        raise BuildError(
            f"{len(bare)} test images of {folder} carry no pixels, such as {min(bare)}, so their robustness set cannot be made "
            "here: publish in the work folder first (build-imaginet publish), which holds them all"
        )
    files: dict[str, dict[str, object]] = {}
    for path in paths:
        name = f"data/{CONFIG}/{path.name}"
        if (folder / name).is_file():
            continue
        with pq.ParquetFile(path) as file, ShardWriter(folder / name, file.schema_arrow) as writer:
            for number in range(file.num_row_groups):
                for row in file.read_row_group(number).to_pylist():
                    image = row["image"]["bytes"], row["image"]["path"]
                    gone = row["parent_id"] in bare
                    writer.add(
                        {**row, "image": (None, None), "fetch": bare[row["parent_id"]]} if gone else {**row, "image": image}
                    )
            files[name] = writer.commit()
    return files


def made_of(
    paths: Sequence[Path], wanted: Sequence[tuple[Place, tuple[Draw, ...]]], map: OrderedMap
) -> Iterator[tuple[dict[str, Any], Made]]:
    """For every image its row without pixels, and what was made of it."""
    ahead: list[dict[str, Any]] = []

    def tasks() -> Iterator[Task]:
        for (shard, group), members in groupby(wanted, key=lambda one: one[0][:2]):
            own = list(members)
            with pq.ParquetFile(paths[shard]) as file:
                table = file.read_row_group(group).take([place[2] for place, _ in own])
            for row, (_, draws) in zip(table.to_pylist(), own, strict=True):
                data = row.pop("image")["bytes"]
                ahead.append(row)
                yield row["id"], data, draws

    for made in map(make, tasks()):
        yield ahead.pop(0), made


def _write_shard(
    path: Path,
    features: Mapping[str, Mapping[str, Any]],
    facts: Sequence[tuple[Mapping[str, Any], Sequence[File]]],
    spill: Spill,
) -> dict[str, object]:
    """One shard, condition after condition, so that one of them is a run of row groups."""
    with ShardWriter(path, release.schema_of(features)) as writer:
        for number, condition in enumerate(perturb.CONDITIONS):
            for parent, files in facts:
                for file in files:
                    if file.condition == condition:
                        name = row_id(parent["id"], condition)
                        writer.add(
                            {
                                **parent,
                                "image": (spill.take(name), release.image_path(name, file.codec)),
                                "condition": number,
                                "id": name,
                                "parent_id": parent["id"],
                                "draw": file.draw,
                                "draw_side": file.draw_side,
                                "width": file.width,
                                "height": file.height,
                                "sha256": file.sha256,
                                "phash": f"{file.phash:016x}",
                            }
                        )
        return writer.commit()
