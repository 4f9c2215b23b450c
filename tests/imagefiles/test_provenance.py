"""What a file says of itself is found wherever formats keep it, and nothing in it can break the reader."""

from __future__ import annotations

import datetime
import io
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata import chunk, exif, iptc, segment, with_segments
from pictures import encoded, jpeg, picture, png
from PIL.PngImagePlugin import PngInfo

from imaginet_build.imagefiles.provenance import day_of, read

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Maker 3" photoshop:DateCreated="2019-05-01T10:00:00Z"
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia">
<photoshop:Credit>Made with Google AI</photoshop:Credit>
<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">Steps: 20</rdf:li></rdf:Alt></exif:UserComment>
</rdf:Description></rdf:RDF></x:xmpmeta>"""
RESOURCE = '<a><Iptc4xmpExt:DigitalSourceType rdf:resource="http://cv.iptc.org/x/digitalCapture"/></a>'


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_camera_program_and_day_are_read_from_exif_in_every_format(codec: str) -> None:
    tags = exif(t010F="Canon", t0110="EOS R5", t0131="GIMP 2.10", t9003="2019:05:01 10:20:30", t9004="2019:05:02 00:00:00")
    tags.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    said = read(encoded(picture("exif"), codec, exif=tags), codec.lower())
    assert said.odd == []
    assert [said.first(n) for n in ("make", "model", "software")] == ["Canon", "EOS R5", "GIMP 2.10"]
    if codec != "TIFF":  # Pillow leaves the photo tags out when it writes one
        assert said.first("comment") == "a comment"
        assert said.taken() == datetime.date(2019, 5, 1)


def test_both_byte_orders_of_a_unicode_comment_are_read() -> None:
    for order in ("be", "le"):
        tags = exif()
        tags.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "Steps: 20, größe".encode(f"utf-16-{order}")
        assert read(jpeg("comment", exif=tags), "jpeg").first("comment") == "Steps: 20, größe"


@pytest.mark.parametrize("codec", ["jpeg", "png", "webp"])
def test_xmp_is_read_from_attributes_elements_and_lists(codec: str) -> None:
    if codec == "png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP)
        data = encoded(picture("xmp"), "PNG", pnginfo=info)
    else:
        data = encoded(picture("xmp"), codec.upper(), xmp=XMP.encode())
    said = read(data, codec)
    assert said.first("software") == "Maker 3"
    assert said.first("credit") == "Made with Google AI"
    assert said.first("comment") == "Steps: 20"
    assert (said.first("source-type") or "").endswith("/trainedAlgorithmicMedia")
    assert said.taken() == datetime.date(2019, 5, 1)


def test_xmp_is_read_from_resources_and_from_utf16() -> None:
    for block in (RESOURCE.encode(), RESOURCE.encode("utf-16")):
        data = with_segments(jpeg("xmp"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + block))
        assert (read(data, "jpeg").first("source-type") or "").endswith("/digitalCapture")


def test_iptc_and_comments_are_read() -> None:
    data = with_segments(jpeg("iptc"), segment(0xED, iptc(d65=b"Firefly", d110=b"ACME", d55=b"20110224")), segment(0xFE, b"hi"))
    said = read(data, "jpeg")
    assert (said.first("software"), said.first("credit"), said.first("comment")) == ("Firefly", "ACME", "hi")
    assert said.taken() == datetime.date(2011, 2, 24)


def test_texts_of_a_png_are_read_under_their_keywords_packed_or_not() -> None:
    info = PngInfo()
    info.add_text("parameters", "plain")
    info.add_text("workflow", "packed", zip=True)
    info.add_itxt("prompt", "größe", zip=True)
    said = read(encoded(picture("texts"), "PNG", pnginfo=info), "png")
    found = {name: text for _, name, text in said.said}
    assert found == {"key:parameters": "plain", "key:workflow": "packed", "key:prompt": "größe"}


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2019:05:01 10:00:00", datetime.date(2019, 5, 1)),
        ("2019-05-01T10:00:00+02:00", datetime.date(2019, 5, 1)),
        ("20190501", datetime.date(2019, 5, 1)),
        ("0000:00:00 00:00:00", None),
        ("0001:01:01 00:00:00", None),
        ("2019:13:45", None),
        ("last summer", None),
        ("", None),
    ],
)
def test_days_are_understood_or_left_out(text: str, day: datetime.date | None) -> None:
    assert day_of(text) == day


def test_a_text_that_unpacks_to_gigabytes_costs_a_megabyte() -> None:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(60)) + packer.flush()
    data = png("bomb")
    bomb = chunk(b"zTXt", b"parameters\0\0" + packed)
    start = time.process_time()
    said = read(data[:33] + bomb * 20 + data[33:], "png")
    assert time.process_time() - start < 2
    assert all(len(text) <= 2**20 for _, _, text in said.said)


def test_many_blocks_and_huge_blocks_are_passed_over_and_said() -> None:
    data = png("many")
    many = read(data[:33] + chunk(b"tEXt", b"a\0b") * 3000 + data[33:], "png")
    assert any("more than 1000" in odd for odd in many.odd)
    huge = read(data[:33] + chunk(b"eXIf", bytes(5 * 2**20)) + data[33:], "png")
    assert any("passed over" in odd for odd in huge.odd)


def test_a_megabyte_of_almost_xmp_is_quick() -> None:
    nearly = [b":Credit>" + b" " * 50_000, b":Credit " * 8_000, b":DigitalSourceType='" * 3_000, b":Credit><rdf:Alt " * 3_500]
    for block in nearly:
        start = time.process_time()
        read(with_segments(jpeg("slow"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + block[:65_000])), "jpeg")
        assert time.process_time() - start < 2


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["jpeg", "png", "webp", "gif", "tiff", "bmp"]), st.binary(max_size=400))
def test_no_bytes_break_the_reader(codec: str, data: bytes) -> None:
    assert isinstance(read(data, codec).odd, list)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damage_to_real_metadata_breaks_the_reader(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    codec = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]))
    picture("damage", 16, 16).save(buffer, codec, exif=exif(t010F="Canon", t9003="2019:05:01 10:20:30"))
    whole = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 20))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(read(bytes(whole), codec.lower()).said, list)
