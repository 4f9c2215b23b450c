"""Invisible watermarks: read where the package is, and the package never comes in by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imaginet_build.collecting import watermark

CODE = """
import json, sys
import numpy as np
from PIL import Image
from imwatermark import WatermarkEncoder
from imaginet_build import images
from imaginet_build.collecting import watermark
found, false = {}, 0
for place in sys.argv[1:]:
    image = images.decode(open(place, "rb").read())
    if image.width * image.height < 256 * 256:
        continue
    false += watermark.look(image) is not None
    for name, bits in watermark.MARKS.items():
        encoder = WatermarkEncoder()
        encoder.set_watermark("bits", bits)
        marked = encoder.encode(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]), "dwtDct")[:, :, ::-1]
        found.setdefault(name, []).append(watermark.look(Image.fromarray(marked.astype(np.uint8))))
print(json.dumps({"found": found, "false": false}))
"""


def test_the_package_is_in_no_extra_since_it_would_mark_what_sdxl_draws(root: Path) -> None:
    assert "watermark" not in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert "watermark" not in (root / "constraints.txt").read_text(encoding="utf-8")


def test_the_marks_are_the_bits_that_the_programs_write() -> None:
    assert {name: len(bits) for name, bits in watermark.MARKS.items()} == {
        "SDXL": 48, "FLUX.1": 48, "Stable Diffusion 1": 136, "Stable Diffusion 2": 32,
    }  # fmt: skip
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion_xl.watermark")
    assert watermark.MARKS["SDXL"] == pipeline.WATERMARK_BITS


@pytest.mark.prove
def test_what_the_package_writes_is_found_and_photographs_carry_none(shared: Path, tmp_path: Path) -> None:
    """The package goes into a folder of its own, never into this environment."""
    pytest.importorskip("cv2")
    pytest.importorskip("torch")
    there = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(there)]
    if subprocess.run([*install, "invisible-watermark==0.2.0"], capture_output=True, check=False).returncode:
        pytest.skip("invisible-watermark cannot be installed here")
    photographs = sorted((shared / "data" / "real" / "photos" / "imagenet_sample").iterdir())[::18]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, photographs)],
        env=os.environ | {"PYTHONPATH": str(there)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["false"] == 0
    for name, answers in document["found"].items():
        assert set(answers) <= {name, None}
        assert answers.count(name) >= len(answers) // 2 > 2, name
