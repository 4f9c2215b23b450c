"""The natural photographs the shipped models learn from, and the random crops taken from them.

From the installed packages scikit-image and scikit-learn, and, where it lies beside the repository, from a folder with an
`index.csv` (columns path, origin, licence): rows of origin `real` whose licence begins with MIT, BSD, Apache or CC0.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)

_SKIMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png"),
    *("retina.jpg", "rocket.jpg"),
)
_SKLEARN = ("china.jpg", "flower.jpg")
HELD_OUT = ("chelsea.png", "china.jpg")
"""Never trained on: every figure of the shipped models is measured on these."""
_FREE = ("MIT", "BSD", "Apache", "CC0")
_LONGEST = 1400


@dataclass(frozen=True, slots=True)
class Photograph:
    """`pixels`: (height, width, 3) uint8. `name`: where it comes from; `licence`: as its source states it."""

    name: str
    licence: str
    pixels: np.ndarray


def load(shared: Path | None) -> tuple[list[Photograph], list[Photograph]]:
    """(to train on, held out), in a fixed order, each picture once; `shared` may be absent."""
    import skimage
    import sklearn

    places = [(Path(skimage.__file__).parent / "data" / n, f"scikit-image: {n}", "BSD-3-Clause") for n in _SKIMAGE]
    places += [
        (Path(sklearn.__file__).parent / "datasets" / "images" / n, f"scikit-learn: {n}", "BSD-3-Clause") for n in _SKLEARN
    ]
    if shared and (shared / "index.csv").is_file():
        with (shared / "index.csv").open(newline="", encoding="utf-8") as f:
            rows = sorted(csv.DictReader(f), key=lambda r: r["path"])
        free = [r for r in rows if r["origin"] == "real" and r["licence"].startswith(_FREE)]
        places += [(shared / r["path"], f"{r['upstream']}: {r['upstream_path']}", r["licence"]) for r in free]
    train: list[Photograph] = []
    held: list[Photograph] = []
    seen = set()
    for path, name, licence in places:
        with Image.open(path) as image:
            upright = image.convert("RGB") if image.mode != "I;16" else image.point(lambda v: v / 256).convert("RGB")
        key = hashlib.sha256(upright.tobytes()).hexdigest()
        if key in seen:
            continue
        seen.add(key)
        if max(upright.size) > _LONGEST:
            upright.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
        photograph = Photograph(name, licence, np.asarray(upright))
        (held if path.name in HELD_OUT else train).append(photograph)
    # The corpus names files by digest, so a held-out picture that is re-encoded there would slip through by name alone.
    train = [p for p in train if not any(p.name.endswith(h) for h in HELD_OUT)]
    log.info("%d photographs to train on, %d held out", len(train), len(held))
    return train, held


def crops(photographs: Sequence[Photograph], n: int, size: int, scale: tuple[float, float], seed: int) -> np.ndarray:
    """`n` random crops, (n, size, size, 3) uint8, half of them mirrored.

    `scale`: how much of a photograph's shorter side a crop spans, as a range of fractions, drawn log-uniformly; never less than
    `size` pixels, so that nothing is enlarged (a photograph smaller than `size` is taken whole).
    """
    rng = np.random.default_rng(seed)
    out = np.empty((n, size, size, 3), np.uint8)
    for i in range(n):
        picture = photographs[i % len(photographs)].pixels
        height, width = picture.shape[:2]
        shorter = min(height, width)
        span = int(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))) * shorter)
        span = min(max(span, size), shorter)
        top, left = rng.integers(height - span + 1), rng.integers(width - span + 1)
        cut = Image.fromarray(picture[top : top + span, left : left + span])
        # Box-filtered reduction: what a camera's own down-sampling would do, without ringing for the models to learn.
        cut = cut if span == size else cut.resize((size, size), Image.Resampling.BOX)
        pixels = np.asarray(cut)
        out[i] = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return out
