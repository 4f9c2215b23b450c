"""What is no OpenVINO export is named; that a whole one says what torch says is in tests/baseline/test_export.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaginet_build.cards import MODELS
from imaginet_build.detectors.onnx import Onnx
from imaginet_build.detectors.openvino import OpenVino
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item

pytest.importorskip("openvino")
SHIPPED = MODELS / "detector-small"


def test_what_is_no_export_is_named(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "config.json", tmp_path)
    with pytest.raises(UsageError, match=r"no model\.xml.*baseline export"):
        OpenVino(str(tmp_path))
    (tmp_path / "model.xml").write_text("not a graph")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(BuildError, match="export it again"):
        OpenVino(str(tmp_path))


def test_the_detector_that_ships_answers_alike_on_both(tmp_path: Path) -> None:
    from imaginet_build.baseline.graphs import openvino

    shutil.copy(SHIPPED / "config.json", tmp_path)
    openvino(SHIPPED / "model.onnx", tmp_path / "model.xml")
    random = np.random.default_rng(0)
    sizes = [(200, 150), (96, 96), (40, 300), (20, 20)]
    items = [Item(str(s), b"", Image.fromarray(random.integers(0, 256, (*s, 3), dtype=np.uint8))) for s in sizes]
    ours, theirs = (detector.score(items).p_synthetic for detector in (OpenVino(str(tmp_path)), Onnx(str(SHIPPED))))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
