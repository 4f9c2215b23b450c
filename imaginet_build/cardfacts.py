"""What the card of a release says of it, counted from the files of the release."""

from __future__ import annotations

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

from imaginet_build import configs, containers, jpegfile, likeness, release
from imaginet_build.records import ORIGINS

NO_PIXELS = "no pixels"
"""The codec of a row whose pixels stay with their source."""

_AT_ONCE = 10
"""Images in memory."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What only the images of a view can tell. `codecs`: rows by file extension. `likeness`: bytes per pixel of each label
    and the Kolmogorov-Smirnov distance between the labels in size, aspect and JPEG quality, beside its sampling error."""

    codecs: dict[str, int]
    likeness: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was counted in a release folder.

    `configs`: what can be loaded by name (`configs.found`). `views`: rows by view and split. `nbytes`: file sizes alike.
    `sides`: by view and label, the smallest, median and largest shorter side in pixels. `likeness`, `codecs`: by view
    (`Pixels`). `composition`: rows by category, label, family, generator or source and split. `terms`: rows by label, generator
    or source and licence. `labels`: rows by label. `empty`: by column, rows without a value. `files`: everything in the folder.
    """

    digest: str
    configs: tuple[configs.Config, ...]
    views: dict[str, dict[str, int]]
    nbytes: dict[str, dict[str, int]]
    sides: dict[str, dict[str, tuple[int, float, int]]]
    likeness: dict[str, dict[str, Any]]
    codecs: dict[str, dict[str, int]]
    composition: tuple[dict[str, Any], ...]
    terms: tuple[dict[str, Any], ...]
    licences: dict[str, dict[str, int]]
    labels: dict[str, int]
    empty: dict[str, int]
    groups: int
    pairs: int
    rejects: dict[str, int]
    files: frozenset[str]

    @property
    def withheld(self) -> int:
        """Rows without pixels in the default view."""
        return next(iter(self.codecs.values())).get(NO_PIXELS, 0)

    @property
    def rows(self) -> int:
        """Rows of every view."""
        return sum(self.labels.values())

    @property
    def pixels(self) -> dict[str, Pixels]:
        """What the images of each view told."""
        return {view: Pixels(self.codecs[view], self.likeness[view]) for view in self.views}


def measure(
    folder: Path,
    views: Sequence[str],
    rejects: pa.Table,
    digest: str,
    tiers: configs.Tiers | None = None,
    pixels: Mapping[str, Pixels] | None = None,
) -> Measured:
    """Count everything the card says, from the shards on disk; `rejects` is what `rejects.parquet` holds. The first of `views`
    is the default config. `pixels`: what the images told already (`look`), else they are looked at."""
    known = {config.name: config for config in configs.found(folder, tiers, views)}
    tables = {view: release.rows(folder, view) for view in views}
    first = tables[views[0]]
    seen = pixels or {view: look(folder, view, table) for view, table in tables.items()}
    labelled = {
        view: list(zip(*(t[c].to_pylist() for c in ("label", "width", "height")), strict=True)) for view, t in tables.items()
    }
    origin_of = pc.if_else(pc.equal(first["label"], "real"), pc.fill_null(first["source"], "unknown"), first["generator"])
    table = first.append_column("generator_or_source", origin_of)
    return Measured(
        digest=digest,
        configs=tuple(known.values()),
        views={view: known[view].rows for view in views},
        nbytes={view: known[view].nbytes for view in views},
        sides={view: _sides(rows) for view, rows in labelled.items()},
        likeness={view: seen[view].likeness for view in views},
        codecs={view: seen[view].codecs for view in views},
        composition=_counts(table, "content_type", "label", "family", "generator_or_source", "split"),
        terms=_counts(table, "label", "generator_or_source", "licence"),
        licences=_licences(first),
        labels={label: pc.sum(pc.equal(first["label"], label)).as_py() for label in ORIGINS},
        empty={name: first[name].null_count for name in first.column_names if first[name].null_count},
        groups=len(pc.unique(first["group"])),
        pairs=len(pc.unique(first["pair_id"].drop_null())),
        rejects=dict(sorted(Counter(rejects["reason"].to_pylist()).items(), key=lambda item: (-item[1], item[0]))),
        files=frozenset(release.listing(folder)),
    )


def look(folder: Path, view: str, table: pa.Table) -> Pixels:
    """What the images of one view tell. `table`: its rows without pixels, in shard order (`release.rows`)."""
    synthetic = np.asarray(pc.equal(table["label"], "synthetic").to_numpy(), dtype=bool)
    width, height = (table[side].to_numpy().astype(np.int64) for side in ("width", "height"))
    lengths = [np.zeros(0, dtype=np.int64)]
    quality: list[float] = []
    codecs: Counter[str] = Counter()
    for path in (p for paths in release.shards(folder, view).values() for p in paths):
        # A few rows at a time, nothing read ahead: not even a row group need fit into memory.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(_AT_ONCE, columns=["image"], use_threads=False):
                column = batch["image"]
                images = pc.struct_field(column, "bytes")
                lengths.append(pc.fill_null(pc.binary_length(images), 0).to_numpy(zero_copy_only=False).astype(np.int64))
                quality += [_quality(image.as_buffer()) if image.is_valid else np.nan for image in images]
                names = pc.if_else(pc.is_valid(images), pc.struct_field(column, "path"), NO_PIXELS)
                codecs.update(name.rpartition(".")[2] for name in names.to_pylist())
    nbytes = np.concatenate(lengths)
    return Pixels(
        codecs=dict(sorted(codecs.items())),
        likeness={
            "bytes_per_pixel": likeness.bytes_per_pixel(synthetic, nbytes, np.where(nbytes > 0, width * height, 0)),
            "ks": likeness.distances(synthetic, width, height, np.array(quality, dtype=float)),
            "sampling_error": likeness.sampling_error(int((~synthetic).sum()), int(synthetic.sum())),
        },
    )


def _quality(image: pa.Buffer) -> float:
    """The quality a JPEG's tables lie nearest to; nan for what is no JPEG."""
    data = image.to_pybytes()
    return float(jpegfile.parse(data).quality or np.nan) if containers.sniff(data) == "jpeg" else np.nan


def _counts(table: pa.Table, *columns: str) -> tuple[dict[str, Any], ...]:
    """Rows of every combination of values, sorted by them; a null sorts before everything."""
    cells = Counter(zip(*(table[c].to_pylist() for c in columns), strict=True))
    order = sorted(cells, key=lambda cell: [(value is not None, value or "") for value in cell])
    return tuple(dict(zip(columns, cell, strict=True)) | {"rows": cells[cell]} for cell in order)


def _sides(rows: Sequence[tuple[str, int, int]]) -> dict[str, tuple[int, float, int]]:
    found: dict[str, tuple[int, float, int]] = {}
    for label in ORIGINS:
        sides = [min(w, h) for name, w, h in rows if name == label]
        if sides:
            found[label] = (min(sides), statistics.median(sides), max(sides))
    return found


def _licences(table: pa.Table) -> dict[str, dict[str, int]]:
    counts = Counter(zip(table["licence"].to_pylist(), table["label"].to_pylist(), strict=True))
    return {name: {label: counts[name, label] for label in ORIGINS} for name in sorted({n for n, _ in counts})}
