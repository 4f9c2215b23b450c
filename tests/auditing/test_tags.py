"""What metadata says in words, read from headers; wild metadata says nothing and breaks nothing."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from imaginet_build import images
from imaginet_build.auditing.facts import Looked, measure
from imaginet_build.auditing.tags import tags_of

IMAGE = Image.linear_gradient("L").convert("RGB")


def saved(codec: str, **options: object) -> bytes:
    out = io.BytesIO()
    IMAGE.save(out, codec, **options)
    return out.getvalue()


def exif(**tags: str) -> bytes:
    held = Image.Exif()
    for name, number in (("make", 271), ("model", 272), ("software", 305)):
        if name in tags:
            held[number] = tags[name]
    return held.tobytes()


def tags(data: bytes) -> dict[str, str]:
    return {name: text for name, text in tags_of(data, images.measure(data).metadata).items() if name != "words"}


def words(data: bytes) -> dict[str, str]:
    """Every key of the metadata with its value."""
    lines = tags_of(data, images.measure(data).metadata).get("words", "").splitlines()
    return dict(line.partition("=")[::2] for line in lines)


@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "PNG"])
def test_camera_and_software_from_exif(codec: str) -> None:
    data = saved(codec, exif=exif(make="Canon", model="EOS 5D", software="Adobe Photoshop 21"))
    assert tags(data) == {"camera": "Canon EOS 5D", "software": "Adobe Photoshop 21"}


def test_the_keys_of_text_chunks_and_the_software_among_them() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "masterpiece, best quality")
    info.add_text("Software", "ComfyUI")
    assert tags(saved("PNG", pnginfo=info)) == {"software": "ComfyUI", "text_keys": "Software+parameters"}


def test_profile_comment_and_xmp() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = tags(saved("JPEG", icc_profile=profile, comment=b"CREATOR: gd-jpeg v1.0"))
    assert found["software"] == "CREATOR: gd-jpeg v1.0"
    assert found["icc_profile"].startswith("sRGB")
    assert found["icc_profile"] != tags(saved("JPEG", icc_profile=profile + b"\0"))["icc_profile"]
    xmp = b'<x:xmpmeta><rdf:Description xmp:CreatorTool="Midjourney"/></x:xmpmeta>'
    assert tags(saved("JPEG", xmp=xmp))["software"] == "Midjourney"


def description(codec: str, text: str) -> bytes:
    held = Image.Exif()
    held[270] = text
    held.get_ifd(0x8825)[1] = "N"
    return saved(codec, exif=held.tobytes())


def xmp(body: str) -> bytes:
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:CreatorTool="Adobe Photoshop" {body}</x:xmpmeta>'
    return saved("JPEG", xmp=packet.encode())


@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_every_exif_tag_is_a_word_coordinates_too(codec: str) -> None:
    found = words(description(codec, "made by AI"))
    assert (found["exif ImageDescription"], found["gps GPSLatitudeRef"]) == ("made by AI", "N")


@pytest.mark.parametrize(
    "body",
    [
        'Iptc4xmpExt:DigitalSourceType="trainedAlgorithmicMedia"/>',
        "><Iptc4xmpExt:DigitalSourceType>trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType></rdf:Description>",
        f"a:filler=\"{'x' * 65_000}\" /><b:c Iptc4xmpExt:DigitalSourceType='trainedAlgorithmicMedia'/>",
    ],
    ids=["attribute", "element", "far back"],
)
def test_every_field_of_xmp_is_a_word(body: str) -> None:
    assert words(xmp(body))["xmp Iptc4xmpExt:DigitalSourceType"] == "trainedAlgorithmicMedia"


def test_a_comment_is_heard_behind_other_software() -> None:
    found = words(saved("JPEG", exif=exif(software="Adobe Photoshop"), comment=b"ComfyUI", dpi=(300, 300)))
    assert (found["exif Software"], found["header comment"], found["header dpi"]) == (
        "Adobe Photoshop", "ComfyUI", "(300, 300)",
    )  # fmt: skip


def test_text_chunks_speak_with_their_values() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Description", "stable diffusion")
    assert words(saved("PNG", pnginfo=info)) == {"header Description": "stable diffusion"}


@pytest.mark.parametrize("codec", ["JPEG", "PNG"])
def test_bytes_behind_the_image_are_a_word(codec: str) -> None:
    assert "end" not in words(saved(codec))
    assert words(saved(codec) + b"\0MARK")["end"] == "bytes follow"


def test_a_bare_file_says_nothing() -> None:
    assert tags(saved("PNG")) == {}
    looked = measure(saved("PNG"))
    assert isinstance(looked, Looked)
    assert looked.tags == {}


@pytest.mark.parametrize("tiff", [b"II*\0\xff\xff\xff\xff", bytes(200), b"MM\0*\0\0\0\x08\xff\xff"])
def test_wild_metadata_is_a_trace_of_its_own(tiff: bytes) -> None:
    payload = b"Exif\0\0" + tiff
    plain = saved("JPEG")
    data = plain[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + plain[2:]
    assert "camera" not in tags_of(data, ("exif",))
    assert tags_of(b"\xff\xd8\xff nothing", ("exif", "icc", "xmp", "c2pa")) == {"software": "unreadable metadata"}


def test_what_is_written_is_short_and_printable() -> None:
    found = tags(saved("JPEG", exif=exif(software="a\tb\n" + "x" * 500)))
    assert found["software"].startswith("a b x")
    assert len(found["software"]) == 60


@pytest.mark.parametrize("part", ["a", "a:", "<a:a ", "a.a-", "a:a=", "a:a='", "<a:a>", "<a:a> "])
def test_a_packet_of_a_megabyte_costs_its_own_length(part: str) -> None:
    data = saved("WEBP", xmp=(part * (2**20 // len(part) + 1)).encode())
    start = time.process_time()
    tags_of(data, ("xmp",))
    assert time.process_time() - start < 1


def test_what_stands_behind_a_megabyte_of_xmp_is_a_digest() -> None:
    first, second = (words(saved("WEBP", xmp=b"a:b='1'" + b" " * 2**20 + end)) for end in (b"c:d='2'", b"c:d='3'"))
    assert {key for key in first if key.startswith("xmp")} == {"xmp a:b", "xmp (rest)"}
    assert first["xmp (rest)"] != second["xmp (rest)"]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("camera", [{}, {"exif": exif(make="Canon")}], ids=["plain", "with EXIF"])
def test_text_behind_the_pixels_of_a_png_speaks_as_text_before_them(camera: dict[str, bytes]) -> None:
    data = saved("PNG", **camera)
    end = data.rindex(b"IEND") - 4
    late = data[:end] + chunk(b"tEXt", b"Software\0ComfyUI") + data[end:]
    assert words(late)["header Software"] == "ComfyUI"
    assert tags(late)["text_keys"] == "Software"
    assert tags(late)["software"] == "ComfyUI"
    wrong = data[:end] + chunk(b"zTXt", b"Software\0\0no zlib") + data[end:]
    assert tags_of(wrong, ()).get("camera") == ("Canon" if camera else None)


@pytest.mark.parametrize(("ifd", "place", "kept"), [(0x8825, "gps", "exif Make"), (0x8769, "exif", "gps GPSLatitudeRef")])
def test_an_ifd_that_cannot_be_read_hides_nothing_else(
    ifd: int, place: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow reads round every flaw that we know of; the next one may be of another kind."""
    held = Image.Exif()
    held[271] = "Canon"
    held.get_ifd(0x8825)[1] = "N"
    data = saved("JPEG", exif=held.tobytes(), comment=b"hello", xmp=b"<a:b>c</a:b>")
    read = Image.Exif.get_ifd

    def flawed(exif: Image.Exif, tag: int) -> dict[int, object]:
        if tag == ifd:
            raise struct.error("unpack requires more bytes")
        return read(exif, tag)

    expected = words(data)
    monkeypatch.setattr(Image.Exif, "get_ifd", flawed)
    found = tags_of(data, ("exif", "xmp", "comment"))
    said = dict(line.partition("=")[::2] for line in found["words"].splitlines())
    assert said[f"{place} fault"] == "unreadable metadata"
    assert said[kept] == expected[kept]
    assert (found["camera"], said["header comment"], said["xmp a:b"]) == ("Canon", "hello", "c")


def test_long_values_that_differ_at_their_end_are_two() -> None:
    first, second = (words(saved("JPEG", comment=b"x" * 5000 + end)) for end in (b"a", b"b"))
    assert first["header comment"] != second["header comment"]
    assert first["header comment (start)"] == second["header comment (start)"] == "x" * 60


def test_many_keys_of_one_place_crowd_out_no_other() -> None:
    info = PngImagePlugin.PngInfo()
    for number in range(400):
        info.add_text(f"k{number}", str(number))
    info.add_itxt("XML:com.adobe.xmp", "<a:b>c</a:b>")
    found = words(saved("PNG", pnginfo=info, exif=exif(make="Canon")))
    assert (found["exif Make"], found["xmp a:b"]) == ("Canon", "c")
    assert sum(key.startswith("header") for key in found) == 201
    info.add_text("k999", "one more")
    assert words(saved("PNG", pnginfo=info))["header (more)"] != found["header (more)"]
