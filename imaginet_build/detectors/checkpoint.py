"""A trained detector's folder: config.json beside its weights; and what every detector of crops shares.

config.json: `adapter` (dotted path of the class that runs it), `preset`, `names`, `names_are` (generator or family), `crop`,
`width`, `calibration`, `trained` (where the weights come from), `note` (its limits, in one sentence).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.errors import UsageError
from imaginet_build.records import Item

CONFIG = "config.json"
SMALLEST = 32
"""Pixels: what is smaller on a side cannot be scored at all."""

Floats = npt.NDArray[np.float64]
Network = Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[Any], npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a detector's logit to a probability: sigmoid(`scale` * logit + `bias`), fitted on a calibration split alone.

    A probability in [`low`, `high`] gives no verdict. The two are chosen so that of images like those of the calibration split
    at most the share `error` of either class gets the other's verdict (`baseline.certainty`); `error` is None where no split
    promised anything. `rows` and `groups`: what it was fitted on, the groups of the smaller class.
    """

    scale: float = 1.0
    bias: float = 0.0
    low: float = 0.0
    high: float = 1.0
    rows: int = 0
    error: float | None = None
    groups: int = 0

    def probability(self, logits: Floats) -> Floats:
        """(n,) in [0, 1]."""
        return 1 / (1 + np.exp(-np.clip(self.scale * logits + self.bias, -60, 60)))

    def verdict(self, p: float) -> str:
        """`synthetic`, `real` or `cannot tell`."""
        return "synthetic" if p > self.high else "real" if p < self.low else "cannot tell"

    def as_json(self) -> dict[str, float | int | None]:
        """The same, for config.json."""
        return asdict(self)


def read_config(folder: Path, *keys: str) -> dict[str, Any]:
    """config.json of a checkpoint. Raises `UsageError` where there is none, or it lacks one of `keys`."""
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a checkpoint (no {CONFIG}); train one: build-imaginet baseline train") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); train again: build-imaginet baseline train") from None
    if not isinstance(found, dict) or (absent := [k for k in keys if k not in found]):
        raise UsageError(f"{path} lacks {', '.join(absent) if isinstance(found, dict) else 'everything'}; train again")
    return found


def calibration_of(config: Mapping[str, Any]) -> Calibration:
    """The calibration in a config; the identity where it has none."""
    return Calibration(**config.get("calibration") or {})


class Checkpoint:
    """What every detector knows of the folder `model` it was read from. `grid`: at most so many crops a side."""

    def __init__(self, model: str, config: Mapping[str, Any], grid: int) -> None:
        self.checkpoint, self.config = model, config
        self.names: tuple[str, ...] = tuple(config["names"])
        self.names_are: str = config.get("names_are", "generator")
        self.crop = int(config["crop"])
        self.calibration = calibration_of(config)
        self._grid = grid


def grid(image: Image.Image, crop: int, most: int) -> npt.NDArray[np.float32]:
    """Crops at native resolution on an even grid over the whole image: (k, 3, side, side) float32 in [0, 255].

    k is the number of crops that covers the image, at most `most` by `most`; they overlap where the sides do not divide. The
    crops of an image smaller than `crop` are as large as its shorter side. Nothing is padded or resized.
    """
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    side = min(crop, height, width)
    starts = [_starts(length, side, most) for length in (height, width)]
    crops = [pixels[y : y + side, x : x + side] for y in starts[0] for x in starts[1]]
    return np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32)


def _starts(length: int, side: int, most: int) -> list[int]:
    count = min(most, -(-length // side))
    if count == 1:
        return [(length - side) // 2]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def score(run: Network, items: Iterable[Item], crop: int, most: int, names: int) -> tuple[Floats, Floats]:
    """Every item's mean origin logit over its crops (n,), and its mean probability of each name (n, `names`).

    `run`: crops (k, 3, side, side) float32 -> origin logits (k,) and name logits (k, names). Crops of one size are run
    together, about 36 at a time. An image of less than `SMALLEST` pixels a side cannot be judged: logit 0, every name alike.
    """
    origins, named = [], []
    for crops, counts in _batches((grid(item.image, crop, most) for item in items), 36):
        if crops.shape[2] < SMALLEST:
            origins.append(np.zeros(len(counts)))
            named.append(np.full((len(counts), names), 1 / max(names, 1)))
            continue
        one, several = _pooled(*run(crops), counts)
        origins.append(one)
        named.append(several)
    if not origins:
        return np.empty(0), np.empty((0, names))
    return np.concatenate(origins), np.concatenate(named)


def _batches(images: Iterator[npt.NDArray[np.float32]], rows: int) -> Iterator[tuple[npt.NDArray[np.float32], list[int]]]:
    """Crops of several images joined up to about `rows` of one size, with how many belong to each image, in order."""
    held: list[npt.NDArray[np.float32]] = []
    for crops in images:
        if held and (crops.shape[1:] != held[0].shape[1:] or sum(map(len, held)) + len(crops) > rows):
            yield np.concatenate(held), [len(h) for h in held]
            held = []
        held.append(crops)
    if held:
        yield np.concatenate(held), [len(h) for h in held]


def _pooled(origin: npt.NDArray[Any], named: npt.NDArray[Any], counts: list[int]) -> tuple[Floats, Floats]:
    """Crop answers as image answers: the mean origin logit (images,), and the mean probability of each name (images, names)."""
    origin, named = origin.astype(np.float64), named.astype(np.float64)
    p = np.exp(named - named.max(1, keepdims=True, initial=-np.inf))
    p /= p.sum(1, keepdims=True)
    edges = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    weight = np.asarray(counts, np.float64)
    return np.add.reduceat(origin, edges) / weight, np.add.reduceat(p, edges) / weight[:, None]
