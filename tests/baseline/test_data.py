from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaginet_build.baseline.augment import augment, blur, noise
from imaginet_build.baseline.data import Crops, Draws, folders, splits
from imaginet_build.errors import UsageError
from imaginet_build.records import random_of


def test_a_release_is_read_with_its_names_and_sorted_by_id(tiny: Path) -> None:
    test = splits(tiny)["test"]
    assert len(test) == 32
    assert list(test.ids) == sorted(test.ids)
    assert set(test.generator) == {"real", "soft", "softer"}
    assert all((g == "real") == (y == 0) for g, y in zip(test.generator, test.label, strict=True))
    assert test.image(5).size == tuple(test.size[5])


def test_shards_change_nothing(tmp_path: Path, write_release: Callable[..., Path]) -> None:
    one, three = (splits(write_release(tmp_path / str(n), {"train": 20}, shards=n))["train"] for n in (1, 3))
    assert one.ids == three.ids
    assert [one.read(i) for i in range(20)] == [three.read(i) for i in range(20)]


def test_a_folder_that_is_no_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="publish"):
        splits(tmp_path)


def test_folders_below_the_synthetic_one_name_generators(tmp_path: Path) -> None:
    for name in ("real/a.png", "fake/sdxl/b.png", "fake/c.png", "fake/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name, "PNG")
    rows = folders(tmp_path / "real", tmp_path / "fake")
    assert sorted(zip(rows.generator, rows.label.tolist(), strict=True)) == [("fake", 1), ("real", 0), ("sdxl", 1)]
    with pytest.raises(UsageError, match="must hold images"):
        folders(tmp_path / "real", tmp_path / "fake" / "nothing")


def test_an_epoch_takes_every_row_of_an_even_release_once(tiny: Path) -> None:
    rows = splits(tiny)["train"]
    draws = Draws(rows, range(len(rows)), seed=3, batch=16, evenness=1.0)
    drawn = [row for step in range(draws.steps_per_epoch) for row, _ in draws.step(step)]
    assert Counter(drawn) == Counter(range(len(rows)))


def test_cells_weigh_as_evenness_says_and_both_origins_alike(tiny: Path) -> None:
    rows = splits(tiny)["train"]
    keep = [i for i in range(len(rows)) if rows.content_type[i] == "photos" or i % 4 == 0]
    cells = np.array(rows.cells())
    draws = Draws(rows, keep, seed=0, batch=8, evenness=0.0)
    drawn = [row for step in range(draws.steps_per_epoch * 4) for row, _ in draws.step(step)]
    counts = Counter(cells[drawn].tolist())
    assert max(counts.values()) <= 1.3 * min(counts.values()), "every cell alike, however few rows it has"


def test_a_step_is_the_same_whenever_it_is_asked_for(tiny: Path) -> None:
    rows = splits(tiny)["train"]
    one, other = (Draws(rows, range(len(rows)), seed=1, batch=10, evenness=0.5) for _ in range(2))
    assert [other.step(k) for k in reversed(range(20))] == [one.step(k) for k in range(20)][::-1]
    assert Draws(rows, range(len(rows)), seed=2, batch=10, evenness=0.5).step(0) != one.step(0)


def test_crops_belong_to_their_row_and_turn_alone(tiny: Path) -> None:
    rows = splits(tiny)["train"]
    crops = Crops(rows, 32, seed=0, augmentation="light")
    both = crops.batch([(3, 0), (9, 2)])
    assert both.shape == (2, 3, 32, 32)
    assert both.dtype == np.float32
    np.testing.assert_array_equal(Crops(rows, 32, seed=0, augmentation="light").batch([(9, 2)])[0], both[1])
    assert not np.array_equal(crops.one(3, 0), crops.one(3, 1))


def test_without_augmentation_a_crop_is_cut_at_native_resolution(tiny: Path) -> None:
    rows = splits(tiny)["train"]
    crop = Crops(rows, 32, seed=0, augmentation="none").one(0, 0)
    whole = np.asarray(rows.image(0))
    places = [(y, x) for y in range(17) for x in range(17) if np.array_equal(whole[y : y + 32, x : x + 32], crop)]
    assert len(places) == 1


def test_what_is_smaller_than_a_crop_is_left_out_with_a_reason(tiny: Path) -> None:
    crops = Crops(splits(tiny)["train"], 64, seed=0, augmentation="none")
    assert crops.usable == []
    assert set(crops.skipped.values()) == {"too-small"}


@pytest.mark.parametrize("kind", ["paper", "light"])
def test_augmentation_keeps_shape_and_repeats(kind: str) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = [augment(crop, kind, random_of(str(n), "test")) for n in range(40)]  # type: ignore[arg-type]
    again = [augment(crop, kind, random_of(str(n), "test")) for n in range(40)]  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(seen, again, strict=True))
    assert {a.shape for a in seen} == {(32, 32, 3)}
    assert {a.dtype for a in seen} == {np.dtype(np.uint8)}
    assert len({a.tobytes() for a in seen}) > 15


def test_blur_is_the_named_kernel_and_noise_has_the_named_variance() -> None:
    point = np.zeros((11, 11, 3), np.uint8)
    point[5, 5] = 255
    assert np.count_nonzero(blur(point, 3)[..., 0]) == 9
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert noise(grey, 9.0, np.random.default_rng(0)).astype(float).var() == pytest.approx(9.0, rel=0.05)
