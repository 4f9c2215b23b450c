"""Is it real? Every mark that generators leave is found, and what cameras and people write is left alone."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path

import pytest
from metadata import exif, iptc, segment, with_segments
from pictures import encoded, jpeg, picture
from PIL.PngImagePlugin import PngInfo

from imaginet_build import containers, guards, provenance
from imaginet_build.guards import Dates, dates_of, judge
from imaginet_build.provenance import Provenance
from imaginet_build.rules import GUARD, Guard, merged

NONE = Dates()
A1111 = "a red barn\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: dreamshaper"
COMFY = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1}}})


def said(data: bytes) -> Provenance:
    return provenance.read(data, containers.sniff(data))


def with_text(key: str, text: str) -> bytes:
    info = PngInfo()
    info.add_itxt(key, text)
    return encoded(picture(key), "PNG", pnginfo=info)


def with_exif(tag: int, value: object) -> bytes:
    return jpeg("exif", exif=exif(**{f"t{tag:04X}": value}))


def with_xmp(attribute: str) -> bytes:
    return with_segments(jpeg("xmp"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + f"<a {attribute}/>".encode()))


SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE = {
    "AUTOMATIC1111": (with_text("parameters", A1111), "ai-text"),
    "AUTOMATIC1111 as JPEG": (with_exif(0x9286, b"UNICODE\0" + A1111.encode("utf-16-be")), "ai-text"),
    "ComfyUI prompt": (with_text("prompt", COMFY), "ai-text"),
    "ComfyUI workflow": (with_text("workflow", '{"nodes": []}'), "ai-text"),
    "InvokeAI": (with_text("invokeai_metadata", '{"seed": 1}'), "ai-text"),
    "InvokeAI 2": (with_text("sd-metadata", '{"model": "x"}'), "ai-text"),
    "NovelAI": (with_text("Software", "NovelAI"), "ai-software"),
    "NovelAI settings": (with_text("Comment", '{"steps": 28, "sampler": "k_euler", "seed": 1, "uc": "x"}'), "ai-text"),
    "Midjourney": (with_text("Description", "a fox --ar 3:2 --v 6.0 Job ID: 0f1e2d3c-1111-2222-3333-444455556666"), "ai-text"),
    "DALL-E in EXIF": (with_exif(0x0131, "DALL·E 3"), "ai-software"),
    "Firefly in EXIF": (with_exif(0x0131, "Adobe Firefly"), "ai-software"),
    "XMP source type": (with_xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE}trainedAlgorithmicMedia"'), "ai-metadata"),
    "XMP composite": (with_xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE}compositeWithTrainedAlgorithmicMedia"'), "ai-metadata"),
    "IPTC 2025.1": (with_xmp('Iptc4xmpExt:AISystemUsed="Imagen 4"'), "ai-metadata"),
    "Google's credit": (with_xmp('photoshop:Credit="Made with Google AI"'), "ai-software"),
    "IPTC program": (with_segments(jpeg("iptc"), segment(0xED, iptc(d65=b"Midjourney 6"))), "ai-software"),
    "Firefly alone": (with_exif(0x0131, "Firefly 3"), "ai-software"),
    "Gemini with its version": (with_text("Software", "Gemini 2.5 Flash Image"), "ai-software"),
    "Google Gemini": (with_xmp('xmp:CreatorTool="Google Gemini"'), "ai-software"),
    "Firefly with its product": (with_exif(0x0131, "Adobe_Firefly Image"), "ai-software"),
    "Grok alone": (with_exif(0x0131, "Grok"), "ai-software"),
    "Runway": (with_exif(0x0131, "RunwayML Gen-3"), "ai-software"),
    "Midjourney as its make": (with_exif(0x010F, "Midjourney"), "ai-software"),
    "signed by Midjourney": (with_exif(0x013B, "Midjourney v6.1"), "ai-software"),
    "rights of OpenAI": (with_exif(0x8298, "OpenAI"), "ai-software"),
    "an author in PNG": (with_text("Author", "DALL-E 3"), "ai-software"),
    "C2PA generated": ((Path(__file__).parent / "data" / "c2pa-generated.jpg").read_bytes(), "ai-c2pa"),
    "C2PA retouched": ((Path(__file__).parent / "data" / "c2pa-edited.webp").read_bytes(), "ai-c2pa"),
}
HONEST = {
    "a camera": with_exif(0x0110, "Canon EOS R5"),
    "Photoshop": with_exif(0x0131, "Adobe Photoshop 25.0 (Windows)"),
    "GIMP": with_exif(0x0131, "GIMP 2.10.34"),
    "Lightroom": with_xmp('xmp:CreatorTool="Adobe Lightroom Classic 13.1"'),
    "a digital capture": with_xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE}digitalCapture"'),
    "a digital painting": with_xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE}digitalCreation"'),
    "a scan": with_xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE}negativeFilm"'),
    "a caption with words of ours": with_exif(0x010E, "Steps: 20 of them lead up to the prompt office of Gemini Street"),
    "a photographer called Geminiani": with_exif(0x013B, "Francesca Geminiani"),
    "a studio called Gemini": with_exif(0x013B, "Gemini Photography"),
    "an agency called Runway": with_exif(0x013B, "Runway Photo Agency"),
    "rights of Firefly Studio": with_exif(0x8298, "Copyright 2019 Firefly Studio"),
    "an artist who reads much": with_exif(0x013B, "Photographed for OpenAI by A. Example"),
    "an agency's credit": with_xmp('photoshop:Credit="Gemini Photography"'),
    "a camera called Firefly": with_exif(0x0110, "FIREFLY 8SE"),
    "a maker called Gemini": with_exif(0x010F, "Gemini"),
    "a program for fashion shows": with_exif(0x0131, "Runway Photo Manager 2"),
    "a title among the stars": with_text("Title", "Gemini and Orion, 2012"),
    "a source in print": with_text("Source", "Runway Magazine"),
    "parameters of a microscope": with_text("parameters", "exposure 20 ms, gain 3"),
    "a plain comment": with_text("Comment", "CREATOR: gd-jpeg v1.0, quality = 75"),
    "C2PA of a camera": (Path(__file__).parent / "data" / "c2pa-camera.png").read_bytes(),
    "nothing": jpeg("nothing"),
}


@pytest.mark.parametrize(("data", "reason"), MADE.values(), ids=MADE)
def test_the_marks_of_generators_are_found(data: bytes, reason: str) -> None:
    refusal = judge(said(data), GUARD, NONE)
    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.detail


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_what_cameras_and_people_write_is_left_alone(data: bytes) -> None:
    assert judge(said(data), GUARD, NONE) is None


def test_a_guard_can_be_switched_off() -> None:
    assert judge(said(MADE["NovelAI"][0]), merged(GUARD, Guard(ai_metadata=False)), NONE) is None


DAY = datetime.date(2022, 7, 1)
TAKEN = {day: said(with_exif(0x9003, f"{day} 10:00:00")) for day in ("2019:05:01", "2024:05:01", "0000:00:00")}


@pytest.mark.parametrize(
    ("taken", "uploaded", "released", "undated", "reason"),
    [
        ("2019:05:01", None, None, "reject", None),
        ("2024:05:01", None, None, "keep", "too-recent"),
        ("2024:05:01", "2021-12-31", None, "keep", None),  # it was online before; the camera's clock was wrong
        ("0000:00:00", "2023-01-01", None, "keep", "too-recent"),
        ("0000:00:00", None, datetime.date(2014, 5, 1), "reject", None),
        ("0000:00:00", None, None, "keep", None),
        ("0000:00:00", None, None, "reject", "undated"),
        ("0000:00:00", "some day", None, "reject", "undated"),
        ("0000:00:00", "2022-07-01", None, "keep", "too-recent"),
        ("0000:00:00", "2022-06-30", None, "keep", None),
    ],
)
def test_any_date_before_the_limit_shows_that_it_existed(
    taken: str, uploaded: str | None, released: datetime.date | None, undated: str, reason: str | None
) -> None:
    guard = merged(GUARD, Guard.model_validate({"taken_before": DAY, "undated": undated}))
    refusal = judge(TAKEN[taken], guard, dates_of(uploaded, released))
    assert (refusal.reason if refusal else None) == reason


def test_no_real_image_of_the_corpus_is_taken_for_a_generated_one(shared: Path) -> None:
    """767 photographs, paintings and wallpapers by people: none carries a mark, ten carry a day, all before 2022-07-01."""
    guard = merged(GUARD, Guard(taken_before=DAY, undated="reject"))
    reasons: dict[str | None, int] = {}
    with (shared / "data" / "index.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        real = [row["path"] for row in csv.DictReader(file) if row["origin"] == "real"]
    for path in real:
        found = said((shared / "data" / path).read_bytes())
        assert judge(found, GUARD, NONE) is None
        refusal = judge(found, guard, NONE)
        reasons[refusal.reason if refusal else None] = reasons.get(refusal.reason if refusal else None, 0) + 1
    assert len(real) == 767
    assert reasons == {None: 10, "undated": 757}


def test_every_reason_is_a_decision_of_collect() -> None:
    from imaginet_build.collect import BY_RULE

    assert {reason for _, reason in MADE.values()} < guards.REASONS <= BY_RULE
