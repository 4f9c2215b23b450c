"""Who is in the robustness set: whole groups, both classes alike, the same whatever the order; and who is whose partner."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.records import make_id
from imaginet_build.releases.partners import Parents, chosen, partners

Row = tuple[int, int, str, str | None, str, int]
"""Label, content type, maker, pair, group, side."""


def parents_of(rows: list[Row], order: list[int] | None = None) -> Parents:
    """Rows that are called `id <place>`, laid down in `order`."""
    order = order or list(range(len(rows)))
    label, kind, maker, pair, group, side = zip(*(rows[i] for i in order), strict=True)
    return Parents([f"id {i}" for i in order], label, kind, maker, pair, group, side)


ROW = st.tuples(
    st.integers(0, 1),
    st.integers(0, 2),
    st.sampled_from(["a", "b"]),
    st.one_of(st.none(), st.sampled_from(["p", "q", "r"])),
    st.sampled_from([f"g{i}" for i in range(40)]),
    st.integers(64, 70),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, min_size=2, max_size=60), st.integers(2, 60), st.integers(0, 3), st.randoms(use_true_random=False))
def test_groups_are_whole_and_the_order_of_rows_does_not_matter(rows: list[Row], limit: int, seed: int, random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    found = set(chosen(parents_of(rows), range(len(rows)), limit, seed))
    again = {order[i] for i in chosen(parents_of(rows, order), range(len(rows)), limit, seed)}
    assert again == found
    assert len(found) <= limit or limit >= len(rows)
    if limit < len(rows):
        for group in {rows[i][4] for i in found}:
            assert {i for i, row in enumerate(rows) if row[4] == group} <= found


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=50))
def test_partners_are_one_of_each_class_and_content_type(rows: list[Row]) -> None:
    told = partners(parents_of(rows), range(len(rows)))
    assert told.keys() == set(range(len(rows)))
    for key, count in Counter(key for key, _ in told.values()).items():
        own = [i for i in told if told[i][0] == key]
        assert count in (1, 2)
        assert sorted(rows[i][0] for i in own) in ([0], [1], [0, 1])
        assert len({rows[i][1] for i in own}) == 1
        assert {told[i][1] for i in own} == {min(rows[i][5] for i in own)}
    for kind in range(3):
        alone = Counter(rows[i][0] for i in told if rows[i][1] == kind and told[i][0] == make_id("robustness", f"id {i}"))
        have = Counter(row[0] for row in rows if row[1] == kind)
        assert sum(alone.values()) == abs(have[0] - have[1])


def many() -> list[Row]:
    """Three content types of 400, 200 and 100 images a class; four makers in shares of 1 to 4; some groups of two and three."""
    rows: list[Row] = []
    for kind, count in enumerate((400, 200, 100)):
        for label in (0, 1):
            for i in range(count):
                group = f"{kind} {label} {i // (3 if label and i < 90 else 1)}"
                rows.append((label, kind, f"m{label}{(0, 1, 1, 2, 2, 2, 3, 3, 3, 3)[i % 10]}", None, group, 256 + i % 7))
    return rows


@pytest.mark.parametrize("limit", [100, 350, 701])
def test_classes_content_types_and_makers_keep_their_shares(limit: int) -> None:
    rows = many()
    found = chosen(parents_of(rows), range(len(rows)), limit, 0)
    cells = Counter((rows[i][1], rows[i][0]) for i in found)
    assert limit - 8 <= len(found) <= limit
    for kind, share in enumerate((4 / 7, 2 / 7, 1 / 7)):
        assert cells[kind, 0] == pytest.approx(limit / 2 * share, abs=2)
        assert abs(cells[kind, 0] - cells[kind, 1]) <= 2
    made = Counter(rows[i][2] for i in found if rows[i][0])
    assert [made[f"m1{k}"] / sum(made.values()) for k in range(4)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4], abs=0.1 if limit < 200 else 0.05
    )


def test_another_seed_takes_others_and_no_limit_takes_all() -> None:
    rows = many()
    first, second = (chosen(parents_of(rows), range(len(rows)), 100, seed) for seed in (0, 1))
    assert first != second
    assert chosen(parents_of(rows), range(len(rows)), None, 0) == list(range(1400))


def test_classes_of_single_images_are_exactly_alike() -> None:
    rows: list[Row] = [(i % 2, 0, "m", None, f"g{i}", 256) for i in range(101)]
    found = chosen(parents_of(rows), range(101), 60, 0)
    assert Counter(rows[i][0] for i in found) == {0: 30, 1: 30}


def test_images_of_one_pair_are_partners_and_the_rest_meet_by_size() -> None:
    rows: list[Row] = [
        (0, 0, "s", "p", "g", 512), (0, 0, "s", None, "h", 256), (0, 0, "s", None, "i", 768),
        (1, 0, "m", None, "j", 800), (1, 0, "m", "p", "g", 512), (1, 0, "m", None, "k", 300),
    ]  # fmt: skip
    told = partners(parents_of(rows), range(6))
    assert told[0] == told[4] == (make_id("robustness", "id 0", "id 4"), 512)
    assert told[1] == told[5] == (make_id("robustness", "id 1", "id 5"), 256)
    assert told[2] == told[3] == (make_id("robustness", "id 2", "id 3"), 768)
