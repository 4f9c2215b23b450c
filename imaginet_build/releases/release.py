"""A release on disk: its columns, how it is cut into files, and how the whole is proved intact.

One Parquet file is one shard of one split of one view. The schema carries the features as `datasets` describes them, so that
images and class names load by themselves; `release.json` lists the SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import ORIGINS, SPLITS
from imaginet_build.releases import columns
from imaginet_build.releases import manifest as manifests
from imaginet_build.releases.manifest import Manifest

VIEWS = ("equalized", "native")
MANIFEST = manifests.NAME
EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp", "tiff": "tif"}
CLASSES = {"content_type": "categories", "family": "families", "generator": "generators"}
"""The columns whose class names a release chooses, and where `Names` has them."""

features_of, schema_of = columns.features_of, columns.schema_of

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Names:
    """The class names of a release, in label order; `families` and `generators` begin with `real`."""

    categories: tuple[str, ...]
    families: tuple[str, ...]
    generators: tuple[str, ...]

    def lists(self) -> tuple[tuple[str, ...], ...]:
        """The names of content types, families and generators."""
        return self.categories, self.families, self.generators

    @classmethod
    def of(
        cls,
        categories: Iterable[str],
        families: Iterable[str | None],
        generators: Iterable[str | None],
        before: Names | None = None,
    ) -> Names:
        """Sorted names without repeats; None (a real row) becomes the leading `real`. What an earlier version named (`before`)
        keeps its number, and what is new comes after it. Raises `UsageError` for a model that is itself called `real`."""
        known = [sorted({n for n in names if n is not None}) for names in (families, generators)]
        for kind, names in zip(("family", "generator"), known, strict=True):
            if "real" in names:
                raise UsageError(f"a {kind} is called 'real', the name kept for real images; rename it in its card or index")
        old = before or cls((), ("real",), ("real",))
        found = zip((old.categories, old.families, old.generators), (sorted(set(categories)), *known), strict=True)
        return cls(*((*named, *(name for name in names if name not in named)) for named, names in found))


def features(names: Names) -> dict[str, dict[str, object]]:
    """The columns of a release as `datasets.Features.to_dict` writes them, in order."""

    def classes(values: Sequence[str]) -> dict[str, object]:
        return {"names": list(values), "_type": "ClassLabel"}

    def value(dtype: str) -> dict[str, object]:
        return {"dtype": dtype, "_type": "Value"}

    string = value("string")
    return {
        "image": {"_type": "Image"},
        "label": classes(ORIGINS),
        "content_type": classes(names.categories),
        "family": classes(names.families),
        "generator": classes(names.generators),
        "id": string,
        "pair_id": string,
        "group": string,
        "source": string,
        "source_key": string,
        "licence": string,
        "prompt": string,
        "seed": value("int64"),
        "width": value("int32"),
        "height": value("int32"),
        "sha256": string,
        "source_sha256": string,
        "phash": string,
        "fetch": string,
    }


def schema(names: Names) -> pa.Schema:
    """The Arrow schema of a shard; its metadata holds the features, which `datasets` reads."""
    return schema_of(features(names))


def newest_features(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The features of shards that several versions wrote: their class names are those of the version that knew most.

    Raises `BuildError` where two shards differ in more than names that the later one adds at the end.
    """
    found: dict[str, dict[str, Any]] = {}
    first = None
    for path in paths:
        here = features_of(path)
        for name in here:
            names, known = (side.get(name, {}).get("names", []) for side in (here, found))
            if first and (
                list(here) != list(found)
                or {**here[name], "names": []} != {**found[name], "names": []}
                or names[: len(known)] != known[: len(names)]
            ):
                raise BuildError(f"{path} has another column '{name}', or other names in it, than {first}: publish it again")
        first = first or path
        found = {name: max(here[name], found.get(name, here[name]), key=lambda one: len(one.get("names", ()))) for name in here}
    return found


def names(folder: Path) -> Names:
    """The class names of a whole release, in label order."""
    found = newest_features(path for view in VIEWS for paths in shards(folder, view).values() for path in paths)
    if not found:
        raise BuildError(f"{folder} holds no data/<view>/*.parquet: it is no release, or its data is elsewhere")
    return Names(**{field: tuple(found[column]["names"]) for column, field in CLASSES.items()})


def image_path(name: str, codec: str) -> str:
    """The file name an image has inside a release: `<id>.<ext>`, the extension by its codec."""
    return f"{name}.{EXTENSIONS.get(codec, codec)}"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a split in every view: `rows` are the places of its images among all that are published now. `version`: the
    version that added them, where it is not the first; `tier`: the smallest tier it is in (`tiers.Arranged`)."""

    split: str
    index: int
    count: int
    rows: range
    version: str = ""
    tier: int = 0

    def path(self, view: str) -> str:
        """Where it lies, relative to the release."""
        added = f"{self.version}-" if self.version else ""
        return f"data/{view}/{self.split}-{added}{self.index:05d}-of-{self.count:05d}.parquet"


@dataclass(frozen=True, slots=True)
class Run:
    """Images of one split and tier that lie one after another: how many, and their bytes as born."""

    split: str
    tier: int
    rows: int
    nbytes: int


def layout(runs: Iterable[Run], rows_per_file: int, bytes_per_file: int, version: str = "") -> list[Shard]:
    """The shards of images that lie split after split, and tier after tier in each.

    A tier of a split gets as few shards of equal row counts as keep each at `rows_per_file` rows or fewer and near
    `bytes_per_file` bytes on average. The cut depends on these numbers alone, never on parts or workers.
    """
    if rows_per_file < 1 or bytes_per_file < 1:
        raise UsageError(f"rows_per_file ({rows_per_file}) and bytes_per_file ({bytes_per_file}) must be 1 or more")
    found: list[Shard] = []
    start = 0
    for run in runs:
        count = min(run.rows, max(-(-run.rows // rows_per_file), -(-run.nbytes // bytes_per_file)))
        edges = [start + i * run.rows // count for i in range(count + 1)]
        found += [Shard(run.split, 0, 0, range(edges[i], edges[i + 1]), version, run.tier) for i in range(count)]
        start += run.rows
    many = Counter(shard.split for shard in found)
    place = Counter[str]()
    for number, shard in enumerate(found):
        found[number] = replace(shard, index=place[shard.split], count=many[shard.split])
        place[shard.split] += 1
    return found


_NAME = re.compile(r"(?P<split>[a-z]+)-(?:(?P<version>\d+\.\d+\.\d+)-)?(?P<index>\d{5})-of-\d{5}\.parquet")


def in_order(place: Path | str) -> tuple[object, ...]:
    """A key that sorts the files of a release by folder, split, version and number: what was there first comes first."""
    path = PurePosixPath(place)
    match = _NAME.fullmatch(path.name)
    if match is None:
        return (str(path.parent), len(SPLITS), (), 0, path.name)
    version = tuple(int(number) for number in (match["version"] or "0.0.0").split("."))
    split = SPLITS.index(match["split"]) if match["split"] in SPLITS else len(SPLITS)
    return (str(path.parent), split, version, int(match["index"]), path.name)


def fingerprint(path: Path) -> dict[str, object]:
    """`{"sha256", "nbytes"}` of one file, read in blocks."""
    state, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
            size += len(block)
    return {"sha256": state.hexdigest(), "nbytes": size}


def listing(folder: Path) -> set[str]:
    """The paths of a release's files; the manifest itself and what is hidden (a clone's `.git`) left out."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts)} - {MANIFEST}


def inventory(folder: Path, known: Mapping[str, Mapping[str, object]] | None = None) -> dict[str, dict[str, object]]:
    """Every file of a release: `{path: {"sha256", "nbytes"}}`, sorted. `known`: the facts of files that need not be read."""
    return {p: dict((known or {}).get(p) or fingerprint(folder / p)) for p in sorted(listing(folder))}


def digest(files: Mapping[str, Mapping[str, object]]) -> str:
    """The name of a release's data: SHA-256 over the sorted (path, sha256) of `data/**`, free of times and versions."""
    lines = [f"{path} {files[path]['sha256']}\n" for path in sorted(files) if path.startswith("data/")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """`release.json` of a release; raises `UsageError` where there is none or it is not readable."""
    return manifests.read(folder)


def faults(folder: Path) -> list[str]:
    """What is wrong with a release on disk, one line per file; empty when every file is there and every hash is right."""
    manifest = read_manifest(folder)
    listed: dict[str, Mapping[str, object]] = manifest["files"]
    found = inventory(folder)
    wrong = [f"{p}: missing" for p in sorted(listed.keys() - found.keys())]
    wrong += [f"{p}: not in {MANIFEST}" for p in sorted(found.keys() - listed.keys())]
    wrong += [
        f"{p}: its bytes are not those published" for p in sorted(listed.keys() & found.keys()) if dict(listed[p]) != found[p]
    ]
    if digest(listed) != manifest.get("digest"):
        wrong.append(f"{MANIFEST}: the digest does not follow from its files")
    accused = {line.rpartition(": ")[0] for line in wrong}
    shown = tuple(f"data/{view}/" for view in VIEWS)
    shards = (p for p in sorted(listed.keys() & found.keys() - accused) if p.startswith(shown) and p.endswith(".parquet"))
    return wrong + [f"{path}: {why}" for path in shards if (why := _odd(folder / path))]


def _odd(path: Path) -> str:
    """What is wrong with the rows of a shard whose bytes are those published: it was damaged before, or made by somebody."""
    try:
        return columns.unlike(path)
    except BuildError as error:
        return str(error).removeprefix(f"{path}: ")
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        return f"it is no readable Parquet file ({(str(error).splitlines() or ['damaged'])[0]})"


def shards(folder: Path, view: str) -> dict[str, list[Path]]:
    """The shards of one view by split, in order; splits without rows are left out."""
    found = {split: sorted((folder / "data" / view).glob(f"{split}-*.parquet"), key=in_order) for split in SPLITS}
    return {split: paths for split, paths in found.items() if paths}


def rows(folder: Path, view: str) -> pa.Table:
    """Every row of one view without its pixels: label columns as their names, and `split`; in shard order."""
    tables = []
    for split, paths in shards(folder, view).items():
        for path in paths:
            described = features_of(path)
            table = pq.read_table(path, columns=[c for c in described if c != "image"], memory_map=True)
            for name in [n for n, f in described.items() if f["_type"] == "ClassLabel"]:
                named = pa.array(described[name]["names"], pa.string()).take(table[name].combine_chunks())
                table = table.set_column(table.schema.get_field_index(name), name, named)
            tables.append(
                table.append_column("split", pa.array([split] * table.num_rows, pa.string())).replace_schema_metadata()
            )
    if not tables:
        raise BuildError(f"{folder} has no rows in view '{view}'")
    return pa.concat_tables(tables)
