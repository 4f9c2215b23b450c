"""The rows of a robustness set whose pixels were not in the release, made again from the images that have been restored.

Nothing is drawn anew: each row says what it was made from, under which condition, and with which draw.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imaginet_build.errors import BuildError
from imaginet_build.releases import release
from imaginet_build.releases.carrying import link
from imaginet_build.releases.releasewriter import OrderedMap
from imaginet_build.releases.rights import FETCH
from imaginet_build.releases.robustness import CONFIG, Draw, made_of, read, row_id
from imaginet_build.releases.shardwriter import ShardWriter
from imaginet_build.releases.spill import Spill


def restore(folder: Path, whole: Path, map: OrderedMap = map) -> dict[str, dict[str, object]]:
    """Write the robustness set of the release at `folder` into `whole`, where the equalized test images have all their pixels.

    Shards that lack none are linked; those that are there are kept. Returns `{path: {"sha256", "nbytes"}}` of what was
    written. Raises `BuildError` for a row that does not come out as it was published.
    """
    files: dict[str, dict[str, object]] = {}
    for path in release.shards(folder, CONFIG).get("test", []):
        there = whole / path.relative_to(folder)
        if there.is_file():
            continue
        wanted = _wanted(path)
        if wanted:
            files[path.relative_to(folder).as_posix()] = _written(path, there, whole, wanted, map)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            link(path, there)
    return files


def _wanted(path: Path) -> dict[str, list[Draw]]:
    """By image, the draws of its rows without pixels."""
    names = release.features_of(path)["condition"]["names"]
    rows = pq.read_table(path, columns=["condition", "parent_id", "draw", "draw_side", FETCH]).to_pylist()
    found: dict[str, list[Draw]] = defaultdict(list)
    for row in rows:
        if row[FETCH] is not None:
            found[row["parent_id"]].append((names[row["condition"]], row["draw"], row["draw_side"]))
    return dict(found)


def _written(path: Path, there: Path, whole: Path, wanted: dict[str, list[Draw]], map: OrderedMap) -> dict[str, object]:
    paths = release.shards(whole, "equalized")["test"]
    parents, places, _ = read(paths)
    order = sorted((places[row], name) for row, name in enumerate(parents.id) if name in wanted)
    codecs: dict[str, str] = {}
    with Spill(whole / ".spill" / CONFIG) as spill:
        for _, made in made_of(paths, [(place, tuple(wanted[name])) for place, name in order], map):
            for file in made.files:
                name = row_id(made.id, file.condition)
                codecs[name] = file.codec
                spill.put(f"{name} {file.sha256}", file.data)
        with pq.ParquetFile(path) as file, ShardWriter(there, file.schema_arrow) as writer:
            for number in range(file.num_row_groups):
                for row in file.read_row_group(number).to_pylist():
                    writer.add(row | {"image": _image(row, codecs, spill), FETCH: None})
            return writer.commit()


def _image(row: dict[str, Any], codecs: dict[str, str], spill: Spill) -> tuple[bytes, str]:
    """The bytes and the file name of a row: its own, or made again."""
    if row[FETCH] is None:
        return row["image"]["bytes"], row["image"]["path"]
    try:
        data = spill.take(f"{row['id']} {row['sha256']}")
    except KeyError:
        raise BuildError(
            f"{row['id']} in '{CONFIG}', made from {row['parent_id']}, does not come out with its SHA-256 {row['sha256']}: "
            f"make it with the versions that {release.MANIFEST} names"
        ) from None
    return data, release.image_path(row["id"], codecs[row["id"]])
