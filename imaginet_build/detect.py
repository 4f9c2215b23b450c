"""`detect`: how likely each image is synthetic, and which generator it looks like.

Without a checkpoint the small detector that ships answers, on onnxruntime alone; it says in every verdict that it is small.
An answer near a coin toss, or about an image smaller than one of the detector's crops, is "cannot tell".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imaginet_build import catalog, images
from imaginet_build.detectors.checkpoint import SMALLEST, Calibration, calibration_of, read_config
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.records import EXTENSIONS, Item, Scores

log = logging.getLogger(__name__)

SHIPPED = "bundled:detector-small"
SHIPPED_NAME = "detector-small (ships with imaginet-build)"
_SUFFIXES = frozenset(f".{name}" for name in EXTENSIONS)
_CHUNK = 32


def detect(paths: Sequence[Path], checkpoint: Path | None = None) -> list[dict[str, Any]]:
    """One answer an image, in the order given; folders are walked for image files, sorted.

    An answer is `{"path", "p_synthetic", "verdict", "generator", "p_generator", "checkpoint", "note"}`: `verdict` is
    `synthetic`, `real` or `cannot tell`, `generator` the likeliest name and `p_generator` its probability given that the
    image is synthetic (both null unless the verdict is `synthetic`). What cannot be read is `{"path", "error"}`.
    `checkpoint`: a folder of `baseline train` or `baseline.export`; None is the one that ships. Raises `UsageError` for a
    path that does not exist, a folder without images, or a folder that is no checkpoint.
    """
    files = [file for path in paths for file in _files(path)]
    folder = catalog.bundled(SHIPPED) if checkpoint is None else checkpoint
    config = read_config(folder, "card", "crop")
    detector = catalog.build(catalog.card("detectors", config["card"]), model=str(folder))
    name = SHIPPED_NAME if checkpoint is None else str(checkpoint)
    said: list[dict[str, Any]] = []
    for start in range(0, len(files), _CHUNK):
        read = [_read(file) for file in files[start : start + _CHUNK]]
        items = [item for item in read if isinstance(item, Item)]
        scores = detector.score(items) if items else Scores(np.empty(0))
        answers = iter(_answers(items, scores, calibration_of(config), int(config["crop"]), name, config.get("note", "")))
        said += [next(answers) if isinstance(item, Item) else item for item in read]
    return said


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not found:
            raise UsageError(f"{path} holds no image files ({', '.join(sorted(s[1:] for s in _SUFFIXES))})")
        yield from found
    elif path.exists():
        yield path
    else:
        raise UsageError(f"{path} does not exist; name image files or folders of them")


def _read(path: Path) -> Item | dict[str, Any]:
    try:
        data = path.read_bytes()
        image = images.decode(data)
        if min(image.size) < SMALLEST:
            raise BadImage("too-small", f"{image.width} x {image.height}; the detector needs {SMALLEST} pixels a side")
    except (BadImage, OSError) as error:
        return {"path": str(path), "error": str(error)}
    return Item(str(path), data, image)


def _answers(
    items: Sequence[Item], scores: Scores, calibration: Calibration, crop: int, checkpoint: str, note: str
) -> Iterator[dict[str, Any]]:
    for k, item in enumerate(items):
        p = float(scores.p_synthetic[k])
        if min(item.image.size) < crop:
            verdict, why = "cannot tell", f"smaller than one crop of {crop} pixels; {note}"
        elif calibration.low < p < calibration.high:
            verdict, why = "cannot tell", note
        else:
            verdict, why = ("synthetic" if p >= calibration.high else "real"), note
        names = scores.p_generator[k] if scores.p_generator is not None and verdict == "synthetic" else None
        yield {
            "path": item.name,
            "p_synthetic": round(p, 4),
            "verdict": verdict,
            "generator": None if names is None else scores.generators[int(names.argmax())],
            "p_generator": None if names is None else round(float(names.max()), 4),
            "checkpoint": checkpoint,
            "note": why,
        }
