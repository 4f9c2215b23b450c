"""Where in an image a detector of crops sees what it sees: its answer for each of many overlapping crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from imaginet_build.detectors.checkpoint import SMALLEST, Calibration, Network

_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Patch:
    """One crop in pixels of the upright image, and its own calibrated P(synthetic)."""

    left: int
    top: int
    side: int
    p_synthetic: float


def patches(run: Network, image: Image.Image, crop: int, most: int, calibration: Calibration) -> list[Patch]:
    """Crops at native resolution, row by row, each overlapping the next by half where `most` a side allow it.

    An image smaller than a crop is looked at in crops of its shorter side; one of less than `SMALLEST` has none.
    """
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    side = min(crop, height, width)
    if side < SMALLEST:
        return []
    places = [(x, y) for y in _starts(height, side, most) for x in _starts(width, side, most)]
    logits = []
    for at in range(0, len(places), _TOGETHER):
        crops = np.stack([pixels[y : y + side, x : x + side] for x, y in places[at : at + _TOGETHER]])
        logits.append(run(np.ascontiguousarray(crops.transpose(0, 3, 1, 2), np.float32))[0])
    found = calibration.probability(np.concatenate(logits).astype(np.float64))
    return [Patch(x, y, side, float(p)) for (x, y), p in zip(places, found, strict=True)]


def _starts(length: int, side: int, most: int) -> list[int]:
    count = min(most, 1 + -(-2 * (length - side) // side))
    if count == 1:
        return [(length - side) // 2]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
