"""The photographs that installed packages carry: honest crops, grouped by scene, each under a stated licence."""

from __future__ import annotations

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from imaginet_build import images
from imaginet_build.collectors import packages
from imaginet_build.collectors.packages import PHOTOGRAPHS, Packages
from imaginet_build.errors import MissingExtra
from imaginet_build.records import Want


def find(seed: int = 0, have: frozenset[str] = frozenset(), **settings):
    return list(Packages(**settings).find(Want("packages", None, seed, have)))


@pytest.fixture(scope="module")
def few():
    """At most two crops of every photograph."""
    return find(per_photograph=2)


def test_every_photograph_that_is_named_is_there_and_large_enough(few):
    assert {(f.source_key.partition("#")[0]) for f in few} == {
        f"{d}/{name}" for d, names in PHOTOGRAPHS.items() for name in names
    }
    assert len({f.source_key for f in few}) == len(few)


def test_crops_are_the_photographs_own_pixels_without_loss(few):
    for found in few[:6]:
        path, _, corner = found.source_key.partition("#")
        left, top, side = (int(number) for number in corner.removesuffix(".png").split(","))
        crop = np.asarray(Image.open(io.BytesIO(found.data)))
        with Image.open(packages._package_file(*path.rsplit("/", 1))) as photograph:
            whole = np.asarray(photograph.convert("RGB"))
        assert crop.shape == (side, side, 3) == (256, 256, 3)
        assert np.array_equal(crop, whole[top : top + side, left : left + side])
        assert images.measure(found.data).codec == "png"


def test_crops_of_one_photograph_never_overlap_and_lie_within_it():
    taken: dict[str, set[tuple[int, int]]] = {}
    for found in find(side=150, per_photograph=5):
        path, _, corner = found.source_key.partition("#")
        left, top, side = (int(number) for number in corner.removesuffix(".png").split(","))
        assert (left % side, top % side) == (0, 0)
        assert (left, top) not in taken.setdefault(path, set())
        taken[path].add((left, top))


def test_crops_of_one_scene_share_a_group_and_others_do_not(few):
    groups: dict[str, set[str]] = {}
    for found in few:
        groups.setdefault(found.group, set()).add(found.source_key.partition("#")[0].rpartition("/")[2])
    together = {frozenset(names) for names in groups.values() if len(names) > 1}
    assert together == {frozenset({"motorcycle_left.png", "motorcycle_right.png"})}


def test_every_crop_says_what_it_is_and_on_what_terms(few):
    assert {(f.origin, f.category, f.generator) for f in few} == {("real", "photos", None)}
    assert {f.source for f in few} == {"skimage", "sklearn"}
    assert all(f.licence and f.licence[0].isupper() for f in few)


def test_any_number_of_crops_shows_as_many_photographs_as_it_can(few):
    photographs = len({f.source_key.partition("#")[0] for f in few})
    assert len({f.source_key.partition("#")[0] for f in few[:photographs]}) == photographs


def test_the_seed_decides_the_order_and_what_is_here_is_not_cut_again(few):
    keys = [f.source_key for f in few]
    assert [f.source_key for f in find(seed=1, per_photograph=2)] != keys
    rest = find(per_photograph=2, have=frozenset(keys[:7]))
    assert [f.source_key for f in rest] == keys[7:]
    assert [f.data for f in rest] == [f.data for f in few[7:]], "and a crop has the same bytes every time"


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "skimage" else real(name, *more))
    with pytest.raises(
        MissingExtra, match=r"the source 'packages' needs scikit-image: pip install 'imaginet-build\[quickstart\]'"
    ):
        find()
