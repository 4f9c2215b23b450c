"""Turning whatever a person points at into a table of facts: a release, a work folder, folders, an index, a list, a Hub id."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError, MissingExtra, UsageError, suggest
from imaginet_build.facts import FACTS, Growing, Map, Target, Task, both_classes, inside, walk
from imaginet_build.lists import LIST_SUFFIXES, read_index, read_list
from imaginet_build.records import ORIGINS, SPLITS, Refusal

log = logging.getLogger(__name__)

_BATCH = 16
_HUB_ID = re.compile(r"(?:hf://datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_FAKE_NAMES = ("synthetic", "fake", "ai")


def read(target: Path | str, map: Map = map, pixels: bool = False) -> Target:
    """The facts of `target`, measured with `map` where there are images to measure, with `pixels` those
    of the pixel probes too (a work folder's parts and a list have none).

    In this order: a folder that holds a release, a work folder, a folder with `index.csv`, a folder with the subfolders real
    and synthetic (or fake), an annotation list (.txt, .csv, .tsv), a data set on the Hub (`owner/name`). Raises `UsageError`
    for anything else, with the nearest name that exists.
    """
    path = Path(target)
    if path.is_file():
        if path.suffix.lower() not in LIST_SUFFIXES:
            raise UsageError(
                f"{path} is no annotation list ({', '.join(sorted(LIST_SUFFIXES))}); for images: build-imaginet detect {path}"
            )
        if path.name == "index.csv":
            return _index(path.parent, map, pixels)
        return read_list(path)
    if path.is_dir():
        return _folder(path, map, pixels)
    hub = _HUB_ID.fullmatch(str(target))
    if hub and (str(target).startswith("hf://") or not path.parent.exists()):
        return _hub(hub[1], map, pixels)
    raise UsageError(f"no such file or folder: {target}{_near(path)}. An audit takes a release, a work folder, a folder with "
                     "index.csv, an annotation list or a Hub id; or: build-imaginet audit --real DIR --fake DIR")  # fmt: skip


def read_pair(real: Path | str, fake: Path | str, map: Map = map, pixels: bool = False) -> Target:
    """Two plain folders; the first folder below `fake` is the generator's name. Raises `UsageError` as `read` does."""
    roots = {"real": Path(real), "synthetic": Path(fake)}
    for option, root in zip(("--real", "--fake"), roots.values(), strict=True):
        if not root.is_dir():
            raise UsageError(f"{option} {root}: no such folder{_near(root)}. Give the folder that holds the images")
    a, b = (root.resolve() for root in roots.values())
    if a == b or a.is_relative_to(b) or b.is_relative_to(a):
        raise UsageError(
            f"--real {real} and --fake {fake} overlap: every image would be of both classes. Give two separate folders"
        )
    growing = Growing(pixels)
    for origin, root in roots.items():
        known: list[dict[str, object]] = []
        tasks: list[Task] = []
        for key, path in walk(root):
            if isinstance(path, Refusal):
                growing.refuse(f"{root.name}/{key}", path)
                continue
            maker = (key.split("/")[0] if "/" in key else root.resolve().name) if origin == "synthetic" else None
            known.append({"path": f"{root.name}/{key}", "origin": origin, "generator": maker})
            tasks.append(path)
        growing.add_all(known, tasks, map)
    return growing.target(f"{real} and {fake}", "pair", (str(real), str(fake)))


def _near(path: Path) -> str:
    """`; did you mean 'data/real'?` for the nearest name in the deepest folder of `path` that exists."""
    for parent in path.parents:
        if parent.is_dir():
            wanted = path.relative_to(parent).parts[0]
            return suggest(wanted, [p.name for p in parent.iterdir()])
    return ""


def _folder(path: Path, map: Map, pixels: bool) -> Target:
    shards = sorted((path / "data").glob("*/*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if shards:
        return _release(str(path), shards, map, pixels)
    if (path / "release").is_dir():
        return _folder(path / "release", map, pixels)
    if (path / "parts").is_dir():
        return _work(path)
    if (path / "index.csv").is_file():
        return _index(path, map, pixels)
    children = {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir()}
    fake = next((children[n] for n in _FAKE_NAMES if n in children), None)
    if "real" in children and fake is not None:
        return read_pair(children["real"], fake, map, pixels)
    raise UsageError(
        f"{path} is no release (data/<view>/*.parquet) and no work folder (parts/), and has no index.csv, no real and fake. "
        "Name the two classes: build-imaginet audit --real DIR --fake DIR"
    )


def _index(root: Path, map: Map, pixels: bool) -> Target:
    growing = Growing(pixels)
    known: list[dict[str, object]] = []
    tasks: list[Task] = []
    seen: set[str] = set()
    for row in read_index(root / "index.csv", growing.unreadable):
        key = str(row["path"])
        path = Refusal("listed-twice", "the index names it twice", key) if key in seen else inside(root, key)
        seen.add(key)
        if isinstance(path, Refusal):
            growing.refuse(key, path)
        else:
            known.append(row)
            tasks.append(path)
    growing.add_all(known, tasks, map)
    return growing.target(str(root), "folder", (str(root),))


def _work(root: Path) -> Target:
    """The parts of a work folder: measured when they were written; groups as the plan has them, once there is one."""
    from imaginet_build.store import Store

    store = Store(root)
    table = store.facts(
        [name for name in FACTS.names if name not in ("path", "view", "split", "content_type")]
        + ["category", "source_key", "id"]
    )
    if store.plan_path.is_file():
        plan = store.plan().select(["id", "group", "keep"])
        table = table.drop_columns(["group"]).join(plan, "id", join_type="inner").filter(pc.field("keep")).sort_by("id")
    columns = {name: table[name] for name in table.column_names if name in FACTS.names}
    columns["path"] = pc.coalesce(table["source_key"], table["id"])
    columns["view"] = pa.array(["native"] * len(table), pa.string())
    columns["split"] = pa.nulls(len(table), pa.string())
    columns["content_type"] = table["category"]
    facts = pa.table({f.name: pc.cast(columns[f.name], f.type) for f in FACTS})
    return Target(str(root), "work", both_classes(facts, str(root)))


def _release(name: str, shards: list[Path], map: Map, pixels: bool) -> Target:
    growing = Growing(pixels)
    for shard in shards:
        view = shard.parent.name if shard.parent.name in ("equalized", "native") else None
        try:
            with pq.ParquetFile(shard) as file:
                _shard(file, shard, view, growing, map)
        except (pa.ArrowException, OSError) as error:
            raise BuildError(f"{shard} cannot be read ({error}): restore it and check with build-imaginet rebuild") from error
    return growing.target(name, "release")


def _shard(file: pq.ParquetFile, path: Path, view: str | None, growing: Growing, map: Map) -> None:
    """One shard: its labels first, then its images, a few at a time."""
    columns = file.schema_arrow.names
    missing = {"image", "label"} - set(columns)
    if missing:
        raise UsageError(f"{path} has no column {' and no '.join(sorted(missing))}; an audit needs images and their labels")
    wanted = [c for c in ("label", "content_type", "family", "generator", "group", "id") if c in columns]
    labels = _named(file.read(columns=wanted), file.schema_arrow)
    rows = labels.to_pylist()
    split = found if (found := path.name.partition("-")[0]) in SPLITS else None
    known: list[dict[str, object]] = []

    def tasks() -> Iterator[Task]:
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH, columns=["image"]):
            for image in batch.column(0):
                one = rows[row]
                held = image.as_py() or {}
                place = held.get("path") or str(one.get("id") or f"{path.name}#{row}")
                row += 1
                if held.get("bytes") is None:
                    growing.refuse(
                        place, Refusal("withheld", "the release holds no pixels of it: build-imaginet rebuild fetches them")
                    )
                    continue
                known.append(_row_of(one, place, view, split))
                yield held["bytes"]

    measured = growing.measured(tasks(), map)
    for number, answer in enumerate(measured):
        growing.add(known[number], answer)


def _row_of(one: dict[str, Any], place: str, view: str | None, split: str | None) -> dict[str, object]:
    origin = str(one["label"]).lower()
    if origin not in ORIGINS:
        raise UsageError(f"label {origin!r}: an audit knows {' and '.join(ORIGINS)}")
    real = origin == "real"
    return {
        "path": place,
        "view": view,
        "split": split,
        "origin": origin,
        "content_type": one.get("content_type") or "uncategorized",
        "family": None if real else one.get("family"),
        "generator": None if real else one.get("generator"),
        "group": one.get("group"),
    }


def _named(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """ClassLabels as their names, as the `datasets` features in the schema have them; 0 and 1 are real and synthetic."""
    import json

    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for name in table.column_names:
        names = described.get(name, {}).get("names") or (list(ORIGINS) if name == "label" else None)
        if names and pa.types.is_integer(table.schema.field(name).type):
            words = [None if v is None or not 0 <= v < len(names) else names[v] for v in table[name].to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(words, pa.string()))
    return table


def _hub(name: str, map: Map, pixels: bool) -> Target:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra(f"the Hub data set {name}", "huggingface_hub", "hub") from error
    log.info("fetching %s from the Hub", name)
    try:
        folder = snapshot_download(name, repo_type="dataset", allow_patterns=["data/**.parquet", "data/*.parquet"])
    except Exception as error:  # the client's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"no file or folder {name}, and no data set of that name could be fetched from the Hub: {reason}"
        ) from error
    found = sorted(Path(folder).glob("data/**/*.parquet"))
    if not found:
        raise UsageError(f"the Hub data set {name} has no data/**.parquet: download it and give its folder")
    return _release(name, found, map, pixels)
