"""Which generator made it: the closed set, the open set, the family."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from imaginet_build.baseline import naming
from imaginet_build.baseline.naming import Named

RANDOM = np.random.default_rng(0)


def alone(truth: list[str]) -> list[str]:
    return [str(i) for i in range(len(truth))]


def named(truth: list[str], answer: np.ndarray, names: list[str], keep: float | None = None) -> Named:
    return Named(truth, alone(truth), [answer], names, None if keep is None else [keep])


def test_names_are_judged_over_those_that_are_known() -> None:
    answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    found = naming.figures(named(["a", "b", "b", "unheard"], answers, ["a", "b"]), 50)
    assert (found["n"], found["unknown"]) == (3, 1)
    assert found["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert (found["balanced_accuracy"], found["macro_auc"]) == (0.75, 1.0)
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high
    assert found["confusion"] == {"true": ["a", "b", "unheard"], "named": ["a", "b"], "counts": [[1, 0], [1, 1], [1, 0]]}
    one = naming.figures(named(["a"], answers[:1], ["a", "b"]), 10)
    assert (one["accuracy"], one["reasons"]["accuracy"]) == (
        None,
        "needs two known generators or families in the test, it has 1",
    )


def plain_oscr(place: np.ndarray, answer: np.ndarray) -> float:
    """By the paper's words: correctly named known images against unknown images let through, the area by trapezoids."""
    sure, right = answer.max(1), answer.argmax(1) == place
    thresholds = np.r_[np.inf, np.unique(sure)[::-1]]
    known = place >= 0
    correct = [(right & known & (sure >= t)).sum() / known.sum() for t in thresholds]
    through = [(~known & (sure >= t)).sum() / (~known).sum() for t in thresholds]
    return float(np.trapezoid(correct, through))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30)
)
def test_oscr_is_the_area_under_the_papers_curve(rows: list[tuple[int, int, int, int]]) -> None:
    place = np.array([row[0] for row in rows])
    raw = np.array([row[1:] for row in rows], float) + 1
    answer = raw / raw.sum(1, keepdims=True)
    assume(0 < (place >= 0).sum() < len(place))
    found = naming.opened(place, answer, np.ones((1, len(place))))
    assert found["oscr"][0] == pytest.approx(plain_oscr(place, answer))
    assert found["auroc"][0] == pytest.approx(roc_auc_score(place >= 0, answer.max(1)))
    accuracy = (answer.argmax(1) == place)[place >= 0].mean()
    assert 0 <= found["oscr"][0] <= accuracy + 1e-12


def test_a_perfect_scorer_has_oscr_one_and_a_constant_one_half_its_accuracy() -> None:
    truth = ["a"] * 30 + ["b"] * 30 + ["new"] * 40
    perfect = np.r_[np.tile([0.98, 0.02], (30, 1)), np.tile([0.02, 0.98], (30, 1)), np.full((40, 2), 0.5)]
    found = naming.figures(named(truth, perfect, ["a", "b"], 0.9), 20)["open_set"]
    assert (found["oscr"], found["auroc"], found["rejected"], found["known_kept"]) == (1, 1, 1, 1)
    assert found["unknown"] == ["new"]
    assert found["intervals"]["oscr"] == [1, 1]
    constant = naming.figures(named(truth, np.tile([0.6, 0.4], (100, 1)), ["a", "b"], 0.5), 0)["open_set"]
    assert (constant["oscr"], constant["auroc"]) == (0.25, 0.5), "half the names right, unknown ones at every height"
    assert (constant["rejected"], constant["known_kept"]) == (0, 1)
    silent = naming.figures(named(truth[:60], perfect[:60], ["a", "b"]), 0)["open_set"]
    assert silent["oscr"] is None
    assert "every generator of the test was trained on" in silent["reason"]
    unfrozen = naming.figures(named(truth, perfect, ["a", "b"]), 0)["open_set"]
    assert unfrozen["rejected"] is None
    assert "calibration split" in unfrozen["reason"]


def test_the_least_probability_keeps_what_it_says_of_the_calibration_split() -> None:
    p = RANDOM.uniform(0.5, 1, 400)
    answer = np.stack([p, 1 - p], axis=1)
    least = naming.least(["a"] * 400, answer, ["a", "b"])
    assert least is not None
    assert (p >= least).mean() == pytest.approx(naming.KEPT, abs=0.01)
    assert naming.least(["new"] * 400, answer, ["a", "b"]) is None


def test_generators_are_summed_to_families() -> None:
    sums, families = naming.merged(np.array([[0.2, 0.3, 0.5]]), ["x", "y", "z"], {"x": "sd", "y": "gan", "z": "sd"})
    assert families == ["gan", "sd"]
    np.testing.assert_allclose(sums, [[0.3, 0.7]])


def test_the_tree_puts_an_unknown_generator_under_its_family() -> None:
    generators, families = ["sd1", "sd1", "sd9", "sd9", "biggan"], ["sd"] * 4 + ["gan"]
    answer = np.array([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    one = named(generators, answer, ["sd1", "biggan"])
    two = named(families, answer, ["sd", "gan"])
    found = naming.tree(generators, families, one, two)
    assert found["sd"]["generators"]["sd1"] == {"n": 2, "named": 0.5, "family_named": 0.5, "known": True}
    assert found["sd"]["generators"]["sd9"] == {"n": 2, "named": None, "family_named": 0.5, "known": False}
    assert found["gan"] == {
        "n": 1, "named": 1, "family_named": 1, "known": True,
        "generators": {"biggan": {"n": 1, "named": 1, "family_named": 1, "known": True}},
    }  # fmt: skip
