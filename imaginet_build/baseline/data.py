"""What the baseline learns from and is judged on: a split of a release or a pair of folders, and the crops drawn from it.

Which image is drawn when, where it is cut and what is done to the crop depend on the seed, the row's id and how often the row
was drawn before: never on workers, on the order of shards, or on where a killed run was taken up again.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from imaginet_build import images
from imaginet_build.baseline import pixels
from imaginet_build.baseline.augment import Augmentation, Pixels, augment
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import EXTENSIONS, ORIGINS, make_id, random_of
from imaginet_build.releases import release

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
T = TypeVar("T")
DECODED_BUDGET = 2 << 30
"""Bytes: decoded pixels are kept in memory where the whole split takes no more."""
_SUFFIXES = frozenset(f".{name}" for name in EXTENSIONS)


@dataclass(frozen=True)
class Rows:
    """Some images with their labels, sorted by id. `label`: 1 is synthetic. `generator` and `family` say `real` for real ones.

    `read` gives the bytes of row i. `size` is (n, 2) width and height, 0 where only the file knows. `places`: file, row group
    and row in that, where the images lie in Parquet. `source`: where each came from, empty where nobody says.
    """

    title: str
    ids: tuple[str, ...]
    label: Ints
    content_type: tuple[str, ...]
    family: tuple[str, ...]
    generator: tuple[str, ...]
    group: tuple[str, ...]
    size: Ints
    read: Callable[[int], bytes]
    places: tuple[tuple[Path, int, int], ...] = ()
    source: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> Image.Image:
        """The image upright in RGB. Raises `BadImage`."""
        return images.decode(self.read(row))

    def cells(self) -> list[str]:
        """`content_type/origin` of every row."""
        return [f"{c}/{ORIGINS[y]}" for c, y in zip(self.content_type, self.label, strict=True)]

    def named(self, kind: str) -> tuple[str, ...]:
        """The rows' `generator` or `family`."""
        return self.generator if kind == "generator" else self.family

    def some(self, at: Sequence[int]) -> Rows:
        """The rows at these places, in that order."""

        def of(values: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(values[i] for i in at) if values else ()

        chosen = np.asarray(at, np.int64)
        return replace(
            self, ids=of(self.ids), label=self.label[chosen], content_type=of(self.content_type), family=of(self.family),
            generator=of(self.generator), group=of(self.group), size=self.size[chosen], source=of(self.source),
            places=of(self.places), read=functools.partial(_through, self.read, list(at)),
        )  # fmt: skip

    def without(self, generator: str) -> Rows:
        """All but the images of one generator."""
        return self.some([i for i, name in enumerate(self.generator) if name != generator])


def _through(read: Callable[[int], bytes], at: Sequence[int], row: int) -> bytes:
    return read(at[row])


def splits(folder: Path, view: str = "equalized") -> dict[str, Rows]:
    """The splits of a release that have rows. Raises `UsageError` where the folder holds no release."""
    found = release.shards(folder, view)
    if not found:
        raise UsageError(f"{folder} holds no data/{view}/*.parquet; make a release first: build-imaginet publish")
    table = release.rows(folder, view)
    wanted = ["id", "label", "content_type", "family", "generator", "group", "source", "width", "height", "split", "fetch"]
    table = table.select([name for name in wanted if name in table.column_names])
    columns = {name: np.asarray(table[name].to_pylist(), dtype=object) for name in table.column_names}
    result, start, without = {}, 0, 0
    for split, paths in found.items():
        places = places_of(paths)
        part = {name: values[start : start + len(places)] for name, values in columns.items()}
        start += len(places)
        order = np.argsort(part["id"].astype(str), kind="stable")
        if "fetch" in part:
            order, classes = order[part["fetch"][order] == None], set(part["label"])  # noqa: E711 - of an array
            without += len(places) - len(order)
            if set(part["label"][order]) != classes:
                raise UsageError(
                    f"the split '{split}' of {folder} holds pixels of one class alone: others may not be passed on. Restore "
                    f"them, then use that: build-imaginet rebuild {folder}"
                )
        part = {name: values[order] for name, values in part.items()}
        result[split] = Rows(
            title=f"{folder.name}:{split}",
            ids=tuple(part["id"]),
            label=np.array([ORIGINS.index(o) for o in part["label"]], np.int64),
            content_type=tuple(part["content_type"]),
            family=tuple(part["family"]),
            generator=tuple(part["generator"]),
            group=tuple(g or i for g, i in zip(part["group"], part["id"], strict=True)),
            size=np.stack([part["width"], part["height"]], 1).astype(np.int64),
            read=functools.partial(from_parquet, [places[i] for i in order]),
            places=tuple(places[i] for i in order),
            source=tuple(s or "unknown" for s in part["source"]),
        )
    if without:
        log.warning(
            "%d rows of %s hold no pixels, since they may not be passed on: they are left out, and the classes are no longer "
            "equal. To have them: build-imaginet rebuild %s", without, folder, folder,
        )  # fmt: skip
    return result


def places_of(paths: Sequence[Path]) -> list[tuple[Path, int, int]]:
    """Where every row of some shards lies: file, row group, row in that."""
    return [(p, g, i) for p in paths for g, n in enumerate(_row_groups(p)) for i in range(n)]


def _row_groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]


def from_parquet(places: Sequence[tuple[Path, int, int]], row: int) -> bytes:
    """The image bytes of row `row` of `places`. Raises `BuildError` where it carries none."""
    path, group, index = places[row]
    data = _image_column(path, group)[index]
    if not data:
        raise BuildError(f"{path} row {index} carries no pixels; rebuild the release: build-imaginet rebuild {path.parents[2]}")
    return data


@functools.lru_cache(maxsize=8)
def _image_column(path: Path, group: int) -> list[bytes | None]:
    with pq.ParquetFile(path, memory_map=True) as file:
        column = file.read_row_group(group, columns=["image.bytes"])["image"]
    return [cell and cell["bytes"] for cell in column.to_pylist()]


def folders(real: Path, fake: Path) -> Rows:
    """Two plain folders as a test: the folder directly below `fake` names the generator and its family, one group a file."""
    found = [(p, real, 0) for p in _images(real)] + [(p, fake, 1) for p in _images(fake)]
    if not found or len({y for _, _, y in found}) < 2:
        raise UsageError(f"both {real} and {fake} must hold images ({', '.join(sorted(s[1:] for s in _SUFFIXES))})")
    named = sorted((make_id("baseline/folders", ORIGINS[y], p.relative_to(top).as_posix()), p, top, y) for p, top, y in found)
    generators = tuple(_below(p, top) if y else "real" for _, p, top, y in named)
    paths = [p for _, p, _, _ in named]
    return Rows(
        title=f"{real.name} against {fake.name}",
        ids=tuple(n[0] for n in named),
        label=np.array([n[3] for n in named], np.int64),
        content_type=("all",) * len(named),
        family=generators,
        generator=generators,
        group=tuple(n[0] for n in named),
        size=np.zeros((len(named), 2), np.int64),
        read=lambda row: paths[row].read_bytes(),
    )


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _below(path: Path, top: Path) -> str:
    parts = path.relative_to(top).parts
    return parts[0] if len(parts) > 1 else top.name


class Draws:
    """Which rows make up each training step.

    Every cell (content type x origin) is an endless stream of shuffled passes over its rows; an epoch takes from each its
    share, n ** `evenness` over the sum: 0 makes all cells alike, 1 takes them as they are. Both origins of a content type get
    alike.
    """

    def __init__(self, rows: Rows, keep: Sequence[int], seed: int, batch: int, evenness: float) -> None:
        members: dict[str, list[int]] = {}
        cells = rows.cells()
        for row in keep:
            members.setdefault(cells[row], []).append(row)
        self._members = {name: np.array(members[name], np.int64) for name in sorted(members)}
        kinds: dict[str, list[int]] = {}
        for name, found in self._members.items():
            kinds.setdefault(name.rpartition("/")[0], []).append(len(found))
        weight = {n: float(np.mean(kinds[n.rpartition("/")[0]])) ** evenness for n in self._members}
        total = sum(weight.values())
        self._take = {n: max(1, round(len(keep) * w / total)) for n, w in weight.items()}
        self._seed, self.batch = seed, min(batch, sum(self._take.values()))
        self.steps_per_epoch = sum(self._take.values()) // self.batch

    def step(self, step: int) -> list[tuple[int, int]]:
        """(row, how often it was drawn before) of every crop of one step. The same answer whenever it is asked."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place * self.batch : (place + 1) * self.batch]

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a run has one of these
    def _epoch(self, epoch: int) -> list[tuple[int, int]]:
        drawn: list[tuple[int, int]] = []
        for name, members in self._members.items():
            take = self._take[name]
            for at in range(epoch * take, (epoch + 1) * take):
                turn, place = divmod(at, len(members))
                drawn.append((int(members[self._order(name, turn)[place]]), turn))
        order = random_of(f"epoch {epoch}", f"baseline/{self._seed}/order").permutation(len(drawn))
        return [drawn[i] for i in order]

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def _order(self, name: str, turn: int) -> Ints:
        return random_of(f"{name} {turn}", f"baseline/{self._seed}/order").permutation(len(self._members[name]))


class Crops:
    """Training crops: (n, 3, crop, crop) float32 in [0, 255], cut at native resolution, never padded or resized.

    `skipped` names the rows that cannot be used (smaller than a crop, or broken) with the reason. What is too much to be kept
    decoded in memory (`budget`, bytes) is cut out of the files, by an index in the folder `index` where they lie in Parquet.
    """

    def __init__(
        self,
        rows: Rows,
        crop: int,
        seed: int,
        augmentation: Augmentation,
        index: Path | None = None,
        budget: int = DECODED_BUDGET,
    ) -> None:
        self.rows, self.crop = rows, crop
        self._seed, self._kind = seed, augmentation
        small = [i for i in range(len(rows)) if 0 < rows.size[i].min() < crop]
        self.skipped: dict[str, str] = {rows.ids[i]: "too-small" for i in small}
        self.usable = [i for i in range(len(rows)) if rows.ids[i] not in self.skipped]
        known = int(rows.size.prod(axis=1).sum()) * 3
        self._cached: dict[int, Pixels] | None = {} if known <= budget else None
        self._index = pixels.index(rows.places, index) if self._cached is None and index and rows.places else None
        if self.skipped:
            log.warning("%d of %d images of %s are smaller than a %d-pixel crop", len(small), len(rows), rows.title, crop)

    def batch(self, drawn: Sequence[tuple[int, int]]) -> npt.NDArray[np.float32]:
        """The crops of one step."""
        return np.stack([self.one(row, turn) for row, turn in drawn]).transpose(0, 3, 1, 2).astype(np.float32)

    def one(self, row: int, turn: int) -> Pixels:
        """(crop, crop, 3): row's crop of its `turn`-th drawing."""
        random = random_of(self.rows.ids[row], f"baseline/{self._seed}/crop/{turn}")
        if self._index is not None:
            width, height = (int(n) for n in self.rows.size[row])
            left, top = self._corner(row, width, height, random)
            return augment(self._index.crop(row, left, top, self.crop), self._kind, random)
        whole = self._whole(row)
        left, top = self._corner(row, whole.shape[1], whole.shape[0], random)
        return augment(whole[top : top + self.crop, left : left + self.crop], self._kind, random)

    def _corner(self, row: int, width: int, height: int, random: np.random.Generator) -> tuple[int, int]:
        if min(height, width) < self.crop:
            raise BuildError(
                f"{self.rows.ids[row]} is {width} x {height}, smaller than a crop of {self.crop}; publish it again"
            )
        top = int(random.integers(height - self.crop + 1))
        return int(random.integers(width - self.crop + 1)), top

    def _whole(self, row: int) -> Pixels:
        if self._cached is None:
            return np.asarray(self.rows.image(row))
        if row not in self._cached:
            self._cached[row] = np.asarray(self.rows.image(row))
        return self._cached[row]
