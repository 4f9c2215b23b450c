from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from imaginet_build import images
from imaginet_build.detectors.nopixel import NoPixel, form
from imaginet_build.errors import UsageError
from imaginet_build.records import Item


def item(number: int, codec: str, quality: int) -> Item:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return Item(str(number), images.encode(image, codec, quality), image)


def test_the_form_does_not_depend_on_the_pixels() -> None:
    one, other = form([item(0, "jpeg", 90), item(1, "jpeg", 90)])
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(form([item(0, "jpeg", 80)])[0], one, equal_nan=True)


def test_it_tells_classes_that_differ_in_quality_and_no_others() -> None:
    items = [item(n, "jpeg", 90 if n % 2 else 75) for n in range(60)]
    labels = np.arange(60) % 2
    told = NoPixel()
    told.fit(items, labels)
    p = told.score(items).p_synthetic
    assert p[labels == 1].min() > p[labels == 0].max()
    blind = NoPixel()
    blind.fit(items[::2], labels[: len(items[::2])])
    assert np.ptp(blind.score(items[::2]).p_synthetic) == pytest.approx(0)


def test_it_says_that_it_has_to_learn_first() -> None:
    with pytest.raises(UsageError, match="learned nothing"):
        NoPixel().score([item(0, "png", 90)])
