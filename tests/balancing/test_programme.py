"""The integer programme: what it must keep to, what it wants first, and that it is never the machine that decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaginet_build.balancing import choice
from imaginet_build.balancing.choice import Candidates, Problem, choose
from imaginet_build.balancing.highs import Model
from imaginet_build.balancing.programme import parts, quotas, settle
from imaginet_build.recipe import Balance

ALL = Balance(splits={"train": 1.0})


def candidates(rows: list[dict[str, object]]) -> Candidates:
    """Real JPEGs of 400 x 300 by one camera, each a group of its own, where a row says nothing else."""
    plain = {
        "category": "photos", "synthetic": False, "maker": "camera", "group": None, "pair": None, "width": 400, "height": 300,
        "quality": 85.0, "jpeg": True, "held": False,
    }  # fmt: skip
    full = [plain | row for row in rows]
    objects = {name: np.array([row[name] for row in full], dtype=object) for name in ("category", "maker", "pair")}
    groups = [row["group"] if row["group"] is not None else 10_000 + i for i, row in enumerate(full)]
    return Candidates(
        [f"{i:06}" for i in range(len(full))], objects["category"], np.array([bool(row["synthetic"]) for row in full]),
        objects["maker"], np.array(groups, dtype=np.int64), objects["pair"],
        *(np.array([row[name] for row in full], dtype=np.int64) for name in ("width", "height")),
        np.array([row["quality"] for row in full], dtype=float),
        *(np.array([bool(row[n]) for row in full]) for n in ("jpeg", "held")),
    )  # fmt: skip


ROW = st.fixed_dictionaries(
    {
        "synthetic": st.booleans(),
        "maker": st.sampled_from("ab"),
        "group": st.integers(0, 9),
        "category": st.sampled_from(["faces", "photos"]),
        "width": st.sampled_from([200, 700]),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ROW, min_size=2, max_size=40), st.sampled_from([3, 10, "max"]))
def test_what_must_hold_always_holds(rows: list[dict[str, object]], per_cell: int | str) -> None:
    images = candidates([row | {"held": row["group"] == 0} for row in rows])
    split, _ = choose(images, Balance(per_cell=per_cell), 0)
    kept = [i for i, name in enumerate(split.tolist()) if name is not None]
    for group in {int(images.group[i]) for i in kept}:
        assert len({split[i] for i in kept if images.group[i] == group}) == 1, "groups are whole"
    assert all(split[i] == "test" for i in kept if images.held[i]), "what is held out is in the test"
    counts = Counter((images.category[i], split[i], bool(images.synthetic[i])) for i in kept)
    for category, name, synthetic in counts:
        assert counts[category, name, synthetic] == counts[category, name, not synthetic], "both origins equally many"
        if per_cell != "max":
            assert (
                counts[category, name, synthetic]
                <= dict(zip(("train", "calibration", "test"), parts(int(per_cell), [0.7, 0.1, 0.2]), strict=True))[name]
            )
    if per_cell == "max" and not images.held.any():
        scarce = sum(
            min(sum((images.category == c) & (images.synthetic == o)) for o in (True, False)) for c in ("faces", "photos")
        )
        assert len(kept) == 2 * scarce, "no image of the scarcer class is wasted"


def test_images_are_chosen_so_that_both_classes_are_alike_from_outside() -> None:
    """Thirty reals of three sizes; ninety fakes, thirty of each size: those that match are kept, however the draw falls."""
    sizes = [(300, 300)] * 15 + [(600, 500)] * 10 + [(1200, 800)] * 5
    reals = [{"width": w, "height": h} for w, h in sizes]
    fakes = [{"synthetic": True, "maker": "g", "width": w, "height": h} for w, h in sorted(set(sizes)) for _ in range(30)]
    images = candidates(reals + fakes)
    for seed in range(3):
        split, how = choose(images, ALL, seed)
        kept = np.array([name is not None for name in split.tolist()])
        found = Counter(images.width[kept & images.synthetic].tolist())
        assert found == {300: 15, 600: 10, 1200: 5}
        assert how[0].distance == 0
        assert how[0].gap == 0


def test_the_shares_of_makers_come_before_the_distance_of_the_laws() -> None:
    reals = [{"width": 300, "height": 300}] * 20
    fakes = [{"synthetic": True, "maker": m, "width": w, "height": w} for m, w in [("like", 300)] * 20 + [("unlike", 900)] * 20]
    split, how = choose(candidates(reals + fakes), ALL, 0)
    kept = [i for i, name in enumerate(split.tolist()) if name is not None and i >= 20]
    assert Counter("like" if i < 40 else "unlike" for i in kept) == {"like": 10, "unlike": 10}
    assert how[0].distance > 0


def test_sizes_and_aspects_meet_their_shares() -> None:
    chance = np.random.default_rng(0)
    rows = [
        {
            "synthetic": bool(i % 2),
            "maker": "m",
            "width": int(chance.choice([300, 700])),
            "height": int(chance.choice([290, 680])),
        }
        for i in range(400)
    ]
    images = candidates(rows)
    wanted = Balance(
        per_cell=80, splits={"train": 1.0}, sizes={"256": 0.75, "512": 0.25}, aspects={"square": 0.5, "landscape": 0.5}
    )
    split, _ = choose(images, wanted, 0)
    kept = np.array([name is not None for name in split.tolist()])
    for synthetic in (True, False):
        mine = kept & (images.synthetic == synthetic)
        assert (np.minimum(images.width, images.height)[mine] >= 512).sum() == 20
        assert (images.width[mine] > 1.1 * images.height[mine]).sum() == 40


def test_pairs_come_first() -> None:
    rows = [{"pair": f"p{i}" if i < 10 else None, "group": i} for i in range(40)]
    rows += [{"synthetic": True, "maker": "vae", "pair": f"p{i}", "group": i, "width": 900} for i in range(10)]
    split, _ = choose(candidates(rows), Balance(), 0)
    assert all(split[i] is not None and split[i] == split[40 + i] for i in range(10))


def test_the_seed_decides_who_and_the_programme_how_many() -> None:
    rows = [
        {"synthetic": bool(i % 3), "maker": "ab"[i % 2], "group": i // 2, "width": [150, 300, 900][i % 7 % 3]}
        for i in range(120)
    ]
    images = candidates(rows)
    one, again, other = (choose(images, Balance(), seed)[0].tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other
    kinds = list(zip(images.synthetic.tolist(), images.maker.tolist(), images.width.tolist(), strict=True))
    assert Counter(zip(kinds, one, strict=True)) == Counter(zip(kinds, other, strict=True))


def test_a_programme_of_bounded_size_places_rare_groups_beside_it_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choice, "COMPOSITIONS", 3)
    monkeypatch.setattr(choice, "KINDS", 12)
    rows = [
        {"synthetic": bool(i % 2), "maker": "abcdef"[i * i % 5], "group": i // 3, "width": 200 + 90 * (i % 7)}
        for i in range(300)
    ]
    with caplog.at_level("INFO"):
        split, how = choose(candidates(rows), Balance(), 0)
    assert how[0].kinds <= 12
    assert how[0].detail < 3
    assert how[0].placed > 0
    assert f"{how[0].placed} groups of rare composition are placed by their shares" in caplog.text
    kept = Counter((name, i % 2) for i, name in enumerate(split.tolist()) if name is not None)
    assert all(kept[name, 0] == kept[name, 1] for name, _ in kept)
    assert sum(kept.values()) > 270


def test_where_the_search_finds_nothing_in_its_bounds_a_smaller_programme_is_tried_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = Model.solve
    asked: list[int] = []

    def sometimes(self: Model, **bounds: float) -> object:
        asked.append(self.width)
        return None if len(asked) == 1 else found(self, **bounds)

    monkeypatch.setattr(Model, "solve", sometimes)
    split, _ = choose(candidates([{"synthetic": bool(i % 2), "maker": "ab"[i % 2]} for i in range(40)]), Balance(), 0)
    assert "once more, with coarser strata" in caplog.text
    assert sum(name is not None for name in split.tolist()) == 40


def test_an_answer_that_may_be_far_from_the_best_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("imaginet_build.balancing.programme.FAIR", -1.0)
    choose(candidates([{"synthetic": bool(i % 2)} for i in range(10)]), Balance(), 0)
    assert "the best plan found may be up to 0.0 % from the best there is" in caplog.text


def test_categories_that_share_no_group_are_programmes_of_their_own() -> None:
    rows = [{"synthetic": bool(i % 2), "category": "abc"[i % 3], "group": i} for i in range(60)]
    assert len(choice.apart(candidates(rows))) == 3
    rows[0]["group"] = rows[1]["group"] = 500
    assert len(choice.apart(candidates(rows))) == 2


@given(st.integers(0, 50), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=6))
def test_quotas_give_no_one_more_than_it_holds_and_waste_nothing(total: int, makers: list[tuple[int, int]]) -> None:
    weights, holds = np.array([float(w) for w, _ in makers]), np.array([h for _, h in makers], dtype=np.int64)
    given_ = quotas(total, weights, holds)
    assert (given_ <= holds).all()
    assert (given_[weights == 0] == 0).all()
    assert given_.sum() == min(total, holds[weights > 0].sum())


def test_near_costs_what_whole_numbers_cost() -> None:
    """Half an image does not exist: between two whole numbers the price is a straight line, so no search is led to a half."""
    model = Model()
    x = model.columns(0, 10, 1)
    model.near(np.zeros(1, dtype=np.int64), x, [3.3], 2.0)
    answer = model.solve()
    assert answer is not None
    assert answer.values[x].tolist() == [3]


def test_more_than_there_is_cannot_be_asked_of_the_programme() -> None:
    problem = Problem(
        candidates([{"synthetic": bool(i % 2)} for i in range(6)]),
        Balance(per_cell=1_000_000),
        ["train", "calibration", "test"],
        0,
        0,
    )
    settled = settle(problem.kinds, problem.groups, problem.wishes)
    assert settled is not None
    assert settled.kept.sum() == 6
