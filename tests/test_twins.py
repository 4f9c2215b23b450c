"""Who is a twin of whom: the rules of DESIGN, on hashes made up for each case."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build import twins

FAR = [int(x) for x in np.random.default_rng(5).integers(0, 2**63, 64)]


def table(*rows: dict[str, object]) -> pa.Table:
    """Facts of as many images; by default real, 100 x 100, each a picture of its own that resembles no other."""
    full = [
        {
            "id": f"{i:03}", "origin": "real", "pixel_hash": f"p{i}", "phash": FAR[i], "phash_mirror": FAR[63 - i] ^ 0xFFFF,
            "pair_id": None, "group": f"g{i}", "prompt": None, "width": 100, "height": 100,
        } | row
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(full, schema=pa.schema({
        "id": pa.string(), "origin": pa.string(), "pixel_hash": pa.string(), "phash": pa.uint64(), "phash_mirror": pa.uint64(),
        "pair_id": pa.string(), "group": pa.string(), "prompt": pa.string(), "width": pa.int32(), "height": pa.int32(),
    }))  # fmt: skip


def test_of_two_alike_of_one_origin_the_larger_stays() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 0b111, "width": 200}, {}), radius=3)
    assert found.twin_of.tolist() == [1, -1, -1]
    assert found.near.tolist() == [0, 0, 2]


def test_one_bit_more_is_another_picture() -> None:
    assert twins.find(table({"phash": 0}, {"phash": 0b1111}), radius=3).twin_of.tolist() == [-1, -1]


def test_across_the_origins_both_are_conflicts() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 1, "origin": "synthetic"}), radius=3)
    assert found.twin_of.tolist() == [-1, -1]
    assert found.conflict.tolist() == [1, 0]


def test_a_pair_is_grouped_and_neither_twin_nor_conflict() -> None:
    found = twins.find(table({"phash": 0, "pair_id": "a"}, {"phash": 1, "pair_id": "a", "origin": "synthetic"}), radius=3)
    assert found.conflict.tolist() == [-1, -1]
    assert found.group[0] == found.group[1]


def test_crops_of_one_photograph_are_never_twins_of_each_other() -> None:
    found = twins.find(table({"phash": 0, "group": "sky"}, {"phash": 0, "group": "sky"}), radius=6)
    assert found.twin_of.tolist() == [-1, -1]
    assert found.group[0] == found.group[1]


def test_a_stranger_like_two_crops_is_the_twin_and_not_they() -> None:
    rows = table({"phash": 0, "group": "sky"}, {"phash": 1, "group": "sky"}, {"phash": 1, "width": 50})
    assert twins.find(rows, radius=3).twin_of.tolist() == [-1, -1, 1]


def test_the_one_with_a_partner_stays_so_that_the_pair_is_not_broken() -> None:
    rows = table({"phash": 0, "width": 500}, {"phash": 1, "pair_id": "a"}, {"phash": 3, "pair_id": "a", "origin": "synthetic"})
    found = twins.find(rows, radius=3)
    assert found.twin_of.tolist() == [1, -1, -1]
    assert found.conflict.tolist() == [-1, -1, -1]


def test_a_mirror_image_is_one_both_ways() -> None:
    both = table({"phash": 0b1010, "phash_mirror": FAR[0]}, {"phash": FAR[0], "phash_mirror": 0b1010})
    assert twins.find(both, radius=2).twin_of.tolist() == [-1, 0]
    one = table({"phash": 0b1010, "phash_mirror": FAR[0]}, {"phash": FAR[0], "phash_mirror": FAR[9]})
    assert twins.find(one, radius=2).twin_of.tolist() == [-1, -1]


def test_exact_copies_need_no_hash() -> None:
    assert twins.find(table({"pixel_hash": "same"}, {"pixel_hash": "same"}), radius=0).twin_of.tolist() == [-1, 0]


def test_confirmation_may_refuse() -> None:
    asked = []

    def refuse(i: int, j: int, mirrored: bool) -> bool:
        asked.append((i, j, mirrored))
        return False

    found = twins.find(table({"phash": 0}, {"phash": 1}), radius=3, confirm=refuse)
    assert found.twin_of.tolist() == [-1, -1]
    assert asked == [(1, 0, False)] * len(asked)
    assert found.group[0] == found.group[1], "alike but not the same: still one group, to be safe"


def test_a_prompt_is_one_group() -> None:
    found = twins.find(table({"prompt": "a cat"}, {"prompt": "a dog"}, {"prompt": "a cat"}), radius=3)
    assert found.group.tolist() == [0, 1, 0]


def test_chains_leave_no_kept_row_near_another() -> None:
    found = twins.find(table({"phash": 0}, {"phash": 0b11}, {"phash": 0b1111}), radius=2)
    assert found.twin_of.tolist() == [-1, 0, -1]
    assert len(set(found.group.tolist())) == 1, "a chain is one group although its ends differ"


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.integers(0, 3)), min_size=1, max_size=24), st.integers(0, 2))
def test_what_stays_resembles_nothing_else_that_stays(rows: list[tuple[int, bool, int]], radius: int) -> None:
    facts = table(
        *(
            {"phash": hash_, "phash_mirror": FAR[i] | 1 << 62, "origin": "synthetic" if fake else "real", "group": f"g{group}"}
            for i, (hash_, fake, group) in enumerate(rows)
        )
    )
    found = twins.find(facts, radius)
    stay = [i for i in range(len(rows)) if found.twin_of[i] < 0 and found.conflict[i] < 0]
    for i in stay:
        for j in stay:
            near = (rows[i][0] ^ rows[j][0]).bit_count() <= radius
            if near and rows[i][2] != rows[j][2]:
                raise AssertionError(f"rows {i} and {j} of different pictures resemble each other and both stay")
            if near:
                assert found.group[i] == found.group[j]
    for other in found.twin_of:
        assert other < 0 or found.twin_of[other] < 0, "the twin of a row that stays, not of one that goes"


@pytest.mark.parametrize("group", ["its own", "one"])
def test_a_great_many_alike_are_no_trouble(group: str) -> None:
    n = 20_000
    columns = {
        "id": [f"{i:06}" for i in range(n)],
        "origin": ["real"] * n,
        "pixel_hash": [f"p{i}" for i in range(n)],
        "phash": np.zeros(n, np.uint64),
        "phash_mirror": np.zeros(n, np.uint64),
        "pair_id": [None] * n,
        "group": [f"g{i}" if group == "its own" else "sky" for i in range(n)],
        "prompt": [None] * n,
        "width": np.full(n, 9, np.int32),
        "height": np.full(n, 9, np.int32),
    }
    found = twins.find(pa.table(columns).cast(table({}).schema), 6)
    assert (found.twin_of[1:] == (0 if group == "its own" else -1)).all()
    assert (found.group == 0).all()
