"""The card of a release: README.md, LICENSE.md and the composition table, every number counted from the release itself.

The front matter is what the Hugging Face Hub reads: one config for each view, the first the default, and a `dataset_info`
taken from the Parquet schema, because `datasets` believes the card over the schema where they differ.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from imaginet_build import containers, jpegfile, likeness, release
from imaginet_build.pixel_probes import EXPECTED
from imaginet_build.records import SPLITS

COMPOSITION = "composition.csv"
_LICENCES = """# Licences

Every image keeps the licence of its source or its generator; the column `licence` of its row names it.

| licence | real rows | synthetic rows |
|---|---|---|
"""
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"), (1e8, "10M<n<100M"))


@dataclass(frozen=True, slots=True)
class About:
    """What cannot be counted. `sources`: one mapping for each source and generator card (name, title, url, licence,
    revision), shown where a row of the release comes from it. `contact`: where to ask for an image to be taken down."""

    title: str = "Synthetic image detection data set"
    description: str = ""
    repo: str = ""
    contact: str = ""
    citation: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted in a release folder.

    `views`: rows by view and split. `nbytes`, `arrow_nbytes`: file and uncompressed sizes alike. `sides`: by view and label,
    the smallest, median and largest shorter side in pixels. `likeness`: by view, bytes per pixel of each label and the
    Kolmogorov-Smirnov distance between the labels in size, aspect and JPEG quality, beside its sampling error
    (`likeness`). `composition`: rows by category, label, family, generator or source and split.
    """

    digest: str
    features: dict[str, dict[str, Any]]
    views: dict[str, dict[str, int]]
    nbytes: dict[str, dict[str, int]]
    arrow_nbytes: dict[str, dict[str, int]]
    sides: dict[str, dict[str, tuple[int, float, int]]]
    likeness: dict[str, dict[str, Any]]
    codecs: dict[str, dict[str, int]]
    composition: tuple[dict[str, Any], ...]
    licences: dict[str, dict[str, int]]
    groups: int
    rejects: dict[str, int]


def measure(folder: Path, views: Sequence[str], rejects: pa.Table, digest: str) -> Measured:
    """Count everything the card says, from the shards on disk; `rejects` is what `rejects.parquet` holds."""
    tables = {view: release.rows(folder, view) for view in views}
    first = tables[views[0]]
    files = {view: release.shards(folder, view) for view in views}
    path = next(iter(files[views[0]].values()))[0]
    labelled = {
        view: list(zip(*(t[c].to_pylist() for c in ("label", "width", "height")), strict=True)) for view, t in tables.items()
    }
    origin_of = pc.if_else(pc.equal(first["label"], "real"), pc.fill_null(first["source"], "unknown"), first["generator"])
    keys = ("content_type", "label", "family")
    cells = Counter(zip(*(first[c].to_pylist() for c in keys), origin_of.to_pylist(), first["split"].to_pylist(), strict=True))
    return Measured(
        digest=digest,
        features=release.features_of(path),
        views={view: {split: sum(_rows(p) for p in paths) for split, paths in files[view].items()} for view in views},
        nbytes={view: {split: sum(p.stat().st_size for p in paths) for split, paths in files[view].items()} for view in views},
        arrow_nbytes={view: {s: sum(_unpacked(p) for p in paths) for s, paths in files[view].items()} for view in views},
        sides={view: _sides(rows) for view, rows in labelled.items()},
        likeness={view: _likeness(table, files[view]) for view, table in tables.items()},
        codecs={view: _codecs(files[view]) for view in views},
        composition=tuple(
            dict(zip((*keys, "generator_or_source", "split"), cell, strict=True)) | {"rows": n}
            for cell, n in sorted(cells.items())
        ),
        licences=_licences(first),
        groups=len(pc.unique(first["group"])),
        rejects=dict(sorted(Counter(rejects["reason"].to_pylist()).items(), key=lambda item: (-item[1], item[0]))),
    )


def files(
    facts: Measured, about: About, gate: Mapping[str, Any] | None = None, probes: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """The text files of a release by name: README.md, LICENSE.md and composition.csv."""
    import pandas as pd

    frame = pd.DataFrame(facts.composition)
    wide = frame.pivot_table(
        index=["content_type", "label", "family", "generator_or_source"],
        columns="split",
        values="rows",
        aggfunc="sum",
        fill_value=0,
    )
    wide = wide.reindex(columns=[s for s in SPLITS if s in wide.columns])
    wide["all"] = wide.sum(axis=1)
    environment = Environment(
        loader=PackageLoader("imaginet_build"),
        autoescape=False,  # noqa: S701 - Markdown; the filter below escapes what is not ours
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=True)
    used = {row["generator_or_source"] for row in facts.composition}
    readme = environment.get_template("card.md.j2").render(
        facts=facts,
        about=about,
        gate={"reason": "", "self_test": None, "forced": False} | dict(gate) if gate else None,
        probes=(shown := [p for p in probes if p["track"] == "origin" and p.get("scope", "all") == "all"]),
        beside=[p for p in shown if not p.get("gate", True)],
        expected=EXPECTED,
        default=next(iter(facts.views)),
        rows=sum(next(iter(facts.views.values())).values()),
        size=_size_category(sum(next(iter(facts.views.values())).values())),
        info=dataset_info(facts),
        splits=[s for s in SPLITS if s in wide.columns],
        composition=wide.reset_index().to_dict("records"),
        totals={str(name): int(value) for name, value in wide.sum().items()},
        sources=[s for s in about.sources if s["name"] in used],
    )
    licences = "".join(f"| {_cell(name)} | {n['real']} | {n['synthetic']} |\n" for name, n in facts.licences.items())
    return {
        "README.md": readme,
        "LICENSE.md": _LICENCES + licences,
        COMPOSITION: frame.to_csv(index=False, lineterminator="\n"),
    }


def dataset_info(facts: Measured) -> list[dict[str, Any]]:
    """The card's `dataset_info`, one entry for each view, from the features the Parquet files carry."""
    return [
        {
            "config_name": view,
            "features": [{"name": name} | _yaml_feature(feature) for name, feature in facts.features.items()],
            "splits": [
                {"name": split, "num_bytes": facts.arrow_nbytes[view][split], "num_examples": rows}
                for split, rows in splits.items()
            ],
            "download_size": sum(facts.nbytes[view].values()),
            "dataset_size": sum(facts.arrow_nbytes[view].values()),
        }
        for view, splits in facts.views.items()
    ]


def _yaml_feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    match feature["_type"]:
        case "Image":
            return {"dtype": "image"}
        case "ClassLabel":
            return {"dtype": {"class_label": {"names": {str(i): name for i, name in enumerate(feature["names"])}}}}
    return {"dtype": feature["dtype"]}


def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _unpacked(path: Path) -> int:
    metadata = pq.read_metadata(path)
    return sum(int(metadata.row_group(i).total_byte_size) for i in range(metadata.num_row_groups))


def _codecs(shards: Mapping[str, Sequence[Path]]) -> dict[str, int]:
    """Rows by file extension."""
    found: Counter[str] = Counter()
    for path in (p for paths in shards.values() for p in paths):
        with pq.ParquetFile(path) as file:
            names = pc.struct_field(file.read(columns=["image.path"])["image"], "path").to_pylist()
        found.update(name.rpartition(".")[2] for name in names)
    return dict(sorted(found.items()))


def _sides(rows: Sequence[tuple[str, int, int]]) -> dict[str, tuple[int, float, int]]:
    found: dict[str, tuple[int, float, int]] = {}
    for label in ("real", "synthetic"):
        sides = [min(w, h) for name, w, h in rows if name == label]
        if sides:
            found[label] = (min(sides), statistics.median(sides), max(sides))
    return found


def _likeness(table: pa.Table, shards: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """How alike the labels are from outside, and how many bytes each spends on a pixel."""
    synthetic = np.asarray(pc.equal(table["label"], "synthetic").to_numpy(), dtype=bool)
    width, height = (table[side].to_numpy().astype(np.int64) for side in ("width", "height"))
    lengths = [np.zeros(0, dtype=np.int64)]
    quality: list[float] = []
    for path in (p for paths in shards.values() for p in paths):
        with pq.ParquetFile(path) as file:
            # A row group at a time: the images of a shard need not fit into memory.
            for number in range(file.num_row_groups):
                column = file.read_row_group(number, columns=["image.bytes"])["image"].combine_chunks()
                images = pc.struct_field(column, "bytes")
                lengths.append(pc.binary_length(images).to_numpy(zero_copy_only=False).astype(np.int64))
                quality += [_quality(image.as_py()) for image in images]
    return {
        "bytes_per_pixel": likeness.bytes_per_pixel(synthetic, np.concatenate(lengths), width * height),
        "ks": likeness.distances(synthetic, width, height, np.array(quality, dtype=float)),
        "sampling_error": likeness.sampling_error(int((~synthetic).sum()), int(synthetic.sum())),
    }


def _quality(image: bytes) -> float:
    """The quality a JPEG's tables lie nearest to; nan for what is no JPEG."""
    return float(jpegfile.parse(image).quality or np.nan) if containers.sniff(image) == "jpeg" else np.nan


def _licences(table: pa.Table) -> dict[str, dict[str, int]]:
    counts = Counter(zip(table["licence"].to_pylist(), table["label"].to_pylist(), strict=True))
    return {name: {label: counts[name, label] for label in ("real", "synthetic")} for name in sorted({n for n, _ in counts})}


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "100M<n<1B")


def _cell(value: object) -> str:
    """Text that is not ours, safe inside a Markdown table: one line, no markup, no HTML."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in text)
