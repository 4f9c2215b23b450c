"""The quality of a JPEG is read from its header alone, the quick way as the long way."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import jpegfile


def jpeg(mode: str = "RGB", side: tuple[int, int] = (40, 24), **how: object) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert(mode).resize(side).save(out, "JPEG", **how)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("quality", [1, 30, 75, 90, 100])
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"exif": b"Exif\0\0" + bytes(6000)}])
def test_the_quick_way_gives_what_the_whole_header_gives(mode: str, quality: int, how: dict[str, object]) -> None:
    data = jpeg(mode, quality=quality, **how)
    assert jpegfile.quality(data) == jpegfile.parse(data).quality is not None
    other = jpeg(mode, (64, 64), quality=quality, **how)
    assert jpegfile.quality(other) == jpegfile.parse(other).quality


def test_own_tables_are_told_from_the_usual_ones() -> None:
    steps = [list(range(2, 66)), [9] * 64]
    assert jpegfile.quality(jpeg(qtables=steps)) == jpegfile.parse(jpeg(qtables=steps)).quality != jpegfile.quality(jpeg())


@pytest.mark.parametrize("end", [1, 2, 30, 200])
def test_what_ends_in_its_header_is_refused_alike(end: int) -> None:
    data = jpeg()[:end]
    for read in (jpegfile.parse, jpegfile.quality):
        with pytest.raises(BadImage):
            read(data)
