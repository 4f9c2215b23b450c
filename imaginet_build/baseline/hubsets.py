"""A data set of the Hub as a test: its Parquet files with a column of images and one of labels, or its folders as they are."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build import cards
from imaginet_build.auditing.lists import ORIGIN_WORDS
from imaginet_build.baseline.benchsets import Bench, opened
from imaginet_build.baseline.data import Rows, from_parquet, places_of
from imaginet_build.errors import MissingExtra, UsageError
from imaginet_build.records import ORIGINS

log = logging.getLogger(__name__)

NAME = re.compile(r"(?:hf://datasets/)?(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LABELS = ("label", "origin", "labels", "class", "is_fake", "target")
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "generator": ("generator", "model", "model_name"),
    "content_type": ("content_type", "category"),
    "family": ("family",),
    "group": ("group", "pair_id"),
    "source": ("source",),
}


def fetched(target: str, view: str = "equalized") -> Bench:
    """The test at `owner/name` or `owner/name@REVISION`. Raises `UsageError` where nothing of it can be judged, `MissingExtra`
    without huggingface_hub."""
    match = NAME.fullmatch(target)
    if match is None:
        raise UsageError(f"{target} is no file, no folder and no data set of the Hub (owner/name, owner/name@COMMIT)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra(f"the Hub data set {target}", "huggingface_hub", "hub") from None
    log.info("fetching %s from the Hub", match["name"])
    try:
        folder = Path(snapshot_download(match["name"], repo_type="dataset", revision=match["revision"]))
    except Exception as error:  # the client's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"no file or folder {target}, and no data set of that name came from the Hub: {reason}") from error
    # The client keeps each commit in a folder of its name.
    commit = folder.name if _COMMIT.fullmatch(folder.name) else None
    if commit is not None and match["revision"] != commit:
        log.warning("%s is at commit %s; to judge on the very same again: --on %s@%s", target, commit, match["name"], commit)
    return replace(_read(folder, match["name"], view), revision=commit)


def _read(folder: Path, title: str, view: str) -> Bench:
    shards = sorted(folder.rglob("*.parquet"))
    if (folder / "release.json").is_file() or not shards:
        return opened(folder, view, within=folder.parent.parent)
    tests = [p for p in shards if "test" in p.relative_to(folder).as_posix().lower()]
    return Bench(of_parquet(tests or shards, title), "Hub data set")


def of_parquet(shards: Sequence[Path], title: str) -> Rows:
    """Rows of Parquet files with a struct column `image` of bytes and a column of labels (`label`, `origin`, …): class names,
    words, or 0 for real and 1 for synthetic. A class name that is neither names a generator. Raises `UsageError`."""
    tables = [_table(shard) for shard in shards]
    columns = {name: [value for table in tables for value in table[name]] for name in tables[0]}
    origins = [_origin(value, title) for value in columns.pop("label")]
    generator = tuple(
        "real" if origin == "real" else str(own or named or "unknown")
        for (origin, named), own in zip(origins, columns["generator"], strict=True)
    )
    ids = tuple(
        f"{shard.stem}#{row}" for shard, table in zip(shards, tables, strict=True) for row in range(len(table["label"]))
    )
    label = np.array([ORIGINS.index(origin) for origin, _ in origins], np.int64)
    if len(np.unique(label)) < 2:
        raise UsageError(
            f"{title} must hold both real and synthetic images; every label is {origins[0][0] if origins else 'missing'}"
        )
    family_of, places = cards.taxonomy().family_of, places_of(shards)
    return Rows(
        title=title,
        ids=ids,
        label=label,
        content_type=tuple(str(value or "all") for value in columns["content_type"]),
        family=tuple(
            "real" if made == "real" else str(family or family_of(made))
            for made, family in zip(generator, columns["family"], strict=True)
        ),
        generator=generator,
        group=tuple(str(group or name) for group, name in zip(columns["group"], ids, strict=True)),
        size=np.zeros((len(ids), 2), np.int64),
        read=functools.partial(from_parquet, places),
        places=tuple(places),
        source=tuple(str(value or "unknown") for value in columns["source"]),
    )


def _table(path: Path) -> dict[str, list[Any]]:
    """The label and the other columns of one file, class numbers as their names; None where there is no such column."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as Parquet ({error}): fetch it again") from error
    image = schema.field("image").type if "image" in schema.names else None
    label = next((name for name in _LABELS if name in schema.names), None)
    if image is None or not pa.types.is_struct(image) or "bytes" not in [f.name for f in image] or label is None:
        raise UsageError(
            f"{path.name} has the columns {', '.join(schema.names[:12])}: a test needs `image` (bytes and path) and one of "
            f"{', '.join(_LABELS)}. Bring it into a work folder instead: build-imaginet collect --source hub"
        )
    wanted = {"label": label} | {
        name: found for name, names in _COLUMNS.items() if (found := next((n for n in names if n in schema.names), None))
    }
    table = pq.read_table(path, columns=list(set(wanted.values())))
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    columns: dict[str, list[Any]] = {name: [None] * table.num_rows for name in _COLUMNS}
    for name, column in wanted.items():
        names, values = described.get(column, {}).get("names"), table[column].to_pylist()
        columns[name] = [names[v] if isinstance(v, int) and names and 0 <= v < len(names) else v for v in values]
    return columns


def _origin(value: Any, title: str) -> tuple[str, str | None]:
    """real or synthetic, and the generator where the label is its name."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return ORIGINS[int(value)], None
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{title}: the label {value!r} is neither a class name, nor real or synthetic, nor 0 or 1")
    word = value.strip()
    return (ORIGIN_WORDS[word.lower()], None) if word.lower() in ORIGIN_WORDS else ("synthetic", word)
