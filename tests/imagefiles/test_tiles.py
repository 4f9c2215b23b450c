"""Tiles hold every pixel, and a crop is the same wherever their borders lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import tiles


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 150), st.integers(1, 150)), side=st.sampled_from([16, 33, 128]), data=st.data())
def test_a_crop_has_the_pixels_of_the_picture(size: tuple[int, int], side: int, data: st.DataObject) -> None:
    pixels = np.asarray(picture(0, *size))
    left, top = (data.draw(st.integers(0, whole - 1)) for whole in size)
    width, height = (data.draw(st.integers(1, whole - at)) for whole, at in zip(size, (left, top), strict=True))
    made = tiles.cut(pixels, side)
    assert np.array_equal(tiles.crop(made, left, top, width, height), pixels[top : top + height, left : left + width])


@pytest.mark.parametrize("place", [(-1, 0, 8, 8), (0, -1, 8, 8), (60, 0, 8, 8), (0, 60, 8, 8), (0, 0, 0, 8)])
def test_a_crop_that_leaves_the_picture_is_too_small(place: tuple[int, int, int, int]) -> None:
    with pytest.raises(BadImage) as caught:
        tiles.crop(tiles.cut(np.asarray(picture(0, 64, 64))), *place)
    assert caught.value.reason == "too-small"


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 3000), noise=st.binary(min_size=1, max_size=8), cut=st.integers(0, 4000))
def test_hostile_bytes_are_a_bad_image_or_a_crop_of_the_right_size(at: int, noise: bytes, cut: int) -> None:
    made = tiles.cut(np.asarray(picture(0, 40, 40)), 16)
    broken = (made[:at] + noise + made[at + len(noise) :])[: max(cut, at)]
    try:
        pixels = tiles.crop(broken, 4, 4, 30, 30)
    except BadImage:
        return
    assert pixels.shape == (30, 30, 3)
