"""The plan: what stays, where it goes, and what is said of the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imaginet_build.balance import Balanced, balance, composition
from imaginet_build.errors import UsageError
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
    assert (real.asked, real.kept) == (55, 11)
    assert real.reason == "44 more real images of photos would fill the cell"
    assert synthetic.reason == "44 surplus, 44 more real images of photos would fill the cell"


def test_a_target_that_cannot_be_met_is_said_and_not_a_failure(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(10, 10), Balance(per_cell=1000, splits={"train": 1.0}))
    assert [cell.asked for cell in done.cells] == [1000, 1000]
    assert [cell.kept for cell in done.cells] == [10, 10]


def test_a_target_is_divided_among_the_splits(tmp_path: Path) -> None:
    done, _ = planned(tmp_path, mixed(200, 200), Balance(per_cell=100))
    assert {split: n["real"] for split, n in done.splits.items()} == {"train": 70, "calibration": 10, "test": 20}


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
    assert "3 more synthetic images of faces" in faces.reason
    assert set(plan[plan["category"] == "faces"]["reason"]) == {"surplus"}


def test_the_composition_is_a_table(tmp_path: Path) -> None:
    planned(tmp_path, mixed(20, 20))
    table = composition(Store(tmp_path / "work").plan())
    assert table.to_numpy().sum() == 40
    assert list(table.columns) == ["train", "calibration", "test"]
