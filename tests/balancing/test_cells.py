"""What each maker is asked for, and the words for what is missing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from imaginet_build.balancing.cells import Addition, Cell, Ground, account, additions, asked, buckets, raised
from imaginet_build.balancing.programme import parts
from imaginet_build.balancing.shortfall import Shopping
from imaginet_build.recipe import Balance


@given(st.integers(0, 1000), st.lists(st.floats(0, 9).map(lambda w: round(w, 3)), min_size=1, max_size=7))
def test_parts_are_whole_and_sum_to_the_total(total: int, weights: list[float]) -> None:
    given_ = parts(total, weights)
    whole = sum(weights)
    assert given_.sum() == (total if whole else 0)
    assert all(abs(n - total * w / whole) < 1 for n, w in zip(given_.tolist(), weights, strict=True) if whole)


def test_where_remainders_tie_the_smaller_share_comes_first() -> None:
    assert parts(10, [0.7, 0.05, 0.25]).tolist() == [7, 1, 2]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), min_size=1, max_size=6), st.integers(0, 60))
def test_what_is_missing_is_asked_of_those_who_are_furthest_below_their_share(
    makers: list[tuple[int, int]], extra: int
) -> None:
    weights = {f"m{i}": float(w) for i, (w, _) in enumerate(makers)}
    holds = {f"m{i}": h for i, (_, h) in enumerate(makers)}
    total = sum(holds.values()) + extra
    levels = raised(total, weights, holds)
    assert sum(levels.values()) == total
    assert all(levels[name] >= holds[name] for name in holds), "nobody is asked for less than it holds"
    highest = max(((levels[n] - 1) / weights[n] for n in holds if levels[n] > holds[n]), default=0.0)
    assert all((levels[n] + 1) / weights[n] > highest for n in holds), "nobody who got more stands above one who could have"


def test_generators_share_by_weight_and_sources_by_what_they_hold() -> None:
    usable = {("p", "real", "x"): 30, ("p", "real", "y"): 10, ("p", "synthetic", "a"): 9, ("p", "synthetic", "b"): 1}
    assert asked(usable, Balance(per_cell=40)) == {
        ("p", "real", "x"): 30, ("p", "real", "y"): 10, ("p", "synthetic", "a"): 20, ("p", "synthetic", "b"): 20
    }  # fmt: skip
    weighed = asked(usable, Balance(per_cell=40, generators={"a": 3.0}, sources={"x": 1.0, "y": 1.0}))
    assert list(weighed.values()) == [20, 20, 30, 10]


def test_with_max_the_poorer_class_is_raised_to_the_richer_one() -> None:
    usable = {("p", "real", "x"): 40, ("p", "synthetic", "a"): 9, ("p", "synthetic", "b"): 1, ("q", "real", "x"): 4}
    assert asked(usable, Balance()) == {
        ("p", "real", "x"): 40, ("p", "synthetic", "a"): 20, ("p", "synthetic", "b"): 20,
        ("q", "real", "x"): 4, ("q", "synthetic", "any"): 4,
    }  # fmt: skip


def test_makers_without_weight_are_asked_for_nothing() -> None:
    usable = {("p", "real", "x"): 4, ("p", "synthetic", "a"): 9, ("p", "synthetic", "b"): 3}
    found = asked(usable, Balance(generators={"a": 0.0}))
    assert (found["p", "synthetic", "a"], found["p", "synthetic", "b"]) == (0, 4)


def test_a_cell_tells_what_was_left_out_besides() -> None:
    found = {("p", "real", "x"): Counter({"": 3, "twin": 2, "surplus": 1}), ("p", "synthetic", "a"): Counter({"": 3})}
    wanted = {("p", "real", "x"): 4, ("p", "synthetic", "a"): 4}
    cells = list(account(Ground(found, wanted, Shopping({}, {}), [Addition("p", "synthetic", "a", 1, 64)]), Balance()))
    said = "3 synthetic images of p limit it: 1 more of at least 64 px would fill it"
    assert cells == [Cell("p", "real", "x", 4, 3, f"{said}; left out: 2 twin"), Cell("p", "synthetic", "a", 4, 3, said)]


def test_the_shopping_list_names_sizes_and_aspects() -> None:
    settings = Balance(sizes={"256": 0.5, "512": 0.5}, aspects={"square": 1.0})
    shopping = Shopping({(("p", "real", "any"), 0, 0): 3, (("p", "real", "any"), 1, 0): 4, (("q", "real", "any"), 0, 0): 5}, {})
    add = additions(shopping, {"p": 300, "q": 512}, settings)
    assert [(a.count, a.looks) for a in add] == [(3, " of 300 to 511 px, square"), (4, " of at least 512 px, square")]


def told(
    kept: dict[tuple[str, str, str], int], asks: int, settings: Balance, add: list[Addition], least: int = 0, tied: str = ""
) -> list[str]:
    """Reasons of the sizes of q's reals, all by x."""
    have = sum(kept.values())
    found = {("q", "real", "x"): Counter({"": have})}
    ground = Ground(found, {("q", "real", "x"): asks}, Shopping({}, {}), add, {"q": least}, tied=frozenset([tied]))
    return [bucket.reason for bucket in buckets(kept, ground, settings.sizes, " px")]


def test_a_bucket_promises_only_what_is_on_the_list() -> None:
    settings = Balance(sizes={"256": 0.5, "512": 0.5})
    other, own = Addition("q", "synthetic", "a", 3, 64), Addition("q", "real", "any", 9, 256, 511)
    nothing = "no set of additions was found that fills this and the shares of splits, generators and sources at once"
    assert told({("q", "real", "256"): 1}, 20, settings, [])[0] == f"9 are missing, and {nothing}"
    waits = "9 are missing: there are enough, and they wait for what the cells lack"
    assert told({("q", "real", "256"): 1}, 20, settings, [other])[0] == waits
    against = "10 are missing: there are enough, but the shares of splits, generators or sources stand against them"
    assert told({("q", "real", "512"): 20}, 20, settings, [other]) == [against, ""]
    assert told({("q", "real", "256"): 1}, 20, settings, [own])[0] == "9 are missing: 9 more of 256 to 511 px would fill it"
    small = "5 are missing: no image so small can be used, since q begins at 512 px"
    assert told({}, 10, settings, [own], least=512)[0] == small


def test_whole_groups_are_blamed_only_where_there_are_any() -> None:
    found = {("p", origin, "x"): Counter({"": 3, "surplus": 1}) for origin in ("real", "synthetic")}
    wanted = dict.fromkeys(found, 4)
    for tied, settings, said in (
        (frozenset("p"), Balance(), "whole groups do not divide evenly among the splits"),
        (frozenset("q"), Balance(), "no set of additions was found that fills this"),
        (frozenset("p"), Balance(splits={"train": 1.0}), "no set of additions was found that fills this"),
    ):
        cells = account(Ground(found, wanted, Shopping({}, {}), [], tied=tied), settings)
        assert all(cell.reason.startswith(said) for cell in cells)
