"""What the card of a release says of it, counted from the files of the release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imaginet_build.balancing import likeness
from imaginet_build.records import ORIGINS
from imaginet_build.releases import configs, release
from imaginet_build.releases.shardpixels import NO_PIXELS, ShardPixels

_BATCH = 5000
_NAMED = ("label", "content_type", "family", "generator", "source", "licence")


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
    seen: Mapping[str, ShardPixels] | None = None,
) -> Measured:
    """Count everything the card says, from the shards on disk; `rejects` is what `rejects.parquet` holds. The first of `views`
    is the default config. `pixels`: what the images told already (`look`), else they are looked at. `seen`: by path,
    what is known of single shards."""
    known = {config.name: config for config in configs.found(folder, tiers, views)}
    rows = {view: _rows(folder, view) for view in views}
    first = rows[views[0]]
    images = pixels or {view: look(folder, view, one, seen) for view, one in rows.items()}
    return Measured(
        digest=digest,
        configs=tuple(known.values()),
        views={view: known[view].rows for view in views},
        nbytes={view: known[view].nbytes for view in views},
        sides={view: one.sides() for view, one in rows.items()},
        likeness={view: images[view].likeness for view in views},
        codecs={view: images[view].codecs for view in views},
        composition=_counts(first.cells, "content_type", "label", "family", "generator_or_source", "split"),
        terms=_counts(first.terms, "label", "generator_or_source", "licence"),
        licences=_licences(first.terms),
        labels={label: int((first.synthetic == (label == "synthetic")).sum()) for label in ORIGINS},
        empty={name: first.empty[name] for name in known[views[0]].features if first.empty[name]},
        groups=len(np.unique(first.groups)),
        pairs=len(np.unique(first.pairs)),
        rejects=dict(sorted(Counter(rejects["reason"].to_pylist()).items(), key=lambda item: (-item[1], item[0]))),
        files=frozenset(release.listing(folder)),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a view without their pixels, as far as they are counted: numbers of every row, in shard order, and how
    often each combination of names occurs. `groups`, `pairs`: hashes of the names. `empty`: rows without a value, by column."""

    synthetic: NDArray[np.bool_]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    groups: NDArray[np.int64]
    pairs: NDArray[np.int64]
    cells: Counter[tuple[Any, ...]]
    terms: Counter[tuple[Any, ...]]
    empty: Counter[str]

    def sides(self) -> dict[str, tuple[int, float, int]]:
        """By label the smallest, median and largest shorter side."""
        short = np.minimum(self.width, self.height)
        of = {label: short[self.synthetic == (label == "synthetic")] for label in ORIGINS}
        return {label: (int(s.min()), float(np.median(s)), int(s.max())) for label, s in of.items() if len(s)}


def _rows(folder: Path, view: str) -> Rows:
    """Read a batch at a time: the names of a release need not fit into memory."""
    numbers: list[list[NDArray[Any]]] = [[np.zeros(0, dtype)] for dtype in (bool, np.int32, np.int32, np.int64, np.int64)]
    cells: Counter[tuple[Any, ...]] = Counter()
    terms: Counter[tuple[Any, ...]] = Counter()
    empty: Counter[str] = Counter()
    for split, paths in release.shards(folder, view).items():
        for path in paths:
            features = release.features_of(path)
            for batch in _batches(path, [name for name in features if name != "image"]):
                for cell, rows in _cells(batch, features):
                    label, content_type, family, generator, source, licence = cell
                    maker = source or "unknown" if label == "real" else generator
                    cells[content_type, label, family, maker, split] += rows
                    terms[label, maker, licence] += rows
                empty.update({name: batch[name].null_count for name in batch.schema.names if batch[name].null_count})
                for held, values in zip(
                    numbers,
                    (
                        batch["label"].to_numpy(zero_copy_only=False) == features["label"]["names"].index("synthetic"),
                        *(batch[side].to_numpy(zero_copy_only=False).astype(np.int32) for side in ("width", "height")),
                        *(_hashes(batch[name].drop_null()) for name in ("group", "pair_id")),
                    ),
                    strict=True,
                ):
                    held.append(values)
    # What a column was put together from goes before the next one is.
    synthetic, width, height, groups, pairs = (np.concatenate(numbers.pop(0)) for _ in range(5))
    return Rows(synthetic, width, height, groups, pairs, cells, terms, empty)


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(_BATCH, columns=columns, use_threads=False)


def _cells(batch: pa.RecordBatch, features: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], int]]:
    """The combinations of names (`_NAMED`) that occur in some rows, and how often each does."""
    found = pa.Table.from_batches([batch]).group_by(list(_NAMED), use_threads=False).aggregate([([], "count_all")])
    named = [_words(found[name].to_pylist(), features[name]) for name in _NAMED]
    yield from zip(zip(*named, strict=True), found["count_all"].to_pylist(), strict=True)


def _words(values: list[Any], feature: Mapping[str, Any]) -> list[Any]:
    return [feature["names"][value] for value in values] if "names" in feature else values


def _hashes(names: pa.Array) -> NDArray[np.int64]:
    """A number for each name, the same for the same name while this process lives."""
    return np.fromiter(map(hash, names.to_pylist()), dtype=np.int64, count=len(names))


def look(folder: Path, view: str, rows: Rows, seen: Mapping[str, ShardPixels] | None = None) -> Pixels:
    """What the images of one view tell; `rows`: the rest of it, in the same order. `seen`: by path, what the writer of a shard
    counted while it wrote it; every other shard is read."""
    synthetic, width, height = rows.synthetic, rows.width, rows.height
    paths = [path for some in release.shards(folder, view).values() for path in some]
    told = [(seen or {}).get(path.relative_to(folder).as_posix()) or ShardPixels.of(path) for path in paths]
    codecs = sum((one.codecs for one in told), Counter[str]())
    nbytes = np.concatenate([np.zeros(0, dtype=np.uint32), *(np.frombuffer(one.nbytes, dtype=np.uint32) for one in told)])
    quality = np.concatenate([np.zeros(0, dtype=np.float32), *(np.frombuffer(one.quality, dtype=np.float32) for one in told)])
    here = nbytes > 0
    apart = likeness.distances(synthetic, width, height, quality)
    if not here.all():
        # Only what is here has a quality.
        apart |= {"quality": likeness.distances(synthetic[here], width[here], height[here], quality[here])["quality"]}
    return Pixels(
        codecs=dict(sorted(codecs.items())),
        likeness={
            "bytes_per_pixel": likeness.bytes_per_pixel(synthetic, nbytes, np.where(here, width.astype(np.int64) * height, 0)),
            "ks": apart,
            "sampling_error": likeness.sampling_error(int((~synthetic).sum()), int(synthetic.sum())),
        },
    )


def _counts(cells: Mapping[tuple[Any, ...], int], *columns: str) -> tuple[dict[str, Any], ...]:
    """Rows of every combination of values, sorted by them; a null sorts before everything."""
    order = sorted(cells, key=lambda cell: [(value is not None, value or "") for value in cell])
    return tuple(dict(zip(columns, cell, strict=True)) | {"rows": cells[cell]} for cell in order)


def _licences(terms: Mapping[tuple[Any, ...], int]) -> dict[str, dict[str, int]]:
    """Rows of each label by licence."""
    found: dict[str, dict[str, int]] = {name: dict.fromkeys(ORIGINS, 0) for name in sorted({cell[2] for cell in terms})}
    for (label, _, name), n in terms.items():
        found[name][label] += n
    return found
