"""What metadata says in words, read from headers; wild metadata says nothing and breaks nothing."""

from __future__ import annotations

import io

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
