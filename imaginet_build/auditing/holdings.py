"""Every image that a person points at, labelled or not: a release, a work folder, an index, a list, any folder, a Hub id."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.auditing.facts import inside, walk
from imaginet_build.auditing.lists import LIST_SUFFIXES, read_index, read_list
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import Refusal

log = logging.getLogger(__name__)

Item = tuple[str, bytes | Path | Refusal]
"""An image's name in its data set, and the image, or why it cannot be had."""

_BATCH = 16
_HUB_ID = re.compile(r"(?:hf://datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")


@dataclass(frozen=True)
class Holdings:
    """The images of a target. `kind`: release, work, folder, list. `items` are read as they are asked for, once."""

    name: str
    kind: str
    items: Iterable[Item]


def of(target: Path | str) -> Holdings:
    """The images of `target`. Labels are not needed. Raises `UsageError` where there is nothing of the kind."""
    path = Path(target)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix == ".parquet":
            return Holdings(path.stem, "release", _of_shards([path]))
        if path.name == "index.csv":
            return Holdings(path.parent.resolve().name, "folder", _of_index(path.parent))
        if path.suffix.lower() in LIST_SUFFIXES:
            return Holdings(path.stem, "list", _of_list(path))
        raise UsageError(f"{path} holds no data set: give a release, a folder, a list of images or a Hub id")
    hub = _HUB_ID.fullmatch(str(target))
    if hub and (str(target).startswith("hf://") or not path.parent.exists()):
        return _hub(hub[1])
    raise UsageError(f"no such file or folder: {target}. Give a release, a work folder, a folder of images or a Hub id")


def _folder(path: Path) -> Holdings:
    name = path.resolve().name
    shards = sorted((path / "data").glob("*/*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if shards:
        return Holdings(name, "release", _of_shards(shards))
    if (path / "parts").is_dir():
        return Holdings(name, "work", _of_work(path))
    if (path / "index.csv").is_file():
        return Holdings(name, "folder", _of_index(path))
    return Holdings(name, "folder", walk(path))


def _of_shards(shards: list[Path]) -> Iterator[Item]:
    for shard in shards:
        view = f"{shard.parent.name}/" if shard.parent.name in ("equalized", "native") else ""
        try:
            with pq.ParquetFile(shard) as file:
                if "image" not in file.schema_arrow.names:
                    raise UsageError(f"{shard} has no column image: a sketch needs the images")
                row = 0
                wanted = [name for name in ("image", "id") if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                    for one in batch.to_pylist():
                        held = one["image"] if isinstance(one["image"], dict) else {"bytes": one["image"]}
                        name = str(held.get("path") or one.get("id") or f"{shard.name}#{row}")
                        row += 1
                        data = held.get("bytes")
                        yield view + name, Refusal("withheld", "no pixels of it here", name) if data is None else data
        except (pa.ArrowException, OSError, ValueError) as error:  # a name that is no UTF-8 is a ValueError
            raise BuildError(f"{shard} cannot be read ({error}): fetch it again") from error


def _of_work(root: Path) -> Iterator[Item]:
    from imaginet_build.store import Store

    store = Store(root)
    table = store.facts(["id", "source_key"])
    names = {row["id"]: row["source_key"] or row["id"] for row in table.to_pylist()}
    for name, data in store.images(store.in_part_order(names)):
        yield names[name], data


def _of_index(root: Path) -> Iterator[Item]:
    for row in read_index(root / "index.csv", []):
        key = str(row["path"])
        yield key, inside(root, key)


def _of_list(path: Path) -> Iterator[Item]:
    for key in read_list(path).table["path"].to_pylist():
        yield key, inside(path.parent, key)


def _hub(name: str) -> Holdings:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra(f"the Hub data set {name}", "huggingface_hub", "hub") from error
    log.info("fetching %s from the Hub", name)
    try:
        folder = Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:  # the client's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"no file or folder {name}, and no data set of that name came from the Hub: {reason}") from error
    shards = sorted(folder.rglob("*.parquet"))
    return Holdings(name, "release", _of_shards(shards)) if shards else Holdings(name, "folder", walk(folder))
