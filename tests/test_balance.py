"""The plan: what stays, where it goes, and what is said of the rest."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from scipy import stats

from imaginet_build.balance import Balanced, balance, composition
from imaginet_build.balancing import planfile
from imaginet_build.balancing.cells import Bucket, Cell
from imaginet_build.balancing.pool import COLUMNS
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import FACT_SCHEMA, random_of
from imaginet_build.running.summaries import balance_text
from imaginet_build.store import Store, StoreError

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
    assert real.reason == synthetic.reason == "11 real images of photos limit it: 44 more of at least 64 px would fill it"


def test_a_full_cell_has_nothing_to_say(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(30, 30), Balance(splits={"train": 1.0}))
    assert [(cell.asked, cell.kept, cell.reason) for cell in done.cells] == [(30, 30, "")] * 2


def test_what_is_asked_is_the_share_and_not_what_there_is(tmp_path: Path) -> None:
    rows = mixed(90, 0) + [facts(20_000 + i, origin="synthetic", generator="a" if i < 80 else "b") for i in range(90)]
    done, _ = planned(tmp_path, rows, Balance(splits={"train": 1.0}, per_cell=60))
    cells = {cell.generator_or_source: cell for cell in done.cells}
    assert {name: (cell.asked, cell.kept) for name, cell in cells.items()} == {"a": (30, 50), "b": (30, 10), "camera": (60, 60)}
    assert cells["b"].reason == "it has 10 usable images: 20 more of at least 64 px would fill its share"


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
        == "10 real and 10 synthetic images of photos limit it: 990 real and 990 synthetic more of at least 64 px would fill it"
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
    assert "balance.held_out.generators names 'sdlx', and no image is by it; did you mean 'sdxl'?" in caplog.text


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


def test_where_every_image_is_screened_out_it_says_what_is_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done, plan = planned(tmp_path, mixed(5, 5, contrast=0.0), Balance(per_cell=3))
    assert set(plan["reason"]) == {"blank"}
    assert [(a.origin, a.count) for a in done.add] == [("real", 3), ("synthetic", 3)]
    assert all("left out: 5 blank" in cell.reason for cell in done.cells if cell.generator_or_source != "any")
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
    assert "cannot be read as its facts have it: contradicted" in caplog.text


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
    assert faces.reason == "0 synthetic images of faces limit it: 3 more of at least 64 px would fill it"
    empty = next(cell for cell in done.cells if cell.category == "faces" and cell.origin == "synthetic")
    assert (empty.generator_or_source, empty.asked, empty.kept) == ("any", 3, 0)
    assert empty.reason == "there is no synthetic image of faces: 3 of at least 64 px would fill it"
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


@pytest.mark.parametrize("law", [LAW, Equalize()], ids=["fixed", "auto"])
@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (mixed(11, 55), Balance()),
        (mixed(40, 0) + [facts(20_000 + i, origin="synthetic", generator="aab"[i % 3]) for i in range(25)], Balance()),
        (
            mixed(30, 0) + [facts(20_000 + i, origin="synthetic", generator="aab"[i % 3]) for i in range(45)],
            Balance(per_cell=50),
        ),
        (mixed(90, 90), Balance(per_cell=100, splits={"train": 0.5, "test": 0.5}, sources={"camera": 1.0, "phone": 3.0})),
        ([*mixed(20, 20), *(facts(60_000 + i, category="faces") for i in range(9))], Balance()),
        ([*mixed(30, 20), *(facts(60_000 + i, category="faces", width=40) for i in range(9))], Balance(per_cell=25)),
        (mixed(60, 0) + [facts(10_000 + i, origin="synthetic", prompt="one") for i in range(40)], Balance(per_cell=60)),
    ],
    ids=["one class", "generators", "both classes", "sources", "empty cell", "nothing usable", "one group"],
)  # fmt: skip
def test_adding_exactly_what_is_said_fills_every_cell(
    tmp_path: Path, rows: list[dict[str, object]], settings: Balance, law: Equalize
) -> None:
    store = Store(tmp_path)
    store.write_part("collect", "one", rows, [b""] * len(rows))
    done = balance(store, settings, law, 0)
    assert any(cell.kept < cell.asked for cell in done.cells)
    assert all(cell.reason for cell in done.cells if cell.kept < cell.asked)
    more = []
    for addition in done.add:
        assert addition.min_side >= 64
        name = {"real": "source", "synthetic": "generator"}[addition.origin]
        maker = "anything" if addition.generator_or_source == "any" else addition.generator_or_source
        size = {"width": addition.min_side, "height": addition.min_side, "category": addition.category}
        more += [facts(900_000 + len(more) + i, **size, origin=addition.origin, **{name: maker}) for i in range(addition.count)]
    store.write_part("collect", "two", more, [b""] * len(more))
    again = balance(store, settings, law, 0)
    assert {(c.category, c.origin, c.generator_or_source): (c.kept, c.reason) for c in again.cells if c.kept < c.asked} == {}
    assert not again.add


def test_sizes_and_aspects_that_are_short_say_what_would_fill_them(tmp_path: Path) -> None:
    """1,240 more faces of at least 512 px, though there are enough smaller ones."""
    rows = [facts(i, width=400 if i < 1500 else 700, height=400 if i < 1500 else 700, category="faces") for i in range(1510)]
    rows += [facts(10_000 + i, origin="synthetic", width=700, height=700, category="faces") for i in range(2500)]
    settings = Balance(per_cell=2500, splits={"train": 1.0}, sizes={"256": 0.5, "512": 0.5}, aspects={"square": 1.0})
    store = Store(tmp_path)
    store.write_part("collect", "one", rows, [b""] * len(rows))
    done = balance(store, settings, LAW, 0)
    real = next(b for b in done.buckets if (b.origin, b.bucket) == ("real", "512 px"))
    assert (real.asked, real.reason) == (
        1250,
        f"{1250 - real.kept:,} are missing: 1,240 more of at least 512 px, square would fill it",
    )
    more = [
        facts(20_000 + 9000 * (a.origin == "real") + i, width=a.min_side, height=a.min_side, category="faces", origin=a.origin)
        for a in done.add
        for i in range(a.count)
    ]
    store.write_part("collect", "two", more, [b""] * len(more))
    again = balance(store, settings, LAW, 0)
    assert [b.reason for b in again.buckets] == [""] * 6
    assert not again.add


def filled(store: Store, done: Balanced, settings: Balance, seed: int = 0) -> Balanced:
    """The plan once exactly what was said has been added."""
    more: list[dict[str, object]] = []
    for one in done.add:
        name = {"real": "source", "synthetic": "generator"}[one.origin]
        maker = "anything" if one.generator_or_source == "any" else one.generator_or_source
        wide, high = {"portrait": (1.0, 1.5), "landscape": (1.5, 1.0)}.get(one.aspect or "square", (1.0, 1.0))
        size = {"width": int(wide * one.min_side), "height": int(high * one.min_side), "category": one.category}
        more += [facts(900_000 + len(more) + i, **size, origin=one.origin, **{name: maker}) for i in range(one.count)]
    store.write_part("collect", "added", more, [b""] * len(more))
    return balance(store, settings, LAW, seed)


def test_with_max_an_addition_that_raises_what_is_asked_is_counted_in(tmp_path: Path) -> None:
    """50 of a size would fill today's total, and the total would be 150 then, and so on up to 200."""
    rows = [facts(i, width=300, height=300) for i in range(100)]
    rows += [facts(10_000 + i, origin="synthetic", width=150, height=150) for i in range(100)]
    settings = Balance(splits={"train": 1.0}, sizes={"128": 0.5, "256": 0.5})
    done, _ = planned(tmp_path, rows, settings)
    assert [(a.origin, a.count, a.min_side, a.max_side) for a in done.add] == [
        ("real", 100, 128, 255), ("synthetic", 100, 256, None)
    ]  # fmt: skip
    again = filled(Store(tmp_path / "work"), done, settings)
    assert sorted((cell.kept, cell.reason) for cell in again.cells) == [(100, ""), (100, ""), (200, "")]
    assert {(bucket.kept, bucket.reason) for bucket in again.buckets} == {(100, "")}
    assert not again.add


def test_with_max_nothing_is_promised_where_every_addition_asks_for_more(tmp_path: Path) -> None:
    """Images in none of the recipe's sizes count for the total, and no size has room for them."""
    rows = [facts(i, width=100 if i < 9 else 300, height=300) for i in range(20)]
    rows += [facts(10_000 + i, origin="synthetic", width=300, height=300) for i in range(15)]
    done, _ = planned(tmp_path, rows, Balance(splits={"train": 1.0}, sizes={"256": 1.0}))
    assert not done.add
    assert {cell.reason for cell in done.cells if cell.kept < cell.asked} == {
        "15 synthetic images of photos limit it, and no set of additions fills it: some images of photos are in none of the "
        'sizes or aspects of the recipe, and with balance.per_cell = "max" every addition raises what is asked; give '
        "balance.per_cell a number"
    }
    assert not any("would fill" in bucket.reason for bucket in done.buckets)


MAKERS = {"real": ("source", ("r0", "r1")), "synthetic": ("generator", ("s0", "s1", "s2"))}


@st.composite
def wanting(draw: st.DrawFn) -> tuple[list[dict[str, object]], Balance]:
    """Images of several makers and sizes, and a recipe which wants something else."""
    rows: list[dict[str, object]] = []
    for origin, (key, makers) in MAKERS.items():
        for width, height in draw(
            st.lists(st.sampled_from([(90, 90), (90, 140), (200, 200), (210, 140)]), min_size=1, max_size=9)
        ):
            changes = {"width": width, "height": height, key: draw(st.sampled_from(makers))}
            if draw(st.integers(0, 3)) == 0:
                changes["group"] = f"shared {draw(st.integers(0, 1))}"
            rows.append(facts(len(rows), origin=origin, **changes))
    sizes: dict[str, float] = draw(st.sampled_from([{"64": 0.5, "128": 0.5}, {"64": 0.2, "128": 0.8}, {}, {"64": 1.0}]))
    aspects: dict[str, float] = draw(st.sampled_from([{"portrait": 0.2, "square": 0.6, "landscape": 0.2}, {"square": 1.0}, {}]))
    return rows, Balance.model_validate(
        {
            "sizes": sizes,
            "aspects": aspects,
            "per_cell": draw(st.sampled_from(["max", "max", 12])),
            "generators": draw(st.sampled_from([{}, {"s0": 3.0}])),
            "sources": draw(st.sampled_from([{}, {"r0": 2.0}])),
            "splits": draw(st.sampled_from([{"train": 1.0}, {"train": 0.5, "test": 0.5}])),
        }
    )


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(wanting())
def test_what_is_promised_comes_true_with_several_makers_sizes_and_aspects(
    case: tuple[list[dict[str, object]], Balance],
) -> None:
    rows, settings = case
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.write_part("collect", "one", rows, [b""] * len(rows))
        done = balance(store, settings, LAW, 0)
        every: list[Cell | Bucket] = [*done.cells, *done.buckets]
        short = [one for one in every if one.kept < one.asked]
        assert all(one.reason for one in short)
        hypothesis.target(float(sum(a.count for a in done.add)))
        if not done.add:
            assert not any("would fill" in one.reason for one in short)
            return
        again = filled(store, done, settings)
        every = [*again.cells, *again.buckets]
        left = [one for one in every if one.kept < one.asked]
        # A source without a weight shares by what it holds, and gives way to what the recipe does ask for.
        assert [one for one in left if not one.reason.startswith("the other sources fill the cell")] == []
        assert not again.add


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"generators": {"sdxl": 0}}, "generators.sdxl"), ({"sources": {"camera": 0}}, "sources.camera")],
)
def test_a_weight_of_zero_is_named(tmp_path: Path, settings: dict[str, object], name: str) -> None:
    done, _ = planned(tmp_path, mixed(20, 20), Balance.model_validate({"splits": {"train": 1.0}, **settings}))
    maker = name.partition(".")[2]
    said = f"{maker} holds 20 images but its weight is 0: raise balance.{name}"
    reasons = {(cell.generator_or_source): cell.reason for cell in done.cells}
    other = {"sdxl": "camera", "camera": "sdxl"}[maker]
    assert "fill every cell (any: of whoever has a weight in the recipe)" in balance_text(done.to_json())
    assert reasons["any"] == f"{said}; or 20 of at least 64 px by another would fill it"
    assert reasons[other] == f"there is nothing of the other class to match: {said}"


def test_weights_of_zero_on_both_sides_are_named(tmp_path: Path) -> None:
    settings = Balance.model_validate({"generators": {"sdxl": 0}, "sources": {"camera": 0}})
    done, _ = planned(tmp_path, mixed(20, 20), settings)
    said = [cell.reason for cell in done.cells if cell.generator_or_source == "any"]
    assert said == [
        "camera holds 20 images but its weight is 0: raise balance.sources.camera",
        "sdxl holds 20 images but its weight is 0: raise balance.generators.sdxl",
    ]


@pytest.mark.parametrize("per_cell", ["max", 50])
def test_a_screen_that_leaves_nothing_says_what_it_left_out(tmp_path: Path, per_cell: object) -> None:
    settings = Balance.model_validate({"per_cell": per_cell, "screen": {"min_side": 100_000}})
    done, _ = planned(tmp_path, mixed(12, 20), settings)
    assert done.kept == 0
    for cell, count in zip(done.cells, (12, 20), strict=True):
        assert cell.reason.endswith(
            f"left out: {count} too-small (the largest short side here is 160 px, at least 100,000 px is asked)"
        )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"width": 0}, "width is 0"),
        ({"height": -3}, "height is -3"),
        ({"nbytes": 0}, "nbytes is 0"),
        ({"sha256": ""}, "sha256 is missing"),
        ({"sha256": "zz"}, "sha256 is zz"),
        ({"width": 10**9}, "width is 1000000000"),
        ({"origin": "alien"}, "origin is alien"),
        ({"category": ""}, "category is missing"),
    ],
)
def test_facts_that_no_image_can_have_are_refused_by_name(tmp_path: Path, fault: dict[str, object], said: str) -> None:
    rows = mixed(5, 5)
    rows[3] |= fault
    with pytest.raises(UsageError, match=f"the facts of image 00000003 are impossible: its {said}; remove the part"):
        planned(tmp_path, rows)


@pytest.mark.parametrize("name", [field.name for field in FACT_SCHEMA if not field.nullable and field.name in COLUMNS])
def test_a_part_that_lacks_a_fact_is_refused_by_name(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    path = store.write_part("collect", "one", mixed(5, 5), [b""] * 10)
    table = pq.read_table(path)
    at = table.schema.get_field_index(name)
    nothing = pa.nulls(10, table.schema.field(name).type)
    pq.write_table(table.set_column(at, pa.field(name, nothing.type), nothing), path)
    whose = "None" if name == "id" else "00000000"
    said = f"image {whose} are impossible: its {name} is missing (and 9 images more); remove {path} and run"
    with pytest.raises(StoreError, match=re.escape(said)):
        balance(store, Balance(), LAW, 0)


def test_a_part_whose_facts_are_of_another_kind_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write_part("collect", "one", mixed(5, 5), [b""] * 10)
    table = pq.read_table(path)
    at = table.schema.get_field_index("width")
    pq.write_table(table.set_column(at, "width", pa.array(["wide"] * 10)), path)
    with pytest.raises(StoreError, match=re.escape(f"{path} holds facts of another kind")):
        balance(store, Balance(), LAW, 0)


def test_one_fewer_than_what_is_said_fills_less(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, [*mixed(11, 55), *(facts(900_000 + i) for i in range(43))])
    assert [(a.origin, a.generator_or_source, a.count) for a in done.add] == [("real", "any", 1)]


def test_the_cheapest_thing_to_add_is_said_in_words(tmp_path: Path) -> None:
    rows = [facts(i, category="faces", width=700, height=600) for i in range(10)]
    rows += [facts(10_000 + i, category="faces", origin="synthetic", width=700, height=600) for i in range(1250)]
    done, _ = planned(tmp_path, rows, Balance.model_validate({"screen": {"min_side": 512}}))
    assert done.cells[0].reason == "10 real images of faces limit it: 1,240 more of at least 512 px would fill it"
    assert [(a.category, a.origin, a.count, a.min_side) for a in done.add] == [("faces", "real", 1240, 512)]


def test_a_target_out_of_this_world_is_a_number_like_any_other(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(10, 10), Balance(per_cell=10**9))
    assert done.kept == 20
    assert [a.count for a in done.add] == [10**9 - 10] * 2


def test_a_part_that_vanished_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    for name, rows in (("one", mixed(10, 10)), ("two", [facts(500 + i) for i in range(7)])):
        store.write_part("collect", name, rows, [b""] * len(rows))
    balance(store, Balance(), LAW, 0)
    (tmp_path / "parts" / "collect" / "two.parquet").unlink()
    assert balance(store, Balance(), LAW, 0).kept == 20
    assert "7 images of the last plan are in no part of" in caplog.text
    assert "such as 00000500: a part has vanished" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"held_out": {"generators": ["sdxl"]}}, "takes every synthetic image for the test split"),
        ({"held_out": {"sources": ["camera"]}}, "takes every real image for the test split"),
        ({"hold_out": ["sdxl"], "generators": {"sdxl": 0.0}}, "gives it no weight"),
        ({"hold_out": ["sdxl"], "splits": {"train": 1.0}}, "give balance.splits.test a share"),
    ],
)
def test_held_out_settings_that_contradict_each_other_are_refused_in_words(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        planned(tmp_path, mixed(10, 10), Balance.model_validate(settings))


def test_a_category_that_is_held_out_whole_is_for_the_test_alone_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*mixed(20, 20), *(facts(50_000 + i, category="faces", source="new") for i in range(8))]
    rows += [facts(60_000 + i, category="faces", origin="synthetic") for i in range(8)]
    _, plan = planned(tmp_path, rows, Balance.model_validate({"held_out": {"sources": ["new"]}}))
    assert set(plan[plan["category"] == "faces"]["split"]) == {"test"}
    assert "every real image of faces is held out: train and calibration will have none of this category" in caplog.text


def test_everything_may_be_held_out_where_there_is_nothing_but_a_test(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(10, 10), Balance(hold_out=["sdxl"], splits={"test": 1.0}))
    assert done.splits["test"] == {"real": 10, "synthetic": 10}


def test_held_out_sources_and_release_dates_are_in_the_test_split_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shipped cards say that Qwen-Image is of August and Z-Image of November 2025."""
    rows = [facts(i, source="old" if i < 60 else "new") for i in range(80)]
    makers = ["sdxl"] * 60 + ["qwen-image"] * 10 + ["z-image-turbo"] * 10
    rows += [facts(10_000 + i, origin="synthetic", generator=name) for i, name in enumerate(makers)]
    window = {"sources": ["new"], "released_after": "2025-08-01", "released_before": "2025-10-01"}
    _, plan = planned(tmp_path, rows, Balance.model_validate({"held_out": window}))
    kept = plan[plan["keep"]]
    where = {name: set(part["split"]) for name, part in kept.groupby("generator_or_source")}
    assert where["new"] == where["qwen-image"] == {"test"}
    assert where["old"] == where["sdxl"] == {"train", "calibration", "test"}
    assert len(where["z-image-turbo"]) > 1
    assert "nothing says when these were released, so they are not held out: sdxl, new, old" in caplog.text


def test_what_is_held_out_comes_on_top_of_the_share_of_the_test(tmp_path: Path) -> None:
    rows = mixed(200, 100) + [facts(30_000 + i, origin="synthetic", generator="new") for i in range(100)]
    done, plan = planned(tmp_path, rows, Balance(hold_out=["new"]))
    assert {split: n["real"] for split, n in done.splits.items()} == {"train": 70, "calibration": 10, "test": 120}
    assert Counter(plan[plan["generator_or_source"] == "sdxl"]["split"]) == {"train": 70, "calibration": 10, "test": 20}


def test_a_held_out_generator_for_which_the_test_has_no_room_says_so(tmp_path: Path) -> None:
    rows = mixed(300, 100) + [facts(30_000 + i, origin="synthetic", generator="new") for i in range(100)]
    done, _ = planned(tmp_path, rows, Balance(hold_out=["new"], per_cell=100))
    new = next(cell for cell in done.cells if cell.generator_or_source == "new")
    assert (new.asked, new.kept) == (50, 20)
    assert "held out for the test split, which has no room for 30 of its share" in new.reason


@pytest.mark.parametrize("same", [{"pixel_hash": "0" * 64, "phash": 0, "phash_mirror": 0}, {"phash": 0, "phash_mirror": 0}])
def test_hashes_that_are_all_zero_are_answered(tmp_path: Path, same: dict[str, object]) -> None:
    """Of one picture many times nothing can be kept, since it carries both labels; a hash alone proves nothing."""
    done, plan = planned(tmp_path, mixed(150, 150, **same))
    if "pixel_hash" in same:
        assert done.kept == 0
        assert set(plan["reason"]) <= {"twin", "label-conflict"}
    else:
        assert done.kept > 0


def test_the_plan_says_what_it_was_made_from_and_can_be_made_again(tmp_path: Path) -> None:
    asked = Balance(per_cell=30, hold_out=["b"])
    rows = mixed(90, 0) + [facts(20_000 + i, origin="synthetic", generator="ab"[i % 2]) for i in range(60)]
    planned(tmp_path / "a", rows, asked, seed=5)
    store = Store(tmp_path / "a" / "work")
    said = planfile.made_from(store.plan_path)
    assert said is not None
    other = Store(tmp_path / "b")
    other.write_part("collect", "all", rows[::-1], [b""] * len(rows))
    balance(other, Balance.model_validate(said["balance"]), Equalize.model_validate(said["equalize"]), said["seed"])
    assert other.plan_path.read_bytes() == store.plan_path.read_bytes()


def test_shares_of_sizes_are_kept_and_both_laws_are_stated(tmp_path: Path) -> None:
    rows = [facts(i, width=[300, 700][i % 2], height=700, nbytes=1000) for i in range(80)]
    rows += [facts(10_000 + i, origin="synthetic", width=[300, 700][i % 2], height=700, nbytes=500) for i in range(80)]
    done, _ = planned(tmp_path, rows, Balance(per_cell=40, splits={"train": 1.0}, sizes={"256": 0.5, "512": 0.5}))
    assert done.law is not None
    assert done.law["equalized"] == {"size": 0.0, "aspect": 0.0, "quality": 0.0}
    assert done.law["native"]["size"] == 0.0
    assert done.bytes_per_pixel == {
        "real": round(40_000 / (20 * 700 * 1000), 4),
        "synthetic": round(20_000 / (20 * 700 * 1000), 4),
    }
