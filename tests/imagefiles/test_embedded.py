"""What EXIF and colour profiles say in a few words, and that wild ones break nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, picture
from PIL import Image, ImageCms

from imaginet_build import images
from imaginet_build.imagefiles import embedded
from imaginet_build.records import Record
from imaginet_build.store import Store


def tagged(codec: str = "JPEG", **tags: object) -> bytes:
    exif = Image.Exif()
    for name, value in tags.items():
        exif[{"make": 0x010F, "model": 0x0110, "software": 0x0131, "date": 0x0132}[name]] = value
    return encoded(picture(1, 300, 200), codec, exif=exif)


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP"])
def test_the_camera_and_the_day_are_told(codec: str) -> None:
    facts = images.measure(tagged(codec, make="Canon\0", model="EOS  5D\nII", software="GIMP", date="2012:05:01 10:11:12"))
    assert json.loads(str(facts.exif)) == {"make": "Canon", "model": "EOS 5D II", "software": "GIMP", "date": "2012-05-01"}


def test_when_it_was_taken_comes_before_when_it_was_saved_and_places_are_not_told() -> None:
    exif = Image.Exif()
    exif[0x0132] = "2020:01:02 00:00:00"
    exif.get_ifd(0x8769)[0x9003] = "2011:03:04 05:06:07"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 24.0)
    said = json.loads(str(images.measure(encoded(picture(1, 300, 200), "JPEG", exif=exif)).exif))
    assert said == {"date": "2011-03-04", "gps": True}


def test_no_exif_says_nothing_and_empty_exif_says_so() -> None:
    assert images.measure(encoded(picture(1))).exif is None
    assert images.measure(encoded(picture(1, 300, 200), "JPEG")).exif is None
    assert images.measure(tagged(make="")).exif == "{}"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_wild_exif_is_no_fault_of_the_picture(body: bytes) -> None:
    jpeg = encoded(picture(1, 300, 200), "JPEG")
    body = b"Exif\0\0" + body
    facts = images.measure(jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:])
    assert isinstance(json.loads(str(facts.exif)), dict)


def test_profiles_are_named_and_told_apart() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    facts = images.measure(encoded(picture(1, 300, 200), "JPEG", icc_profile=srgb))
    assert str(facts.icc).startswith("sRGB built-in ")
    assert len(str(facts.icc).split()[-1]) == 8
    assert images.measure(encoded(picture(1, 300, 200), "JPEG")).icc is None
    old = b"\0" * 128 + (1).to_bytes(4, "big") + b"desc" + (144).to_bytes(4, "big") + (30).to_bytes(4, "big")
    old += b"desc" + b"\0" * 4 + (9).to_bytes(4, "big") + b"Adobe RGB\0"
    assert embedded.profile_name(old).startswith("Adobe RGB ")


@given(st.binary(max_size=300))
def test_a_broken_profile_has_its_digest(icc: bytes) -> None:
    assert len(embedded.profile_name(icc).split()[-1]) == 8


def test_parts_without_these_columns_are_still_read(tmp_path: Path) -> None:
    """They were written before there were these two facts."""
    store = Store(tmp_path)
    facts = images.measure(tagged(make="Canon"))
    row = Record(
        id="a", origin="real", category="photos", family=None, generator=None, source="s", source_key="k", licence="CC0-1.0",
        revision="1", prompt=None, negative=None, seed=None, params="{}", pair_id=None, group="g", extension="jpg", facts=facts,
    ).row()  # fmt: skip
    part = store.write_part("collect", "one", [row], [b""])
    assert store.facts()["exif"].to_pylist() == ['{"make":"Canon"}']
    pq.write_table(pq.read_table(part).drop_columns(["exif", "icc"]), part)
    (back,) = store.facts().to_pylist()
    assert (back["exif"], back["icc"], back["sha256"]) == (None, None, facts.sha256)
