"""Where a detector sees what it sees."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imaginet_build.cards import MODELS
from imaginet_build.detectors.checkpoint import Calibration
from imaginet_build.detectors.onnx import Onnx
from imaginet_build.detectors.patches import patches


def brightness(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return crops.mean((1, 2, 3)) - 127.5, np.zeros((len(crops), 1))


def test_the_patch_that_differs_is_the_one_that_stands_out() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[200:, 300:] = 255
    found = patches(brightness, Image.fromarray(pixels), 100, 8, Calibration())
    assert max(found, key=lambda p: p.p_synthetic) == found[-1]
    assert (found[-1].left, found[-1].top, found[-1].side) == (300, 200, 100)
    assert {(p.left, p.top) for p in found} == {(x, y) for x in range(0, 301, 50) for y in range(0, 201, 50)}


@pytest.mark.parametrize(("size", "count"), [((1000, 1000), 9), ((40, 90), 3), ((32, 32), 1), ((31, 500), 0)])
def test_any_size_is_covered_to_its_edges_by_no_more_than_asked(size: tuple[int, int], count: int) -> None:
    found = patches(brightness, Image.new("RGB", size), 64, 3, Calibration())
    assert len(found) == count
    assert all(p.left + p.side <= size[0] and p.top + p.side <= size[1] for p in found)
    if count > 1:
        assert max(p.left + p.side for p in found) == size[0]


def test_a_patch_is_judged_as_an_image_of_its_own() -> None:
    detector = Onnx(str(MODELS / "detector-small"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    (patch,) = detector.patches(image, 4)
    from imaginet_build.records import Item

    assert patch.p_synthetic == pytest.approx(detector.score([Item("x", b"", image)]).p_synthetic[0], abs=1e-6)
