"""The plan: what stays, where it goes, and what is said of the rest."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from imaginet_build.balance import Balanced, balance, composition
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import FACT_SCHEMA, random_of
from imaginet_build.store import Store

LAW = Equalize(side=(64, 128), step=32)


def facts(number: int, **changes: object) -> dict[str, object]:
    """The facts of one image that resembles no other, real unless told."""
    chance = random_of(str(number), "balance test")
    origin = changes.get("origin", "real")
    made = dict.fromkeys(FACT_SCHEMA.names) | {
        "id": f"{number:08}", "origin": "real", "category": "photos", "source": "camera", "licence": "CC0-1.0", "revision": "1",
        "params": "{}", "group": f"{number:08}", "extension": "png", "sha256": f"{number:064}", "nbytes": 1, "codec": "png",
        "width": 200, "height": 160, "mode": "RGB", "progressive": False, "metadata": "", "pixel_hash": f"{number:064}",
        "phash": int(chance.integers(0, 2**63)), "phash_mirror": int(chance.integers(0, 2**63)), "dhash": 0, "contrast": 40.0,
    }  # fmt: skip
    if origin == "synthetic":
        made |= {"generator": "sdxl", "family": "sd", "source": None}
    return made | changes


def planned(
    tmp_path: Path, rows: list[dict[str, object]], settings: Balance | None = None, seed: int = 0
) -> tuple[Balanced, pd.DataFrame]:
    store = Store(tmp_path / "work")
    if not store.parts():
        store.write_part("collect", "one", rows, [b"" for _ in rows])
    done = balance(store, settings or Balance(), LAW, seed)
    return done, store.plan().to_pandas().set_index("id")


def mixed(real: int, synthetic: int, **changes: object) -> list[dict[str, object]]:
    rows = [facts(i, **changes) for i in range(real)]
    return rows + [facts(10_000 + i, origin="synthetic", **changes) for i in range(synthetic)]


def test_both_classes_of_a_category_are_equally_many_in_every_split(tmp_path: Path) -> None:
    done, plan = planned(tmp_path, mixed(60, 100))
    kept = plan[plan["keep"]]
    for _, rows in kept.groupby("split"):
        assert len(set(Counter(rows["origin"]).values())) == 1
    assert done.kept == len(kept) == sum(sum(n.values()) for n in done.splits.values())
    assert set(plan[~plan["keep"]]["reason"]) == {"surplus"}


def test_generators_share_a_cell_alike_and_one_that_has_less_gives_all(tmp_path: Path) -> None:
    rows = mixed(90, 0) + [
        facts(20_000 + i, origin="synthetic", generator=name) for i, name in enumerate(["a"] * 100 + ["b"] * 100 + ["c"] * 10)
    ]
    done, _ = planned(tmp_path, rows, Balance(splits={"train": 1.0}))
    kept = {cell.generator_or_source: cell.kept for cell in done.cells if cell.origin == "synthetic"}
    assert kept == {"a": 40, "b": 40, "c": 10}


def test_weights_of_the_recipe_are_kept(tmp_path: Path) -> None:
    rows = mixed(40, 0) + [facts(20_000 + i, origin="synthetic", generator="ab"[i % 2]) for i in range(80)]
    done, _ = planned(tmp_path, rows, Balance(splits={"train": 1.0}, generators={"a": 3.0, "b": 1.0}))
    assert {c.generator_or_source: c.kept for c in done.cells if c.origin == "synthetic"} == {"a": 30, "b": 10}


def test_a_cell_that_is_short_says_what_would_fill_it(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(11, 55), Balance(splits={"train": 1.0}))
    real, synthetic = done.cells
    assert (real.asked, real.kept, synthetic.asked, synthetic.kept) == (55, 11, 55, 11)
    assert real.reason == synthetic.reason == "11 real images of photos limit it: 44 more would fill it"


def test_a_full_cell_has_nothing_to_say(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(30, 30), Balance(splits={"train": 1.0}))
    assert [(cell.asked, cell.kept, cell.reason) for cell in done.cells] == [(30, 30, "")] * 2


def test_what_is_asked_is_the_share_and_not_what_there_is(tmp_path: Path) -> None:
    rows = mixed(90, 0) + [facts(20_000 + i, origin="synthetic", generator="a" if i < 80 else "b") for i in range(90)]
    done, _ = planned(tmp_path, rows, Balance(splits={"train": 1.0}, per_cell=60))
    cells = {cell.generator_or_source: cell for cell in done.cells}
    assert {name: (cell.asked, cell.kept) for name, cell in cells.items()} == {"a": (30, 50), "b": (30, 10), "camera": (60, 60)}
    assert cells["b"].reason == "it has 10 usable images: 20 more would fill its share"


def test_shares_of_a_cell_sum_to_what_is_asked_of_it(tmp_path: Path) -> None:
    rows = mixed(100, 0) + [facts(20_000 + i, origin="synthetic", generator="abc"[i % 3]) for i in range(100)]
    done, _ = planned(tmp_path, rows, Balance(per_cell=100))
    assert sum(cell.asked for cell in done.cells if cell.origin == "synthetic") == 100


def test_sources_share_a_real_cell_by_what_they_hold(tmp_path: Path) -> None:
    rows = mixed(0, 50) + [facts(i, source="big" if i % 4 else "small") for i in range(100)]
    done, _ = planned(tmp_path, rows, Balance(splits={"train": 1.0}, per_cell=40))
    kept = {cell.generator_or_source: (cell.asked, cell.kept) for cell in done.cells if cell.origin == "real"}
    assert kept == {"big": (30, 30), "small": (10, 10)}


def test_a_target_that_cannot_be_met_is_said_and_not_a_failure(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(10, 10), Balance(per_cell=1000, splits={"train": 1.0}))
    assert [cell.asked for cell in done.cells] == [1000, 1000]
    assert [cell.kept for cell in done.cells] == [10, 10]
    assert (
        done.cells[0].reason
        == "10 real and 10 synthetic images of photos limit it: 990 real and 990 synthetic more would fill it"
    )


def test_a_target_is_divided_among_the_splits(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(200, 200), Balance(per_cell=100))
    assert {split: n["real"] for split, n in done.splits.items()} == {"train": 70, "calibration": 10, "test": 20}


def test_a_target_that_splits_unevenly_is_met_to_the_last_image(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(200, 200), Balance(per_cell=33))
    assert sum(n["real"] for n in done.splits.values()) == 33


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 60}, "too-small"),
        ({"contrast": 0.2}, "blank"),
        ({"width": 900, "height": 90}, "too-long"),
        ({"mode": "L"}, "grayscale"),
    ],
)
def test_what_is_too_poor_is_rejected_in_words(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    settings = Balance.model_validate({"screen": {"max_aspect": 4, "grayscale": False}})
    _, plan = planned(tmp_path, [*mixed(10, 10), facts(77, **change)], settings)
    assert plan.loc["00000077", "reason"] == reason
    assert plan.loc["00000077", "detail"]


def test_held_out_generators_are_in_the_test_split_only(tmp_path: Path) -> None:
    rows = [*mixed(100, 80), *(facts(30_000 + i, origin="synthetic", generator="new") for i in range(10))]
    _, plan = planned(tmp_path, rows, Balance(hold_out=["new"]))
    new = plan[(plan["generator_or_source"] == "new") & plan["keep"]]
    assert set(new["split"]) == {"test"}


def test_a_generator_without_weight_stays_out(tmp_path: Path) -> None:
    rows = mixed(40, 0) + [facts(20_000 + i, origin="synthetic", generator="ab"[i % 2]) for i in range(40)]
    done, _ = planned(tmp_path, rows, Balance(generators={"a": 0.0}, splits={"train": 1.0}))
    assert {c.generator_or_source: (c.asked, c.kept) for c in done.cells} == {"a": (0, 0), "b": (40, 20), "camera": (40, 20)}


def test_a_generator_that_nobody_knows_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planned(tmp_path, mixed(10, 10), Balance(hold_out=["sdlx"]))
    assert "balance.hold_out names 'sdlx', and no image is by it; did you mean 'sdxl'?" in caplog.text


def test_an_id_in_two_parts_is_refused_in_words(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("one", "two"):
        store.write_part("collect", name, mixed(2, 2), [b""] * 4)
    with pytest.raises(BuildError, match="stands in two parts"):
        balance(store, Balance(), LAW, 0)


def test_a_category_that_nobody_knows_is_a_category(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(12, 12, category="zebras"))
    assert {(cell.category, cell.kept) for cell in done.cells} == {("zebras", 12)}


def test_where_nothing_can_stay_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [facts(i, category="photos") for i in range(3)] + [
        facts(9 + i, origin="synthetic", category="faces") for i in range(3)
    ]
    done, plan = planned(tmp_path, rows)
    assert done.kept == 0
    assert not plan["keep"].any()
    assert "nothing is kept" in caplog.text


def test_blank_images_are_blank_and_not_twins(tmp_path: Path) -> None:
    flat = {"phash": 1 << 63, "phash_mirror": 1 << 63, "contrast": 0.0}
    rows = [*mixed(10, 10), *(facts(800 + i, **flat, origin=["real", "synthetic"][i % 2]) for i in range(6))]
    done, _ = planned(tmp_path, rows)
    assert done.rejected["blank"] == 6
    assert done.duplicates["groups"] == 0


def test_bytes_that_contradict_their_facts_end_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two rows of one hash ask for a closer look; their bytes are no images. Publishing rejects such rows, balance goes on."""
    rows = [*mixed(10, 10), facts(500, phash=1, phash_mirror=2**40), facts(501, phash=1, phash_mirror=2**41)]
    done, _ = planned(tmp_path, rows)
    assert done.kept == 20
    assert "cannot be read" in caplog.text


def test_one_prompt_for_everything_is_one_split_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = mixed(60, 0) + [facts(10_000 + i, origin="synthetic", prompt="a photo") for i in range(60)]
    done, _ = planned(tmp_path, rows)
    assert "60 of 120 images are one group" in caplog.text
    assert sum(n["synthetic"] > 0 for n in done.splits.values()) <= 1


def test_a_pair_stays_together(tmp_path: Path) -> None:
    rows = [facts(i, pair_id=f"{i:08}") for i in range(40)]
    rows += [facts(10_000 + i, origin="synthetic", pair_id=f"{i:08}", group=f"{i:08}") for i in range(20)]
    _, plan = planned(tmp_path, rows)
    kept = plan[plan["keep"]]
    real = {name for name, row in kept.iterrows() if row["origin"] == "real"}
    fake = {f"{int(str(name)) - 10_000:08}" for name, row in kept.iterrows() if row["origin"] == "synthetic"}
    assert len(real & fake) >= 18, "a real whose reconstruction is in comes first"
    for name in real & fake:
        assert kept.loc[name, "split"] == kept.loc[f"{int(name) + 10_000:08}", "split"]


def test_both_classes_look_alike_from_outside_to_the_last_row(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    rows = [facts(i, width=int(chance.integers(64, 150)), height=300) for i in range(80)]
    rows += [facts(10_000 + i, origin="synthetic", width=512, height=512, codec="webp") for i in range(80)]
    _, plan = planned(tmp_path, rows)
    outside = ["split", "width", "height", "codec", "quality", "subsampling"]
    kept = plan[plan["keep"]]
    looks = {origin: Counter(map(tuple, part[outside].to_numpy())) for origin, part in kept.groupby("origin")}
    assert looks["real"] == looks["synthetic"]


def test_the_same_facts_give_the_same_plan_and_another_seed_another(tmp_path: Path) -> None:
    rows = mixed(60, 60)
    _, first = planned(tmp_path / "a", rows)
    _, again = planned(tmp_path / "b", rows[::-1])
    pd.testing.assert_frame_equal(first, again)
    _, other = planned(tmp_path / "a", rows, seed=1)
    assert (first["split"].fillna("") != other["split"].fillna("")).any()


def test_the_seed_moves_who_stays_and_where_and_nothing_else(tmp_path: Path) -> None:
    rows = mixed(60, 60)
    settings = Balance(splits={"train": 1.0}, per_cell=40)
    one, two = (planned(tmp_path / "a", rows, settings, seed)[1] for seed in (0, 1))
    assert (one["keep"] != two["keep"]).any()
    everyone = Balance(splits={"train": 1.0})
    one, two = (planned(tmp_path / "b", rows, everyone, seed)[1] for seed in (0, 1))
    pd.testing.assert_frame_equal(one, two)


def test_both_laws_are_independent_of_the_class(tmp_path: Path) -> None:
    """What is not matched row by row: the first pass of what was never JPEG, and where the crop lies on its grid."""
    rows = [facts(i, width=400, height=300, codec=["png", "jpeg"][i % 2], quality=[None, 80][i % 2]) for i in range(1600)]
    rows += [facts(10_000 + i, origin="synthetic", width=1024, height=1024, codec="webp") for i in range(1600)]
    _, plan = planned(tmp_path, rows)
    first = [part["first_quality"].dropna().to_numpy() for _, part in plan[plan["keep"]].groupby("origin")]
    assert [len(part) for part in first] == [800, 1600], "whatever was never JPEG has its pass, and nothing else"
    for column, grid in (("first_quality", None), ("left", 16), ("top", 16)):
        values = [part[column].dropna().to_numpy() % (grid or 1000) for _, part in plan[plan["keep"]].groupby("origin")]
        assert stats.ks_2samp(*values).pvalue > 0.001


def test_another_category_changes_nothing_here(tmp_path: Path) -> None:
    rows = mixed(40, 40)
    _, alone = planned(tmp_path / "a", rows)
    more = [facts(50_000 + i, category="faces", origin=["real", "synthetic"][i % 2]) for i in range(20)]
    _, beside = planned(tmp_path / "b", [*rows, *more])
    pd.testing.assert_frame_equal(alone, beside[beside["category"] == "photos"])


def test_one_class_alone_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no synthetic image"):
        planned(tmp_path, mixed(5, 0))


def test_nothing_at_all_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run build-imaginet collect"):
        balance(Store(tmp_path), Balance(), LAW, 0)


def test_a_category_of_one_class_keeps_nothing_and_says_why(tmp_path: Path) -> None:
    rows = [*mixed(10, 10), *(facts(60_000 + i, category="faces") for i in range(3))]
    done, plan = planned(tmp_path, rows)
    faces = next(cell for cell in done.cells if cell.category == "faces")
    assert (faces.asked, faces.kept) == (3, 0)
    assert faces.reason == "0 synthetic images of faces limit it: 3 more would fill it"
    empty = next(cell for cell in done.cells if cell.category == "faces" and cell.origin == "synthetic")
    assert (empty.generator_or_source, empty.asked, empty.kept) == ("any", 3, 0)
    assert empty.reason == "there is no synthetic image of faces: 3 would fill it"
    assert set(plan[plan["category"] == "faces"]["reason"]) == {"surplus"}


def test_the_composition_is_a_table(tmp_path: Path) -> None:
    planned(tmp_path, mixed(20, 20))
    table = composition(Store(tmp_path / "work").plan())
    assert table.to_numpy().sum() == 40
    assert list(table.columns) == ["train", "calibration", "test"]


@pytest.mark.prove
def test_two_hundred_thousand_rows_in_a_minute(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    store = Store(tmp_path / "work")
    for part in range(100):
        rows = [
            facts(i, **({"origin": "synthetic", "generator": f"g{i % 8}"} if i % 2 else {"source": f"s{i % 5}", "codec": "jpeg",
                  "quality": 75 + i % 20, "subsampling": "4:2:0"}), category=["photos", "faces", "paintings"][i % 3],
                  width=int(chance.integers(200, 1500)), height=int(chance.integers(200, 1500)))
            for i in range(2000 * part, 2000 * part + 2000)
        ]  # fmt: skip
        store.write_part("collect", f"{part:03}", rows, [b""] * len(rows))
    begun = time.process_time()
    done = balance(store, Balance(radius=4), LAW, 0)
    assert time.process_time() - begun < 60
    assert done.kept > 190_000
