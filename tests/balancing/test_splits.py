"""Groups stay whole, and every stratum is divided in its shares."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build.balancing.splits import assign
from imaginet_build.errors import UsageError

SHARES = {"train": 0.7, "calibration": 0.1, "test": 0.2}


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), min_size=1, max_size=80), st.integers(0, 3))
def test_a_group_is_in_one_split(rows: list[tuple[int, str]], seed: int) -> None:
    groups, strata = [f"g{g}" for g, _ in rows], [s for _, s in rows]
    split = assign(groups, strata, SHARES, seed)
    assert all(len({s for s, g in zip(split, groups, strict=True) if g == name}) == 1 for name in groups)
    assert split == assign(groups, strata, SHARES, seed)


def test_single_rows_meet_the_shares_in_every_stratum() -> None:
    groups = [f"g{i}" for i in range(1000)]
    strata = ["many" if i % 4 else "few" for i in range(1000)]
    counts = Counter(zip(strata, assign(groups, strata, SHARES, 0), strict=True))
    for stratum, total in (("many", 750), ("few", 250)):
        for split, share in SHARES.items():
            assert abs(counts[stratum, split] - share * total) <= 1


def test_even_a_handful_reaches_every_split() -> None:
    groups = [f"g{i}" for i in range(10)]
    assert set(assign(groups, ["one"] * 10, SHARES, 0)) == set(SHARES)


def test_the_seed_decides_who_and_not_how_many() -> None:
    groups = [f"g{i}" for i in range(100)]
    a, b = (assign(groups, ["one"] * 100, SHARES, seed) for seed in (0, 1))
    assert a != b
    assert Counter(a) == Counter(b)


def test_the_order_of_rows_does_not_matter() -> None:
    groups, strata = [f"g{i % 40}" for i in range(90)], ["xyz"[i % 3] for i in range(90)]
    there = dict(zip(groups, assign(groups, strata, SHARES, 0), strict=True))
    back = dict(zip(groups[::-1], assign(groups[::-1], strata[::-1], SHARES, 0), strict=True))
    assert there == back


def test_what_is_held_out_goes_to_the_test_with_its_group() -> None:
    groups = ["a", "a", "b", "c", "d", "e", "f"]
    held = [True, False, False, False, False, False, False]
    split = assign(groups, ["one"] * 7, SHARES, 0, held)
    assert split[:2] == ["test", "test"]
    assert "train" in split[2:]


def test_a_share_of_nothing_gets_nothing() -> None:
    assert set(assign([f"g{i}" for i in range(50)], ["one"] * 50, {"train": 0.8, "calibration": 0.0, "test": 0.2}, 0)) == {
        "train",
        "test",
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), min_size=40, max_size=120))
def test_a_cell_of_many_small_generators_meets_its_shares_too(rows: list[tuple[str, int]]) -> None:
    groups = [f"g{i}" for i in range(len(rows))]
    cells = [cell for cell, _ in rows]
    split = assign(groups, [f"{cell}{maker}" for cell, maker in rows], SHARES, 0, cells=cells)
    for cell in set(cells):
        counts = Counter(s for s, c in zip(split, cells, strict=True) if c == cell)
        assert all(abs(counts[name] - share * cells.count(cell)) <= 1.5 for name, share in SHARES.items())


def test_three_groups_are_enough_for_three_splits() -> None:
    groups = ["a"] * 9 + ["b"] * 5 + ["c"] * 4
    assert set(assign(groups, ["one"] * 18, SHARES, 0)) == set(SHARES)


def test_pairs_of_both_classes_keep_the_shares_of_both() -> None:
    groups = [f"g{i // 2}" for i in range(400)] + [f"s{i}" for i in range(100)]
    strata = ["real", "fake"] * 200 + ["fake"] * 100
    counts = Counter(zip(strata, assign(groups, strata, SHARES, 0), strict=True))
    for stratum, total in (("real", 200), ("fake", 300)):
        assert all(abs(counts[stratum, split] - share * total) <= 1 for split, share in SHARES.items())


def test_what_is_held_out_does_not_push_others_of_its_cell_out_of_the_test() -> None:
    groups = [f"g{i}" for i in range(200)]
    strata = ["new" if i < 100 else "old" for i in range(200)]
    split = assign(groups, strata, SHARES, 0, [name == "new" for name in strata], ["fake"] * 200)
    assert Counter(zip(strata, split, strict=True)) == {
        ("new", "test"): 100, ("old", "train"): 70, ("old", "calibration"): 10, ("old", "test"): 20
    }  # fmt: skip


def test_holding_out_without_a_test_split_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"balance\.splits\.test"):
        assign(["a"], ["one"], {"train": 1.0}, 0, [True])


def test_another_stratum_moves_nobody() -> None:
    groups, strata = [f"g{i}" for i in range(100)], ["one"] * 100
    alone = assign(groups, strata, SHARES, 0)
    assert alone == assign([*groups, *(f"h{i}" for i in range(37))], strata + ["another"] * 37, SHARES, 0)[:100]


@pytest.mark.prove
def test_a_million_rows() -> None:
    chance = np.random.default_rng(0)
    groups = [f"g{i}" for i in chance.integers(0, 800_000, 1_000_000)]
    strata = [f"s{i}" for i in chance.integers(0, 40, 1_000_000)]
    split = assign(groups, strata, SHARES, 0)
    counts = Counter(zip(strata, split, strict=True))
    for stratum, total in Counter(strata).items():
        assert all(abs(counts[stratum, name] - share * total) <= 3 for name, share in SHARES.items())
