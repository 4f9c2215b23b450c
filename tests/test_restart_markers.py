"""JPEGs that we encode can be decoded a few rows at a time, and nothing else about them is different."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture
from PIL import Image

from imaginet_build import images
from imaginet_build.imagefiles import crops, jpegfile, jpegrows
from imaginet_build.records import View

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def interval_rows(data: bytes) -> int:
    """Pixel rows of one restart interval; 0 where the file has none."""
    found = jpegrows.layout(data)
    return found.step if found else 0


def without(data: bytes) -> bytes:
    """The same pixels as our encoder's, encoded without markers."""
    header = jpegfile.parse(data)
    out = io.BytesIO()
    quality = header.quality
    assert quality is not None
    picture(0, header.width, header.height).save(out, "JPEG", quality=quality, subsampling=header.subsampling)
    return out.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(16, 200), st.integers(16, 200)),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    quality=st.sampled_from([60, 85, 98]),
    data=st.data(),
)
def test_a_crop_decodes_from_its_own_rows_to_the_pixels_of_the_whole(
    size: tuple[int, int], subsampling: str, quality: int, data: st.DataObject
) -> None:
    made = images.encode(picture(0, *size), "jpeg", quality, subsampling)
    left, top = (data.draw(st.integers(0, side - 8)) for side in size)
    width, height = (data.draw(st.integers(8, side - at)) for side, at in zip(size, (left, top), strict=True))
    whole = np.asarray(images.decode(made))
    assert np.array_equal(crops.crop(made, left, top, width, height), whole[top : top + height, left : left + width])


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_every_row_of_blocks_is_an_interval_and_a_crop_reads_little(subsampling: str) -> None:
    made = images.encode(picture(0, 512, 512), "jpeg", 90, subsampling)
    step = 16 if subsampling == "4:2:0" else 8
    assert interval_rows(made) == step
    assert len(re.findall(rb"\xff[\xd0-\xd7]", made[made.index(b"\xff\xda") :])) == 512 // step - 1
    found = jpegrows.layout(made)
    assert found is not None
    part, begin = jpegrows.strip(made, found, 200, 264)
    assert begin >= 200 - 2 * step
    assert len(part) < 0.3 * len(made)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_pixels_facts_and_hashes_are_those_of_a_file_without_markers(subsampling: str) -> None:
    for size in ((120, 100), (513, 387)):
        made = images.encode(picture(0, *size), "jpeg", 88, subsampling)
        plain = without(made)
        assert interval_rows(plain) == 0
        assert np.array_equal(np.asarray(images.decode(made)), np.asarray(images.decode(plain)))
        ours, theirs = images.measure(made), images.measure(plain)
        told = ("codec", "width", "height", "mode", "quality", "qtables", "subsampling", "progressive", "metadata")
        for name in (*told, "pixel_hash", "phash", "phash_mirror", "dhash", "contrast"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert np.array_equal(images.confirm_hash(made), images.confirm_hash(plain))
        assert ours.nbytes < 1.02 * theirs.nbytes


def test_both_classes_get_them_alike() -> None:
    """Born as JPEG, or never one and so with a first pass: the file that leaves has a marker a row."""
    view = View(left=3, top=5, width=80, height=80, codec="jpeg", quality=85, subsampling="4:2:0")
    first = View(3, 5, 80, 80, "jpeg", 85, "4:2:0", first_quality=92, first_subsampling="4:2:0")
    born = io.BytesIO()
    picture(1).save(born, "JPEG", quality=93)
    drawn = io.BytesIO()
    picture(2).save(drawn, "PNG")
    for data, law in ((born.getvalue(), view), (drawn.getvalue(), first)):
        assert interval_rows(images.render(data, law)) == 16


def test_damage_between_markers_is_still_seen() -> None:
    """A restart lets a lenient decoder go on after a fault; ours does not."""
    made = bytearray(images.encode(picture(0, 256, 256), "jpeg", 90, "4:2:0"))
    middle = len(made) // 2
    for fault in (made[:middle], made[:middle] + made[middle + 40 :], made[:middle] + bytes(2048) + made[middle + 2048 :]):
        with pytest.raises(images.BadImage):
            images.decode(bytes(fault))


def test_any_reader_reads_them() -> None:
    made = images.encode(picture(0, 130, 90), "jpeg", 90, "4:2:0")
    with Image.open(io.BytesIO(made)) as image:
        assert image.size == (130, 90)
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(images.decode(made)))
