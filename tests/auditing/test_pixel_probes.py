"""Cheap looks at the pixels: each sees what it is named for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaginet_build.audit import audit_folders
from imaginet_build.auditing.pixel_probes import PIXEL_PROBES, pixel_facts


def scene(seed: int, side: int = 256) -> Image.Image:
    """Something like a photograph: noise with a falling spectrum."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    planes = []
    for _ in range(3):
        plane = np.fft.ifft2(np.fft.fft2(random.normal(size=(side, side))) / (frequency + 1 / side)).real
        planes.append(128 + 40 * plane / plane.std())
    return Image.fromarray(np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=quality)
    return Image.open(held).convert("RGB")


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 17), (64, 48), (1300, 700)])
def test_every_probe_has_its_numbers_for_any_size(size: tuple[int, int]) -> None:
    found = pixel_facts(Image.new("RGB", size, (10, 200, 30)))
    assert {name: len(numbers) for name, numbers in found.items()} == PIXEL_PROBES
    assert all(np.isfinite(numbers).all() for numbers in found.values())


@pytest.mark.parametrize("shift", [0, 3, 5])
def test_the_grid_probe_finds_the_phase_of_an_earlier_jpeg(shift: int) -> None:
    image = jpeg(scene(1), 40).crop((shift, shift, 200 + shift, 200 + shift))
    numbers = pixel_facts(image)["jpeg_grid"]
    assert int(np.argmax(numbers[:8])) == (8 - shift) % 8
    assert int(np.argmax(numbers[8:16])) == (8 - shift) % 8
    assert numbers[16] > 5 * pixel_facts(scene(1))["jpeg_grid"][16]


def test_an_earlier_pass_leaves_periodic_coefficients() -> None:
    once = pixel_facts(scene(2))["double_compression"][:9]
    again = pixel_facts(jpeg(jpeg(scene(2), 50), 95))["double_compression"][:9]
    assert np.mean(again) > 1.5 * np.mean(once)


def test_blur_shows_in_the_spectrum() -> None:
    from PIL import ImageFilter

    sharp = np.array(pixel_facts(scene(3))["spectrum"])
    soft = np.array(pixel_facts(scene(3).filter(ImageFilter.GaussianBlur(2)))["spectrum"])
    assert soft[-4:].mean() < sharp[-4:].mean() - 1


def test_a_frame_shows_at_the_borders() -> None:
    framed = scene(4)
    framed.paste((0, 0, 0), (0, 0, 256, 4))
    assert pixel_facts(framed)["borders"][0] == 0
    assert pixel_facts(scene(4))["borders"][0] > 5


def test_they_are_reported_beside_the_gate(tmp_path: Path) -> None:
    for name, dark in (("real", False), ("fake", True)):
        (tmp_path / name).mkdir()
        for i in range(24):
            image = scene(100 + i + 50 * dark, 64)
            (image.point(lambda v: v // 2) if dark else image).save(tmp_path / name / f"{i}.png")
    result = audit_folders(tmp_path / "real", tmp_path / "fake", pixels=True, permutations=19)
    rows = {name: result.row("origin", name) for name in PIXEL_PROBES}
    assert all(row is not None and not row.gate for row in rows.values())
    assert (colours := rows["colours"]) is not None
    assert colours.balanced_accuracy > 0.8
    assert not result.refused
    assert result.row("origin", "colours", "uncategorized") is None
    bare = audit_folders(tmp_path / "real", tmp_path / "fake", permutations=19)
    assert bare.gate == result.gate
