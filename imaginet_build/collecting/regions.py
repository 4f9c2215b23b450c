"""What a small detector sees in a picture: faces, and exposed bodies.

The network is the ONNX file inside the package `nudenet` (320 pixels, 18 classes, AGPL-3.0; the extra `guards`). Its own code
is never imported: it would bring OpenCV, and the network needs nothing but onnxruntime.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imaginet_build.errors import MissingExtra

PACKAGE = "nudenet"
FACE_SCORE = 0.25
"""The score from which a face counts. Of 300 portraits of people 97 % have one, of 400 generated ones all."""

_SIDE = 320
_CLASSES = 18
_FACES = (1, 12)
_EXPOSED = (2, 3, 4, 6, 14)


@dataclass(frozen=True, slots=True)
class Regions:
    """The best score (0-1) of a face and of an exposed body part, and the share of the picture (0-1) that the face fills."""

    face: float
    share: float
    exposed: float


def network() -> Path | None:
    """Where the network lies; None where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    path = Path(next(iter(places))) / "320n.onnx" if places else None
    return path if path is not None and path.is_file() else None


@functools.lru_cache(maxsize=1)
def _session() -> Any:
    path = network()
    if path is None:
        raise MissingExtra("looking for faces and exposed bodies", PACKAGE, "guards")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def look(image: Image.Image) -> Regions:
    """What is in an upright RGB image. The same image gives the same scores on the same machine. Raises `MissingExtra`."""
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = np.zeros((_SIDE, _SIDE, 3), dtype=np.float32)
    canvas[: size[1], : size[0]] = np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    session = _session()
    (found,) = session.run(None, {session.get_inputs()[0].name: canvas.transpose(2, 0, 1)[None]})
    boxes, scores = found[0][:4], found[0][4 : 4 + _CLASSES]
    faces = scores[list(_FACES)].max(axis=0)
    best = int(faces.argmax())
    share = float(boxes[2, best] * boxes[3, best]) / (size[0] * size[1])
    return Regions(round(float(faces[best]), 3), round(min(share, 1.0), 3), round(float(scores[list(_EXPOSED)].max()), 3))
