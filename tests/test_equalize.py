"""The equalized view's law: the same for both classes to the last row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build import equalize
from imaginet_build.recipe import Equalize


def row(name: str, short: int, codec: str = "png", pair: str | None = None, quality: int | None = None) -> dict[str, object]:
    return {
        "id": name, "short": short, "width": short + 9, "height": short, "codec": codec, "quality": quality,
        "subsampling": "4:2:0" if codec == "jpeg" else None, "pair_id": pair, "category": "photos",
    }  # fmt: skip


def law(low: int = 64, high: int = 256, step: int = 32) -> equalize.Law:
    return equalize.fit(Equalize(side=(low, high), step=step), "photos", (low, high), [])


SIDES = st.lists(st.integers(64, 400), min_size=1, max_size=40)


@given(SIDES, st.data())
def test_both_classes_get_the_same_looks_equally_often(shorts: list[int], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.integers(64, 400), min_size=len(shorts), max_size=len(shorts)))
    real = [row(f"r{i}", side, pair=f"r{i}") for i, side in enumerate(shorts)]
    fake = [row(f"f{i}", side, pair=f"r{i}" if i % 2 else None) for i, side in enumerate(others)]
    looks = equalize.match(law(), real, fake)
    assert Counter(looks[str(r["id"])] for r in real) == Counter(looks[str(f["id"])] for f in fake)
    for one in (*real, *fake):
        look = looks[str(one["id"])]
        assert 64 <= look.side <= 256
        assert look.side % 32 == 0
        view = equalize.view(law(), one, look)
        assert 0 <= view.left <= int(str(one["width"])) - view.width, "nothing is padded"
        assert 0 <= view.top <= int(str(one["height"])) - view.height


def test_sides_are_as_large_as_the_poorer_class_allows() -> None:
    sides = equalize.match_sides(law(), {f"r{i}": 400 for i in range(200)}, {f"f{i}": 128 for i in range(200)})
    assert max(sides.values()) == 128
    rich = equalize.match_sides(law(), {f"r{i}": 400 for i in range(200)}, {f"f{i}": 400 for i in range(200)})
    assert len(set(rich.values())) == 7, "uniform from the smallest to the largest side"


def test_a_pair_of_one_side_shares_its_look() -> None:
    looks = equalize.match(law(), [row("r0", 64, pair="r0"), row("r1", 64, pair="r1")], [row("f", 64, pair="r1"), row("g", 64)])
    assert looks["f"] == looks["r1"]
    assert looks["g"] == looks["r0"]


@pytest.mark.parametrize("codec", ["png", "webp", "gif", "bmp", "tiff"])
def test_what_was_never_jpeg_gets_one_pass_whatever_its_class(codec: str) -> None:
    look = equalize.Look(64, "jpeg", 90, "4:2:0")
    assert equalize.view(law(), row("a", 100, codec), look).first_quality is not None
    assert equalize.view(law(), row("a", 100, "jpeg"), look).first_quality is None


def test_auto_fits_quality_and_chroma_on_the_reals() -> None:
    jpegs = [row(f"r{i}", 100, "jpeg", quality=70 + i % 3) for i in range(30)]
    fitted = equalize.fit(Equalize(), "photos", (64, 256), jpegs)
    assert set(fitted.qualities) == set(fitted.first_qualities) == {70, 71, 72}
    assert set(fitted.subsamplings) == {"4:2:0"}
    empty = equalize.fit(Equalize(), "photos", (64, 256), [])
    assert (min(empty.qualities), max(empty.qualities)) == equalize.DEFAULT_QUALITIES


def test_auto_takes_the_side_that_nearly_every_image_of_either_class_can_give() -> None:
    settings = Equalize()
    assert equalize.sides_of(settings, {"real": [300] * 100, "synthetic": [768] * 100})[0] == 256
    assert equalize.sides_of(settings, {"real": [300] * 100, "synthetic": [128] * 100})[0] == 128
    assert equalize.sides_of(settings, {"real": [300] * 99 + [20], "synthetic": [200] * 100})[0] == 192
    assert equalize.sides_of(settings, {"real": [20] * 100, "synthetic": [300] * 100})[0] == 64


def test_every_choice_comes_from_the_images_own_id() -> None:
    look = equalize.Look(64, "jpeg", 90, "4:2:0")
    views = [equalize.view(law(), row(f"i{i}", 300), look) for i in range(300)]
    assert views == [equalize.view(law(), row(f"i{i}", 300), look) for i in range(300)]
    assert len({(v.left, v.top) for v in views}) > 250
    lefts = np.array([v.left for v in views])
    assert abs(lefts.mean() - (309 - 64) / 2) < 15, "uniform over the image"
