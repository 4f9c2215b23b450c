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
        assert result.size == (256, 256)


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


@pytest.mark.parametrize("name", ["social", "grain", "crop-90"])
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
