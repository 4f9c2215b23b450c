from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaginet_build.cards import MODELS
from imaginet_build.detectors.onnx import Onnx
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item

SHIPPED = MODELS / "detector-small"


def item(number: int, width: int, height: int) -> Item:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Item(str(number), b"", Image.fromarray(pixels))


def test_the_shipped_detector_scores_any_size_alike_alone_and_in_company() -> None:
    detector = Onnx(str(SHIPPED))
    items = [item(0, 200, 150), item(1, 96, 96), item(2, 40, 300), item(3, 700, 600), item(4, 20, 20)]
    together = detector.score(items)
    assert together.p_generator is not None
    np.testing.assert_allclose([detector.score([i]).p_synthetic[0] for i in items], together.p_synthetic, atol=1e-6)
    np.testing.assert_allclose(together.p_generator.sum(1), 1, atol=1e-9)
    assert together.generators == detector.names
    assert len(detector.score([]).p_synthetic) == 0


def test_what_is_no_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a checkpoint"):
        Onnx(str(tmp_path))
    shutil.copy(SHIPPED / "config.json", tmp_path)
    with pytest.raises(UsageError, match=r"no model\.onnx.*baseline export"):
        Onnx(str(tmp_path))
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BuildError, match="export it again"):
        Onnx(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"crop": 96}))
    with pytest.raises(UsageError, match="lacks names"):
        Onnx(str(tmp_path))
