"""The equalized view's law: the same for both classes to the last row."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.balancing import equalize
from imaginet_build.recipe import Equalize


def images(
    name: str, shorts: list[int], wider: int = 9, jpeg: bool = False, pairs: list[str | None] | None = None
) -> equalize.Images:
    """Images as high as `shorts` and a little wider, their ids `name` and a number."""
    height = np.array(shorts, dtype=np.int64)
    n = len(shorts)
    return equalize.Images([f"{name}{i}" for i in range(n)], height + wider, height, np.full(n, jpeg), pairs or [None] * n)


def law(low: int = 64, high: int = 256, step: int = 32) -> equalize.Law:
    return equalize.fit(Equalize(side=(low, high), step=step), (low, high), np.zeros(0, dtype=np.int64), [])


def outside(looks: equalize.Looks) -> list[tuple[object, ...]]:
    """A look a row, as one can see it without a pixel."""
    return list(zip(looks.side.tolist(), looks.codec.tolist(), looks.quality.tolist(), looks.subsampling.tolist(), strict=True))


SHORTS = st.lists(st.integers(64, 400), min_size=1, max_size=40)


@settings(max_examples=60)
@given(SHORTS, st.data())
def test_both_classes_get_the_same_looks_equally_often(shorts: list[int], data: st.DataObject) -> None:
    n = len(shorts)
    real = images("r", shorts, pairs=[f"r{i}" for i in range(n)])
    others = data.draw(st.lists(st.integers(64, 400), min_size=n, max_size=n))
    fake = images("f", others, pairs=[f"r{i // 2}" if i % 3 else None for i in range(n)])
    looks = equalize.match(law(), real, fake)
    assert Counter(outside(looks[0])) == Counter(outside(looks[1]))
    for one, look in zip((real, fake), looks, strict=True):
        assert ((look.side >= 64) & (look.side <= 256) & (look.side % 32 == 0)).all()
        views = equalize.views(law(), one, look)
        assert ((views.left >= 0) & (views.left + look.side <= one.width)).all(), "nothing is padded"
        assert ((views.top >= 0) & (views.top + look.side <= one.height)).all()


def test_sides_are_as_large_as_the_poorer_class_allows() -> None:
    def largest(real: int, fake: int) -> int:
        return int(equalize.match(law(), images("r", [real] * 200), images("f", [fake] * 200))[0].side.max())

    assert largest(400, 400) == 256
    assert largest(400, 143) == largest(143, 400) == 128
    sides = equalize.match(law(), images("r", [400] * 700), images("f", [400] * 700))[0].side
    assert set(Counter(sides.tolist())) == set(range(64, 257, 32))
    assert min(Counter(sides.tolist()).values()) > 70, "uniform from the smallest to the largest side"


def test_a_pair_of_one_side_shares_its_look() -> None:
    real, fake = (
        images("r", [64] * 9, pairs=[f"p{i}" for i in range(9)]),
        images("f", [64] * 9, pairs=["p5", "p5"] + [None] * 7),
    )
    looks = [outside(half) for half in equalize.match(law(), real, fake)]
    assert looks[0][5] in looks[1][:2]
    assert Counter(looks[0]) == Counter(looks[1]), "one real has one partner only"


def test_what_was_never_jpeg_gets_one_pass_whatever_its_class() -> None:
    fitted = law()
    for jpeg in (True, False):
        both = images("r", [300] * 50, jpeg=jpeg), images("f", [300] * 50, jpeg=jpeg)
        for one, look in zip(both, equalize.match(fitted, *both), strict=True):
            first = equalize.views(fitted, one, look).first_quality
            assert (first == 0).all() if jpeg else np.isin(first, fitted.first_qualities).all()


def test_auto_fits_quality_and_chroma_on_what_it_is_given() -> None:
    fitted = equalize.fit(Equalize(), (64, 256), np.array([70, 71, 72, 20, 100]), ["4:2:0", "4:4:4", "grey"])
    assert fitted.qualities == fitted.first_qualities == (60, 70, 71, 72, 98)
    assert set(fitted.subsamplings) == {"4:2:0", "4:4:4"}
    empty = law()
    assert (min(empty.first_qualities), max(empty.first_qualities)) == equalize.DEFAULT_QUALITIES


def test_what_the_recipe_says_is_not_fitted() -> None:
    asked = Equalize(quality=(80, 82), subsampling={"4:4:4": 0.25, "4:2:0": 0.75}, codec={"jpeg": 0.5, "webp": 0.5})
    fitted = equalize.fit(asked, (64, 256), np.array([60] * 50), ["4:2:2"] * 50)
    looks = equalize.match(fitted, images("r", [300] * 2000), images("f", [300] * 2000))[1]
    assert set(looks.quality.tolist()) == {80, 81, 82}
    assert (looks.subsampling == "4:4:4").mean() == pytest.approx(0.25, abs=0.04)
    assert (looks.codec == "webp").mean() == pytest.approx(0.5, abs=0.05)


def test_auto_takes_the_side_that_nearly_every_image_of_either_class_can_give_with_room() -> None:
    def low(real: list[int], fake: list[int]) -> int:
        return equalize.sides_of(Equalize(), {"real": np.array(real), "synthetic": np.array(fake)})[0]

    assert low([300] * 100, [768] * 100) == 256
    assert low([300] * 100, [143] * 100) == 128
    assert low([300] * 99 + [20], [207] * 100) == 192
    assert low([20] * 100, [300] * 100) == 64
    assert low([300] * 100, [256] * 100) == 224, "as large as the image would fix the grid of one class"


def test_the_grid_of_an_earlier_jpeg_begins_anywhere_in_both_classes() -> None:
    """One class as large as its crops could be, the other much larger: the phase of the crop must not tell them apart."""
    real, fake = images("r", [1000] * 3000, wider=0), images("f", [256] * 3000, wider=0)
    fitted = equalize.fit(Equalize(), equalize.sides_of(Equalize(), {"r": real.short, "f": fake.short}), np.zeros(0, int), [])
    for one, look in zip((real, fake), equalize.match(fitted, real, fake), strict=True):
        views = equalize.views(fitted, one, look)
        for start in (views.left, views.top):
            counts = np.bincount(start % equalize.GRID, minlength=equalize.GRID)
            chi2 = ((counts - 3000 / 16) ** 2 / (3000 / 16)).sum()
            assert chi2 < 37.7, "15 degrees of freedom, p > 0.001"


def test_an_image_of_the_smallest_side_is_taken_whole() -> None:
    real, fake = images("r", [64] * 5, wider=0), images("f", [400] * 5)
    looks = equalize.match(law(), real, fake)
    assert set(looks[0].side.tolist()) == {64}
    assert not equalize.views(law(), real, looks[0]).left.any()


def test_every_choice_comes_from_the_images_own_id() -> None:
    one, other = images("i", [300] * 300), images("j", [300] * 300)
    looks = equalize.match(law(), one, other)[0]
    views = equalize.views(law(), one, looks)
    some = np.arange(0, 300, 7)
    part = equalize.Images([one.ids[i] for i in some], one.width[some], one.height[some], one.jpeg[some], [None] * len(some))
    again = equalize.views(law(), part, looks.take(some))
    assert (again.left == views.left[some]).all()
    assert (again.first_quality == views.first_quality[some]).all()
    assert abs(views.left.mean() - (309 - looks.side.mean()) / 2) < 8, "uniform over the image"
    assert outside(equalize.match(law(), one, images("k", [300] * 300))[0]) == outside(looks)
