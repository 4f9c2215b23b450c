from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imaginet_build.detectors.spectral import Spectral, spectrum
from imaginet_build.errors import UsageError
from imaginet_build.records import Item


def test_a_grating_lights_its_own_ring() -> None:
    wave = 128 + 60 * np.sin(2 * np.pi * np.arange(96) / 4)
    grating = Image.fromarray(np.broadcast_to(wave, (96, 96)).astype(np.uint8)).convert("RGB")
    luma = spectrum(grating, 96, 32)[:32]
    assert luma.argmax() in (15, 16), "four pixels a period is a quarter of a cycle a pixel: half way up"


@pytest.mark.parametrize("size", [(96, 96), (50, 200), (300, 130)])
def test_every_size_gives_as_many_numbers(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found = spectrum(Image.fromarray(pixels), 96, 32)
    assert found.shape == (96,)
    assert np.isfinite(found).all()


def test_it_says_that_it_has_to_learn_first() -> None:
    with pytest.raises(UsageError, match="learned nothing"):
        Spectral().score([Item("a", b"", Image.new("RGB", (96, 96)))])
