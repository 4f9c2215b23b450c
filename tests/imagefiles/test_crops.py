"""A crop has the pixels of a full decode, whatever the file is; a JPEG with restart markers gives them up for less."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata import exif, segment, with_segments
from pictures import picture
from PIL import Image, ImageCms

from imaginet_build import images
from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import crops, jpegrows

LAYOUTS: dict[str, dict[str, object]] = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "RGB": {"keep_rgb": True},
}


def made(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88, **options)
    return out.getvalue()


def whole(data: bytes) -> np.ndarray:
    return np.asarray(images.decode(data))


@pytest.mark.parametrize("name", [*LAYOUTS, "grey", "CMYK", "PNG", "WEBP"])
@pytest.mark.parametrize("restart", [{}, {"restart_marker_rows": 1}, {"restart_marker_rows": 3}, {"restart_marker_blocks": 5}])
@settings(max_examples=12, deadline=None)
@given(size=st.tuples(st.integers(9, 140), st.integers(9, 140)), data=st.data())
def test_a_crop_is_a_part_of_the_full_decode(
    name: str, restart: dict[str, int], size: tuple[int, int], data: st.DataObject
) -> None:
    image = picture(0, *size)
    if name in ("PNG", "WEBP"):
        out = io.BytesIO()
        image.save(out, name)
        file = out.getvalue()
    elif name in ("grey", "CMYK"):
        file = made(image.convert("L" if name == "grey" else name), **restart)
    else:
        file = made(image, **LAYOUTS[name], **restart)
    left, top = (data.draw(st.integers(0, side - 1)) for side in size)
    width, height = (data.draw(st.integers(1, side - at)) for side, at in zip(size, (left, top), strict=True))
    assert np.array_equal(crops.crop(file, left, top, width, height), whole(file)[top : top + height, left : left + width])


@pytest.mark.parametrize("name", ["4:4:4", "4:2:2", "4:2:0"])
def test_rows_outside_the_crop_are_not_even_looked_at(name: str) -> None:
    file = images.encode(picture(1, 256, 512), "jpeg", 90, name)
    kept = whole(file)
    spoiled = bytearray(file)
    markers = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", file)]
    spoiled[markers[-4] + 2 : markers[-3]] = bytes(markers[-3] - markers[-4] - 2)
    with pytest.raises(BadImage):
        images.decode(bytes(spoiled[: markers[-3]] + spoiled[markers[-1] :]))
    assert np.array_equal(crops.crop(bytes(spoiled), 7, 100, 96, 96), kept[100:196, 7:103])


def test_a_single_component_has_units_of_one_block_whatever_its_factors_say() -> None:
    file = bytearray(made(picture(2, 75, 61).convert("L"), restart_marker_rows=1))
    frame = file.index(b"\xff\xc0")
    file[frame + 11] = 0x22
    found = jpegrows.layout(bytes(file))
    assert found is not None
    assert found.step == 8
    assert np.array_equal(crops.crop(bytes(file), 3, 20, 40, 30), whole(bytes(file))[20:50, 3:43])


def test_orientation_and_profile_are_minded() -> None:
    file = images.encode(picture(3, 96, 160), "jpeg", 90)
    turned = with_segments(file, segment(0xE1, exif(t0112=6).tobytes()))
    assert whole(turned).shape == (96, 160, 3)
    assert np.array_equal(crops.crop(turned, 50, 10, 64, 64), whole(turned)[10:74, 50:114])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    odd = with_segments(file, segment(0xE2, b"ICC_PROFILE\0\x01\x01" + profile))
    assert np.array_equal(crops.crop(odd, 0, 64, 64, 64), whole(odd)[64:128, :64])


def test_a_thumbnail_behind_the_picture_is_not_mistaken_for_its_rows() -> None:
    file = images.encode(picture(4, 64, 64), "jpeg", 90)
    both = file + images.encode(picture(5, 64, 64), "jpeg", 90)
    assert np.array_equal(crops.crop(both, 0, 40, 64, 24), whole(file)[40:])


@pytest.mark.parametrize("place", [(-1, 0, 8, 8), (0, -1, 8, 8), (60, 0, 8, 8), (0, 60, 8, 8), (0, 0, 80, 8)])
@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_a_crop_that_leaves_the_image_is_too_small(place: tuple[int, int, int, int], codec: str) -> None:
    with pytest.raises(BadImage) as caught:
        crops.crop(images.encode(picture(6, 64, 64), codec, 90), *place)
    assert caught.value.reason == "too-small"


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(2, 4000), at=st.integers(0, 4000), noise=st.binary(min_size=1, max_size=6))
def test_hostile_bytes_are_a_bad_image_or_a_crop_of_the_right_size(cut: int, at: int, noise: bytes) -> None:
    file = images.encode(picture(7, 64, 96), "jpeg", 80)
    broken = (file[:at] + noise + file[at + len(noise) :])[: max(cut, at)]
    try:
        pixels = crops.crop(broken, 8, 24, 32, 32)
    except BadImage:
        return
    assert pixels.shape == (32, 32, 3)
