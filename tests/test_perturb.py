"""Perturbations: the same bytes for the same id, whoever asks and when; the paper's conditions as the paper has them."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from imaginet_build import images, perturb
from imaginet_build.errors import UsageError

ALL = perturb.CONDITIONS | perturb.EDITS


def picture(width: int = 420, height: int = 330) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 17 + k) * np.cos(columns / (11 + k)) for k in range(3)]
    return Image.fromarray(np.rint(127.5 + 120 * np.stack(waves, axis=2)).astype(np.uint8))


def digest(condition: str, id: str) -> str:
    image = perturb.perturb(picture(), condition, id)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


@pytest.mark.parametrize("name", ALL)
def test_the_same_id_gives_the_same_pixels(name: str) -> None:
    image = picture()
    before = image.tobytes()
    assert digest(name, "a") == digest(name, "a")
    assert image.tobytes() == before
    result = perturb.perturb(image, name, "a")
    assert result.mode == "RGB"
    if name in perturb.CONDITIONS:
        side = int(name.removeprefix("crop-to-")) if name.startswith("crop-to-") else 256
        assert result.size == (side, side)


def test_order_and_process_do_not_matter() -> None:
    names = ["social", "grain", "crop-90"]
    code = f"import tests_perturb as t; print([t.digest(n, i) for n in {names[::-1]!r} for i in ('b', 'a')])"
    load = (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('tests_perturb', sys.argv[1]); "
        "m = importlib.util.module_from_spec(s); sys.modules['tests_perturb'] = m; s.loader.exec_module(m); "
    )
    other = subprocess.run([sys.executable, "-c", load + code, __file__], capture_output=True, text=True, check=True).stdout
    here = {(n, i): digest(n, i) for n in names for i in ("a", "b")}
    assert other.strip() == str([here[n, i] for n in names[::-1] for i in ("b", "a")])


@pytest.mark.parametrize("name", ["social", "social-3", "noise-8", "crop-to-128", "grain", "crop-90"])
def test_another_id_gives_other_pixels(name: str) -> None:
    assert len({digest(name, str(i)) for i in range(6)}) == 6


def test_the_sweeps_are_the_papers() -> None:
    names = list(perturb.CONDITIONS)
    assert [n for n in names if n.startswith("jpeg-")] == [f"jpeg-{q}" for q in range(40, 101, 5)]
    assert [n for n in names if n.startswith("resize-12-")] == [f"resize-12-{i}" for i in range(2, 13)]
    image = picture()
    centre = image.crop((82, 37, 338, 293))
    assert np.array_equal(np.asarray(perturb.perturb(image, "centre", "a")), np.asarray(centre))
    once = images.decode(images.encode(centre, "jpeg", 40, "4:2:0"))
    assert np.array_equal(np.asarray(perturb.perturb(image, "jpeg-40", "a")), np.asarray(once))
    assert np.array_equal(np.asarray(perturb.perturb(image, "resize-12-12", "a")), np.asarray(centre))
    wide = perturb.centre(image, 1536).resize((256, 256), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(perturb.perturb(image, "resize-12-2", "a")), np.asarray(wide))


def test_the_social_chain_compresses_three_in_four() -> None:
    """Flat white survives resizing and padding untouched; only what JPEG or WebP did to colours can be seen on noise."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8))
    same = sum(np.array_equal(np.asarray(perturb.perturb(noise, "social", str(i))), np.asarray(noise)) for i in range(120))
    assert 15 <= same <= 45


@pytest.mark.parametrize("name", perturb.CONDITIONS)
def test_the_file_holds_the_pixels_and_is_what_the_condition_ends_with(name: str) -> None:
    image = picture()
    file = perturb.perturbed_file(image, name, "a")
    facts = images.measure(file)
    assert np.array_equal(np.asarray(images.decode(file)), np.asarray(perturb.perturb(image, name, "a")))
    assert facts.metadata == ()
    kind, _, amount = name.partition("-")
    if kind == "jpeg":
        assert (facts.codec, facts.quality, facts.subsampling) == ("jpeg", int(amount), "4:2:0")
    elif kind == "webp":
        assert file == images.encode(perturb.centre(image), "webp", int(amount))
    elif kind != "social":
        assert facts.codec == "png"


def test_a_social_network_draws_what_the_paper_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side 256 to the short side or 1000, JPEG or WebP three times in four at quality 60 to 100; each further pass one more."""
    image = picture(1400, 1100)
    sides: list[int] = []
    resized = perturb._resized
    monkeypatch.setattr(perturb, "_resized", lambda im, w, h: sides.append(im.width) or resized(im.resize((9, 9)), w, h))
    found = [images.measure(perturb.perturbed_file(image, "social", str(i))) for i in range(160)]
    assert (min(sides), max(sides)) == (pytest.approx(256, abs=25), pytest.approx(1000, abs=25))
    assert np.mean(sides) == pytest.approx(628, abs=50)
    codecs = [facts.codec for facts in found]
    assert codecs.count("png") == pytest.approx(40, abs=16)
    assert codecs.count("jpeg") == pytest.approx(codecs.count("webp"), abs=28)
    qualities = [facts.quality for facts in found if facts.quality is not None]
    assert (min(qualities), max(qualities)) == (pytest.approx(61, abs=2), pytest.approx(99, abs=2))
    sides.clear()
    perturb.perturbed_file(image, "social", "a", most=300)
    assert 256 <= sides[0] <= 300


def test_every_further_pass_compresses_once_more_and_never_enlarges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = perturb.encode
    monkeypatch.setattr(perturb, "encode", lambda im, *how: seen.append(im.width) or encode(im, *how))
    for name, passes in (("social", 1), ("social-2", 2), ("social-3", 3)):
        for i in range(5):
            seen.clear()
            last = images.measure(perturb.perturbed_file(picture(700, 600), name, str(i))).codec
            assert len(seen) == passes - (last == "png")
            assert seen == sorted(seen, reverse=True)
            assert all(256 <= side <= 600 for side in seen)


def spectrum(image: Image.Image) -> np.ndarray:
    """Power by frequency in cycles per pixel, 0 to 0.5, of the green channel: 128 bins."""
    pixels = np.asarray(image, dtype=float)[:, :, 1]
    power = np.abs(np.fft.fft2(pixels - pixels.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(pixels.shape[1]), np.fft.fftfreq(pixels.shape[0])))
    place = np.minimum((radius * 256).astype(int), 128)
    return (np.bincount(place.ravel(), power.ravel(), 129) / np.bincount(place.ravel(), minlength=129))[:128]


@pytest.mark.parametrize("sigma", ["1", "1.5", "2", "3"])
def test_blur_has_the_sigma_it_says(sigma: str) -> None:
    """White noise keeps exp(-(2 pi sigma f)^2) of its power at the frequency f."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8))
    before, after = (spectrum(perturb.perturb(noise, name, "a")) for name in ("centre", f"blur-{sigma}"))
    low = slice(2, int(256 * 0.2 / float(sigma)))
    frequency = (np.arange(128)[low] + 0.5) / 256
    slope = np.polyfit(frequency**2, np.log(after[low] / before[low]), 1)[0]
    assert np.sqrt(-slope) / (2 * np.pi) == pytest.approx(float(sigma), rel=0.08)


def test_a_slight_blur_is_weaker_than_the_next() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8))
    left = [np.asarray(perturb.perturb(noise, name, "a")).std() for name in ("centre", "blur-0.5", "blur-1")]
    assert left[0] > 1.1 * left[1] > 1.3 * left[2]


@pytest.mark.parametrize("levels", [2, 4, 8, 16])
def test_noise_has_the_deviation_it_says(levels: int) -> None:
    grey = Image.new("RGB", (256, 256), (128, 128, 128))
    added = np.asarray(perturb.perturb(grey, f"noise-{levels}", "a"), dtype=float) - 128
    assert added.std() == pytest.approx(np.hypot(levels, 1 / np.sqrt(12)), rel=0.02)
    assert abs(added.mean()) < 0.05 * levels


@pytest.mark.parametrize("i", range(2, 13))
def test_the_resize_sweep_reduces_by_the_factor_it_says(i: int) -> None:
    """A wave of 48 pixels comes out 48 x i / 12 pixels long."""
    columns = np.arange(1600)
    wave = np.broadcast_to(
        np.rint(127.5 + 100 * np.sin(2 * np.pi * columns / 48)).astype(np.uint8)[None, :, None], (1600, 1600, 3)
    )
    line = np.asarray(perturb.perturb(Image.fromarray(np.ascontiguousarray(wave)), f"resize-12-{i}", "a"), dtype=float)[
        128, :, 0
    ]
    power = np.abs(np.fft.rfft((line - line.mean()) * np.hanning(256), 8192))
    assert 8192 / int(power.argmax()) == pytest.approx(48 * i / 12, rel=0.03)


@pytest.mark.parametrize("side", [96, 128, 160, 192, 224])
def test_crops_are_pieces_of_the_centre_at_their_own_size(side: int) -> None:
    image = picture()
    middle = np.asarray(perturb.centre(image))
    starts = set()
    for name in "abcdef":
        piece = np.asarray(perturb.perturb(image, f"crop-to-{side}", name))
        windows = np.lib.stride_tricks.sliding_window_view(middle[:, :, 0], (4, 4))
        places = np.argwhere((windows == piece[:4, :4, 0]).all((2, 3)))
        hits = [p for p in places.tolist() if np.array_equal(middle[p[0] : p[0] + side, p[1] : p[1] + side], piece)]
        assert hits
        starts.add(tuple(hits[0]))
    assert len(starts) > 2


def test_small_images_are_padded_by_reflection() -> None:
    small = picture(100, 60)
    padded = np.asarray(perturb.perturb(small, "centre", "a"))
    assert np.array_equal(padded[98:158, 78:178], np.asarray(small))
    assert np.array_equal(padded[97, 78:178], np.asarray(small)[1])
    assert perturb.perturb(Image.new("RGB", (1, 1), (5, 6, 7)), "social", "a").size == (256, 256)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_any_mode_comes_back_as_rgb(mode: str) -> None:
    assert perturb.perturb(picture().convert(mode), "grain", "a").mode == "RGB"


def test_a_condition_of_ones_own() -> None:
    half = perturb.Condition("half", "resize", 0.5)
    assert perturb.perturb(picture(), half, "a").size == (210, 165)
    assert perturb.perturb(picture(1, 1), half, "a").size == (1, 1)


def test_what_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'social'"):
        perturb.perturb(picture(), "socail", "a")
    with pytest.raises(UsageError, match="no operation"):
        perturb.perturb(picture(), perturb.Condition("x", "melt"), "a")
    for operation, amount in (("jpeg", 0), ("crop", 1.5), ("noise", -1), ("blur", float("nan"))):
        with pytest.raises(UsageError, match="takes"):
            perturb.perturb(picture(), perturb.Condition("x", operation, amount), "a")
