"""Groups stay whole, and every stratum is divided in its shares."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from imaginet_build.splits import assign

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
