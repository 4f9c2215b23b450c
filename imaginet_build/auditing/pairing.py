"""`pairing`: do prompts and images belong together? A score of both against the same prompts shuffled.

A public data set was found with its prompt and image columns shifted against each other, and nothing else shows that. A dual
encoder (`dualencoder`) scores every image against its own prompt; for each generator two questions are put to the scores:
do images fit their prompts better than shuffled ones (a permutation test), and does another row's prompt, up to `REACH` rows
away, fit better than the own one (a sign-flip test of the paired differences, times the number of shifts that were tried)?
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from imaginet_build import images
from imaginet_build.auditing.facts import inside
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.records import Refusal, make_id, random_of

LEAST = 10
"""Pairs below which nothing is said of a generator: of so few, shuffled ones are too often the same ones."""

ENOUGH = 50
"""Pairs from which a failure to beat shuffled prompts is held against them."""

MOST = 200
"""Pairs looked at of each generator, drawn by its name: the tests need no more."""

SHUFFLES = 1999
LEVEL = 0.01
REACH = 3

_PROMPTS, _FILES, _MAKERS = (
    ("prompt", "caption", "text"),
    ("path", "file_name", "filename", "file", "image"),
    ("generator", "model"),
)
_INDEXES = ("index.csv", "metadata.csv", "metadata.jsonl")


class Encoder(Protocol):
    """What `dualencoder.DualEncoder` is."""

    identity: str

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d), rows of length 1."""

    def images(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(n, d), rows of length 1."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a data set in the order it is stored in; `load` reads its bytes. `prompt` is None for most real images."""

    name: str
    generator: str
    prompt: str | None
    load: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Pairing:
    """What was found of one generator. `score`, `shuffled`: the mean similarity of images to their own and to shuffled prompts;
    `p`: how often shuffled ones fit as well. `shift`: how many rows further on the prompt stands that fits best (0: its own),
    counted among all rows or the generator's own (`order`); `p_shift`: how often chance alone makes another's fit so much
    better. `verdict`: paired, shifted, unpaired, or undecided (too few pairs to be held against)."""

    generator: str
    pairs: int
    score: float
    shuffled: float
    p: float
    shift: int
    order: str
    p_shift: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """As `pairing --json` prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Paired:
    """Every generator's, and what could not be looked at."""

    target: str
    model: str
    generators: tuple[Pairing, ...]
    skipped: tuple[tuple[str, int], ...]
    unreadable: tuple[tuple[str, str], ...]

    @property
    def refused(self) -> bool:
        """Whether a generator's prompts are not its images'."""
        return any(one.verdict in ("shifted", "unpaired") for one in self.generators)

    def to_json(self) -> dict[str, Any]:
        """As `pairing --json` prints it."""
        return {
            "target": self.target,
            "model": self.model,
            "generators": [one.to_json() for one in self.generators],
            "skipped": [{"generator": name, "pairs": count, "least": LEAST} for name, count in self.skipped],
            "unreadable": [{"path": name, "reason": reason} for name, reason in self.unreadable],
        }


def pairing(target: Path | str, encoder: Encoder) -> Paired:
    """Look at a release, a work folder, or a folder of images with an index (`index.csv`, `metadata.csv`, `metadata.jsonl`).

    Raises `UsageError` where the target is none of these, or no generator has enough images with a prompt.
    """
    rows = read(Path(target))
    own: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.prompt and row.prompt.strip():
            own.setdefault(row.generator, []).append(place)
    if not any(len(places) >= LEAST for places in own.values()):
        most = max(map(len, own.values()), default=0)
        raise UsageError(
            f"{target}: no generator has {LEAST} images with a prompt (at most {most}): there is nothing to compare"
        )
    found, skipped = [], []
    unreadable: list[tuple[str, str]] = []
    for name, places in sorted(own.items()):
        seen = _looked_at(rows, name, places, encoder, unreadable) if len(places) >= LEAST else None
        if seen is None:
            skipped.append((name, len(places)))
        else:
            found.append(judge(name, *seen))
    return Paired(str(target), encoder.identity, tuple(found), tuple(skipped), tuple(unreadable))


Shift = tuple[int, str]
Columns = dict[Shift, NDArray[np.float32]]


def _looked_at(
    rows: Sequence[Row], name: str, places: list[int], encoder: Encoder, unreadable: list[tuple[str, str]]
) -> tuple[NDArray[np.float32], Columns] | None:
    """Vectors of the sampled images, and for each shift those of the prompts that stand there (zero where none does)."""
    order = random_of(name, "pairing").permutation(len(places))[:MOST]
    pictures, chosen = [], []
    for i in sorted(order.tolist()):
        row = rows[places[i]]
        try:
            pictures.append(images.decode(row.load()))
            chosen.append(i)
        except (BadImage, OSError) as error:
            unreadable.append((row.name, str(error)))
    if len(chosen) < LEAST:
        return None
    texts: dict[Shift, list[str | None]] = {(0, "own"): [rows[places[i]].prompt for i in chosen]}
    for step in (s for s in range(-REACH, REACH + 1) if s):
        texts[step, "own"] = [rows[places[(i + step) % len(places)]].prompt for i in chosen]
        if len(places) < len(rows):
            texts[step, "all"] = [rows[(places[i] + step) % len(rows)].prompt for i in chosen]
    every = sorted({text for column in texts.values() for text in column if text})
    vectors = dict(zip(every, encoder.texts(every), strict=True))
    nothing = np.zeros_like(next(iter(vectors.values())))
    return encoder.images(pictures), {
        shift: np.stack([vectors[text] if text else nothing for text in column]) for shift, column in texts.items()
    }


def judge(name: str, pictures: NDArray[np.float32], prompts: Columns) -> Pairing:
    """Both tests for `pictures` (n, d) and, by (shift, order), the prompts at that shift (n, d); (0, "own") are their own."""
    random = random_of(make_id("pairing", name, len(pictures)), "shuffles")
    own = prompts[0, "own"]
    fits = pictures @ own.T
    score = float(np.mean(np.diagonal(fits)))
    places = np.arange(len(pictures))
    chance = np.array([np.mean(fits[places, random.permutation(len(places))]) for _ in range(SHUFFLES)])
    p = float((np.sum(chance >= score) + 1) / (SHUFFLES + 1))
    signs = random.choice([-1.0, 1.0], (SHUFFLES, len(pictures)))
    shifts = [(_better(pictures, own, column, signs), shift) for shift, column in prompts.items() if shift[0]]
    tried = [(gain, p_one, shift) for (gain, p_one), shift in shifts if gain > 0]
    _, p_shift, (shift, order) = max(tried, default=(0.0, 1.0, (0, "own")))
    p_shift = min(1.0, p_shift * len(shifts))
    if p_shift < LEVEL:
        verdict = "shifted"
    elif p < LEVEL:
        verdict = "paired"
    else:
        verdict = "unpaired" if len(pictures) >= ENOUGH else "undecided"
    if verdict != "shifted":
        shift, order = 0, "own"
    return Pairing(name, len(pictures), score, float(np.mean(chance)), p, shift, order, p_shift, verdict)


def _better(
    pictures: NDArray[np.float32], own: NDArray[np.float32], other: NDArray[np.float32], signs: NDArray[np.float64]
) -> tuple[float, float]:
    """How much better other prompts fit than their own, on the mean, and how often chance makes it so."""
    gains = np.where(other.any(axis=1), ((other - own) * pictures).sum(axis=1), 0.0)
    gain = float(np.mean(gains))
    return gain, float((np.sum(signs @ gains / len(gains) >= gain) + 1) / (len(signs) + 1))


# --- reading -----------------------------------------------------------------------------------------------------------


def read(root: Path) -> list[Row]:
    """Every image of a target in the order it is stored in. Raises `UsageError` where it is none that is understood."""
    for folder in (root, root / "release"):
        for view in ("native", "equalized"):
            if shards := sorted((folder / "data" / view).glob("*.parquet")):
                return [row for shard in shards for row in _of_parquet(shard)]
    if parts := sorted((root / "parts").rglob("*.parquet")):
        return [row for part in parts for row in _of_parquet(part)]
    index = root if root.is_file() and root.name in _INDEXES else next((p for n in _INDEXES if (p := root / n).is_file()), None)
    if index is not None:
        return list(_of_index(index))
    raise UsageError(
        f"{root} is no release (data/<view>/*.parquet), no work folder (parts/), and no folder with {', '.join(_INDEXES)}"
    )


def _of_parquet(path: Path) -> Iterator[Row]:
    file = pq.ParquetFile(path)
    columns = set(file.schema_arrow.names)
    prompt = _one_of(_PROMPTS, columns)
    if prompt is None or "image" not in columns:
        raise UsageError(f"{path} has no column of prompts ({', '.join(_PROMPTS)}) beside its images")
    makers = _class_names(file) if "generator" in columns else None
    place = 0
    for group in range(file.num_row_groups):
        wanted = [prompt, *(name for name in ("generator", "id") if name in columns)]
        for number, row in enumerate(file.read_row_group(group, columns=wanted).to_pylist()):
            maker = row.get("generator")
            name = makers[maker] if makers and isinstance(maker, int) else str(maker or "real")
            yield Row(str(row.get("id", f"{path.name}#{place}")), name, row[prompt], _Cell(path, group, number))
            place += 1


@dataclass(frozen=True, slots=True)
class _Cell:
    """One image of a Parquet file."""

    path: Path
    group: int
    row: int

    def __call__(self) -> bytes:
        value = pq.ParquetFile(self.path).read_row_group(self.group, columns=["image"])["image"][self.row].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if not data:
            raise OSError("its pixels are not in this data set")
        return bytes(data)


def _class_names(file: pq.ParquetFile) -> list[str] | None:
    said = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    names: list[str] | None = said.get("info", {}).get("features", {}).get("generator", {}).get("names")
    return names


def _of_index(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: Iterable[dict[str, Any]] = (
            csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file if line.strip())
        )
        for number, row in enumerate(rows, 2):
            name, prompt = _one_of(_FILES, row), _one_of(_PROMPTS, row)
            if name is None or prompt is None:
                columns = f"for the file ({', '.join(_FILES)}) and one for the prompt ({', '.join(_PROMPTS)})"
                raise UsageError(f"{path} needs a column {columns}; it has {', '.join(map(str, row))}")
            place = inside(path.parent, str(row[name]))
            if isinstance(place, Refusal):
                raise UsageError(f"{path}, line {number}: {row[name]}: {place.detail or place.reason}")
            maker = _one_of(_MAKERS, row)
            yield Row(str(row[name]), str((maker and row[maker]) or "all"), row[prompt], place.read_bytes)


def _one_of(names: Iterable[str], there: Iterable[str]) -> str | None:
    return next((name for name in names if name in set(there)), None)


# --- saying ------------------------------------------------------------------------------------------------------------


def text(done: Paired) -> str:
    """What a person reads."""
    lines = [f"{done.target}: prompts against images, by {done.model}"]
    for one in done.generators:
        lines.append(
            f"{one.generator}: {one.verdict} ({one.pairs} pairs; similarity {one.score:.3f}, shuffled {one.shuffled:.3f}, "
            f"p = {one.p:.4f})"
        )
        if one.verdict == "shifted":
            rows = "rows" if abs(one.shift) > 1 else "row"
            where = "of all images" if one.order == "all" else "of this generator's images"
            further = f"{abs(one.shift)} {rows} {'further on' if one.shift > 0 else 'before'}, in the order {where}"
            lines.append(f"  the prompt that fits an image stands {further} (p = {one.p_shift:.4f}): move the column back")
        elif one.verdict == "unpaired":
            lines.append(
                "  its prompts fit no better than shuffled ones: they are not these images', or this model cannot see what "
                "they speak of; try another model before you throw anything away"
            )
        elif one.verdict == "undecided":
            lines.append(f"  too few pairs to be held against it: {ENOUGH} are needed")
    lines += [f"{name}: left out, {count} images with a prompt are too few ({LEAST})" for name, count in done.skipped]
    lines += [f"cannot be read: {name}: {reason}" for name, reason in done.unreadable]
    return "\n".join(lines)
