"""Turning whatever a person points at into a table of facts: a release, a work folder, folders, an index, a list, a Hub id."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.auditing.facts import FACTS, Growing, Map, Target, both_classes, inside, share_of, walk
from imaginet_build.auditing.lists import LIST_SUFFIXES, ORIGIN_WORDS, read_index, read_list
from imaginet_build.errors import BuildError, MissingExtra, UsageError, suggest
from imaginet_build.records import FACT_SCHEMA, ORIGINS, SPLITS, Refusal

log = logging.getLogger(__name__)

_BATCH = 16
_HUB_ID = re.compile(r"(?:hf://datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
_FAKE_NAMES = ("synthetic", "fake", "ai")
CAPTIONS = ("prompt", "caption", "text", "title", "description")
"""Columns of a release that hold the words an image came with, the first that is there."""

EMBEDDING = "embedding"
ROBUSTNESS = "robustness"
"""The folder of a release whose rows are the test images once more, under conditions: no view of its own to be audited."""

T = TypeVar("T")


def read(target: Path | str, map: Map = map, pixels: bool = False) -> Target:
    """The facts of `target`, measured with `map` where there are images to measure, with `pixels` those of the pixel probes too
    (a list has none).

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
    raise UsageError(f"no such file or folder: {target}{_near(path)} An audit takes a release, a work folder, a folder with "
                     "index.csv, an annotation list or a Hub id; or: build-imaginet audit --real DIR --fake DIR")  # fmt: skip


def read_pair(real: Path | str, fake: Path | str, map: Map = map, pixels: bool = False) -> Target:
    """Two plain folders; the first folder below `fake` is the generator's name. Raises `UsageError` as `read` does."""
    roots = {"real": Path(real), "synthetic": Path(fake)}
    for option, root in zip(("--real", "--fake"), roots.values(), strict=True):
        if not root.is_dir():
            raise UsageError(f"{option} {root}: no such folder{_near(root)} Give the folder that holds the images")
    a, b = (root.resolve() for root in roots.values())
    if a == b or a.is_relative_to(b) or b.is_relative_to(a):
        raise UsageError(
            f"--real {real} and --fake {fake} overlap: every image would be of both classes. Give two separate folders"
        )
    growing = Growing(pixels)
    for origin, root in roots.items():
        known: list[dict[str, object]] = []
        tasks: list[bytes | Path] = []
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
    """`; did you mean 'real'?` for the nearest name in the deepest folder of `path` that exists, else a full stop."""
    for parent in path.parents:
        if parent.is_dir():
            wanted = path.relative_to(parent).parts[0]
            return suggest(wanted, [p.name for p in parent.iterdir()]) or "."
    return "."


def _folder(path: Path, map: Map, pixels: bool) -> Target:
    views = (shard for shard in (path / "data").glob("*/*.parquet") if shard.parent.name != ROBUSTNESS)
    shards = sorted(views) or sorted((path / "data").glob("*.parquet"))
    if shards:
        return _release(str(path), shards, map, pixels, path)
    if (path / "release").is_dir():
        return _folder(path / "release", map, pixels)
    if (path / "parts").is_dir():
        return _work(path, map, pixels)
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
    tasks: list[bytes | Path] = []
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


def _work(root: Path, map: Map, pixels: bool) -> Target:
    """The parts of a work folder: measured when they were written; groups as the plan has them, once there is one.

    With `pixels` the images are read again, for what their metadata says in words and for the pixel probes.
    """
    from imaginet_build.store import Store

    store = Store(root)
    table = store.facts(
        [name for name in FACTS.names if name in FACT_SCHEMA.names and name != "group"]
        + ["group", "category", "source_key", "prompt", "id"]
    )
    if store.plan_path.is_file():
        plan = store.plan().select(["id", "group", "keep"])
        table = table.drop_columns(["group"]).join(plan, "id", join_type="inner").filter(pc.field("keep")).sort_by("id")
    table = table.append_column("path", pc.coalesce(table["source_key"], table["id"]))
    table = table.append_column("view", pa.array(["native"] * len(table), pa.string()))
    table = table.append_column("content_type", table["category"]).append_column("caption", table["prompt"])
    places = (shlex.quote(str(root)),) * 2
    command = "build-imaginet balance --work {} && build-imaginet publish --work {}".format(*places)
    if pixels and len(table):
        growing = Growing(pixels=True)
        rows = {row.pop("id"): row for row in table.select([*_KEPT, "id"]).to_pylist()}
        order = store.in_part_order(rows)
        share = share_of(len(rows), True)
        seen = _embeddings(root)
        held = ((rows[name] | {EMBEDDING: seen.get(name)}, data) for name, data in store.images(order))
        growing.add_all_of(held, share, map)
        return growing.target(str(root), "work", (), command)
    shown = [table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in FACTS]
    facts = pa.table(shown, schema=FACTS)
    return Target(str(root), "work", both_classes(facts, str(root)), remake=command)


_KEPT = ("path", "view", "origin", "content_type", "family", "generator", "group", "extension", "caption")


def _release(name: str, shards: list[Path], map: Map, pixels: bool, place: Path | None = None) -> Target:
    """A release: its shards, each with its labels first, then its images, a few at a time. `place`: its folder on this disk."""
    growing = Growing(pixels)
    seen = _embeddings(place.parent) if pixels and place is not None else {}
    views = [shard.parent.name if shard.parent.name in ("equalized", "native") else None for shard in shards]
    rows: Counter[str | None] = Counter()
    for shard, view in zip(shards, views, strict=True):
        rows[view] += _opened(shard, lambda file: int(file.metadata.num_rows))
    for shard, view in zip(shards, views, strict=True):
        share = share_of(rows[view], pixels)
        _opened(shard, partial(_shard, path=shard, view=view, growing=growing, map=map, share=share, seen=seen))
    if growing.withheld:
        log.warning(
            "%d of %d rows of %s hold no pixels, since they may not be passed on: they are left out here. To have them: "
            "build-imaginet rebuild %s", growing.withheld, sum(rows.values()), name, shlex.quote(name),
        )  # fmt: skip
    return growing.target(name, "release", (), _remake(place))


def _remake(place: Path | None) -> str:
    """The command that makes a release anew from the work folder it lies in, else nothing: it holds no images as they came."""
    if place is not None and (place.parent / "parts").is_dir():
        work = shlex.quote(str(place.parent))
        return f"build-imaginet balance --work {work} && build-imaginet publish --work {work}"
    return ""


def _opened(shard: Path, what: Callable[[pq.ParquetFile], T]) -> T:
    try:
        with pq.ParquetFile(shard) as file:
            return what(file)
    except (pa.ArrowException, OSError) as error:
        raise BuildError(f"{shard} cannot be read ({error}): restore it and check with build-imaginet rebuild") from error


def _embeddings(work: Path) -> dict[str, list[float]]:
    """What a vision model saw in the images of a work folder, by id, where `balance` asked one: the first model by name."""
    found = sorted((work / "embeddings").glob("*.parquet"))
    if not found:
        return {}
    table = _opened(found[0], lambda file: file.read(columns=["id", "vector"]))
    return dict(zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True))


def _shard(
    file: pq.ParquetFile,
    path: Path,
    view: str | None,
    growing: Growing,
    map: Map,
    share: float,
    seen: Mapping[str, list[float]],
) -> None:
    columns = file.schema_arrow.names
    missing = {"image", "label"} - set(columns)
    if missing:
        raise UsageError(f"{path} has no column {' and no '.join(sorted(missing))}; an audit needs images and their labels")
    caption = next((c for c in CAPTIONS if c in columns), None)
    wanted = [
        c for c in ("label", "content_type", "family", "generator", "group", "id", "fetch", caption, EMBEDDING) if c in columns
    ]
    if not _is_image(kind := file.schema_arrow.field("image").type):
        raise UsageError(f"{path}: its column image holds {kind}, and no images; an audit needs their bytes")
    rows = _named(file.read(columns=wanted), _names_in(file.schema_arrow, path)).to_pylist()
    split = found if (found := path.name.partition("-")[0]) in SPLITS else None

    def held() -> Iterator[tuple[dict[str, object], bytes]]:
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH, columns=["image"]):
            for image in batch.column(0):
                one, held = rows[row], image.as_py()
                told = held if isinstance(held, dict) else {"bytes": held}
                place = told.get("path") or str(one.get("id") or f"{path.name}#{row}")
                row += 1
                origin = ORIGIN_WORDS.get(str(one["label"]).strip().lower())
                if origin is None:
                    what = f"its label is {one['label']!r}, neither real nor synthetic"
                    growing.refuse(place, Refusal("unknown-label", what))
                elif told.get("bytes") is None and one.get("fetch"):
                    growing.withheld += 1
                elif told.get("bytes") is None:
                    what = "the release holds no pixels of it: build-imaginet rebuild fetches them"
                    growing.refuse(place, Refusal("withheld", what))
                else:
                    words = one.get(caption or "")
                    said = {"caption": words if isinstance(words, str) else None}
                    yield _row_of(one, origin, place, view, split, seen) | said, told["bytes"]

    growing.add_all_of(held(), share, map)


def _row_of(
    one: dict[str, Any], origin: str, place: str, view: str | None, split: str | None, seen: Mapping[str, list[float]]
) -> dict[str, object]:
    real = origin == "real"
    # Columns without class names may hold numbers.
    words = {
        name: None if one.get(name) is None else str(one[name]) for name in ("content_type", "family", "generator", "group")
    }
    return {
        "path": place,
        "view": view,
        "split": split,
        "origin": origin,
        "content_type": words["content_type"] or "uncategorized",
        "family": None if real else words["family"],
        "generator": None if real else words["generator"],
        "group": words["group"],
        EMBEDDING: one.get(EMBEDDING) or seen.get(str(one.get("id"))),
    }


def _is_image(kind: pa.DataType) -> bool:
    """Whether a column of this type holds images: bytes, or what `datasets` makes of them."""
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _names_in(schema: pa.Schema, path: Path) -> dict[str, list[str]]:
    """By column the names of its classes, as the `datasets` features in the schema have them."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        found = {name: feature["names"] for name, feature in told.items() if isinstance(feature, dict) and feature.get("names")}
    except (ValueError, AttributeError, RecursionError):
        found = {"": None}
    if wrong := [
        name for name, names in found.items() if not (isinstance(names, list) and all(isinstance(n, str) for n in names))
    ]:
        raise BuildError(
            f"{path}: what it says of its columns{f' ({wrong[0]})' if wrong[0] else ''} is none: take an intact copy"
        )
    return found


def _named(table: pa.Table, classes: Mapping[str, Sequence[str]]) -> pa.Table:
    """ClassLabels as their names; 0 and 1 are real and synthetic where nothing else is said."""
    for name in table.column_names:
        names = classes.get(name) or (list(ORIGINS) if name == "label" else None)
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
    found: list[Path] = []
    aside = f"data/{ROBUSTNESS}/*"
    for patterns in (["data/**.parquet", "data/*.parquet"], ["*.parquet"]):  # elsewhere only where `data` holds none
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns, ignore_patterns=aside))
        except Exception as error:  # the client's errors share no base class
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"no file or folder {name}, and no data set of that name could be fetched from the Hub: {reason}"
            ) from error
        if found := sorted(folder.rglob("*.parquet")):
            break
    else:
        raise UsageError(f"the Hub data set {name} has no Parquet files: download it and give its folder")
    return _release(name, found, map, pixels)
