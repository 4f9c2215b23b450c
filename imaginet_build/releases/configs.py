"""What can be loaded from a release by name: one config for each view, tier and side table, read off the files that are there.

A folder that holds Parquet files named `<split>-*.parquet` is a config; nobody keeps a list. `datasets` believes the card over
the Parquet schema, so everything the card says of a config comes from here, and everything here from the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imaginet_build.errors import BuildError
from imaginet_build.records import SPLITS
from imaginet_build.releases import release

Tiers = Mapping[str, Mapping[str, Sequence[str]]]
"""By tier and split: the paths of its shards, relative to the release."""

WHAT = {
    "equalized": "both classes under one law of crop, size and encoding",
    "native": "every image as it was born or delivered",
    "robustness": "the test images under fixed perturbations",
    "metadata": "every column but the pixels",
}
"""What each folder holds, in a few words; a tier is described by what it is a part of."""

COLUMNS = {
    "image": "its bytes, and `<id>.<extension>`",
    "label": "real or synthetic",
    "content_type": "photos, faces, paintings and the like",
    "family": "the group its generator belongs to; `real` for real images",
    "generator": "the model that drew it; `real` for real images",
    "id": "its name in every view and version",
    "pair_id": "shared by an aligned synthetic image and its source",
    "group": "what belongs together and never stands in two splits",
    "source": "the card it was collected by",
    "source_key": "its name there",
    "licence": "the terms of this image",
    "prompt": "the text it was drawn from, or its caption",
    "seed": "of the generator",
    "width": "in pixels",
    "height": "in pixels",
    "sha256": "of this row's image bytes",
    "source_sha256": "of the bytes as born",
    "phash": "64-bit perceptual hash, hexadecimal",
    "fetch": "where pixels that may not travel are to be had; null where they are in the row",
}
"""What the columns of a view say."""


@dataclass(frozen=True, slots=True)
class Config:
    """One loadable config. By split: `data_files`, paths or patterns relative to the release, as the card's front matter
    has them; `shards`, the files behind them; `rows`; `nbytes` on disk; `arrow_nbytes` uncompressed. `features`: as the Parquet
    schema has them. `folder`: the release. `of`: the folder it is a tier of, '' for a whole folder."""

    name: str
    default: bool
    what: str
    data_files: dict[str, tuple[str, ...]]
    shards: dict[str, tuple[Path, ...]]
    features: dict[str, dict[str, Any]]
    rows: dict[str, int]
    nbytes: dict[str, int]
    arrow_nbytes: dict[str, int]
    folder: Path
    of: str = ""

    def place(self, path: Path) -> str:
        """Where a shard lies, relative to the release."""
        return path.relative_to(self.folder).as_posix()


def found(folder: Path, tiers: Tiers | None = None, views: Sequence[str] = release.VIEWS) -> tuple[Config, ...]:
    """Every config of the release at `folder`: `views` in their order, the first the default, then tiers, then all else.

    Raises `BuildError` for a tier that names a missing file, a shard without feature names, or shards of one config that
    contradict each other in them.
    """
    held = sorted(p for p in [*(folder / "data").glob("*"), folder / "metadata"] if p.is_dir() and any(p.glob("*.parquet")))
    order = [*views, *sorted(p.name for p in held)]
    places = {p.name: p for p in sorted(held, key=lambda p: order.index(p.name))}
    sizes = Sizes()
    whole = [
        _config(
            folder, name, sizes, {s: sorted(p.glob(f"{s}-*.parquet"), key=release.in_order) for s in SPLITS}, default=i == 0
        )
        for i, (name, p) in enumerate(places.items())
    ]
    first = [config for config in whole if config.name in views]
    parts = []
    for name, by_split in (tiers or {}).items():
        shards = {split: [folder / path for path in by_split.get(split, ())] for split in SPLITS}
        lost = [p for paths in shards.values() for p in paths if not p.is_file()]
        if lost or name in places or not any(shards.values()):
            why = f"has no file {lost[0].relative_to(folder)}" if lost else "is empty or has the name of a folder of data"
            raise BuildError(f"the tier '{name}' of {folder} {why}: publish it again")
        of = next(p.parent.name for paths in shards.values() for p in paths)
        parts.append(_config(folder, name, sizes, shards, of=of))
    return _named_alike([*first, *parts, *(config for config in whole if config not in first)])


def _named_alike(configs: Sequence[Config]) -> tuple[Config, ...]:
    """The configs with the class names of the one that knows most: files that a later version left alone know fewer."""
    newest: dict[str, Sequence[str]] = {}
    for config in configs:
        for name, feature in config.features.items():
            here, known = feature.get("names", ()), newest.get(name, ())
            if list(here[: len(known)]) != list(known[: len(here)]):
                raise BuildError(f"the class names of '{name}' in '{config.name}' are not the release's: publish it again")
            newest[name] = max(here, known, key=len)
    return tuple(
        replace(
            config,
            features={name: f | ({"names": list(newest[name])} if "names" in f else {}) for name, f in config.features.items()},
        )
        for config in configs
    )


def dataset_info(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """The card's `dataset_info`, one entry for each config, from the features the Parquet files carry."""
    return [
        {
            "config_name": config.name,
            "features": [{"name": name} | _yaml_feature(feature) for name, feature in config.features.items()],
            "splits": [
                {"name": split, "num_bytes": config.arrow_nbytes[split], "num_examples": rows}
                for split, rows in config.rows.items()
            ],
            "download_size": sum(config.nbytes.values()),
            "dataset_size": sum(config.arrow_nbytes.values()),
        }
        for config in configs
    ]


class Sizes(dict[Path, tuple[int, int, int]]):
    """Of every shard its rows, its bytes on disk and uncompressed, read once: the footers of all together are large."""

    def __missing__(self, path: Path) -> tuple[int, int, int]:
        read = pq.read_metadata(path)
        nbytes = sum(read.row_group(i).total_byte_size for i in range(read.num_row_groups))
        self[path] = read.num_rows, path.stat().st_size, nbytes
        return self[path]


def _config(
    folder: Path, name: str, sizes: Sizes, shards: Mapping[Any, Sequence[Path]], default: bool = False, of: str = ""
) -> Config:
    held = {split: tuple(paths) for split, paths in shards.items() if paths}
    every = [path for paths in held.values() for path in paths]
    if not every:
        raise BuildError(f"the config '{name}' of {folder} has no file of any split ({', '.join(SPLITS)}): publish it again")
    features = release.newest_features(every)
    rows, nbytes, arrow_nbytes = (
        {split: sum(sizes[path][which] for path in paths) for split, paths in held.items()} for which in range(3)
    )
    return Config(
        name=name,
        default=default,
        what=f"the first shards of `{of}`, or all" if of else WHAT.get(name, name),
        data_files={split: _patterns(folder, split, paths) for split, paths in held.items()},
        shards=held,
        features=features,
        rows=rows,
        nbytes=nbytes,
        arrow_nbytes=arrow_nbytes,
        folder=folder,
        of=of,
    )


def _patterns(folder: Path, split: str, paths: Sequence[Path]) -> tuple[str, ...]:
    """One pattern where it finds just these files, else their names."""
    pattern = f"{paths[0].parent.relative_to(folder).as_posix()}/{split}-*.parquet"
    return (pattern,) if set(folder.glob(pattern)) == set(paths) else tuple(p.relative_to(folder).as_posix() for p in paths)


def _yaml_feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    match feature.get("_type"):
        case "Image":
            return {"dtype": "image"}
        case "ClassLabel":
            return {"dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(feature["names"])}}}}
        case "Value":
            return {"dtype": feature["dtype"]}
    raise BuildError(f"the card cannot describe a column of the kind {feature.get('_type')!r}: use Image, ClassLabel or Value")
