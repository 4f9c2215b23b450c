"""Intervals over groups: wide where groups are few, and as often right as they say."""

from __future__ import annotations

import numpy as np
import pytest

from imaginet_build.baseline import intervals


def test_resampling_takes_groups_whole() -> None:
    counts = intervals.resamples(["a", "a", "b", "c", "c", "c"], 50, "test")
    assert np.array_equal(counts[:, 0], counts[:, 1])
    assert np.array_equal(counts[:, 3], counts[:, 5])
    assert np.array_equal(counts[:, [0, 2, 3]].sum(1), np.full(50, 3))


def test_an_interval_over_few_groups_is_wider_than_over_rows() -> None:
    label = np.repeat([0, 1], 100)
    score = np.random.default_rng(0).normal(size=20).repeat(10)[None] + label * 0.8
    few = intervals.interval(label, score, [str(i // 10) for i in range(200)], 300)
    many = intervals.interval(label, score, [str(i) for i in range(200)], 300)
    assert few is not None
    assert many is not None
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_a_figure_the_test_is_too_small_for_is_null_with_the_reason() -> None:
    label = np.array([0] * 30 + [1] * 30)
    scores = np.random.default_rng(0).random((1, 60))
    found = intervals.origin_figures(label, scores, [str(i) for i in range(60)], 20)
    assert (found["tpr_at_fpr_1e-2"], found["tpr_at_fpr_1e-3"]) == (None, None)
    assert found["reasons"]["tpr_at_fpr_1e-2"] == "needs 1000 negatives, the test has 30"
    assert found["reasons"]["tpr_at_fpr_1e-3"] == "needs 10000 negatives, the test has 30"
    assert found["auc"] is not None
    assert found["intervals"]["auc"] == found["ci95"]
    assert set(found["intervals"]) == {"auc", "ap", "balanced_accuracy", "eer", "ece", "brier", "cllr"}
    one = intervals.origin_figures(label, scores, ["a"] * 60, 20)
    assert (one["auc"], one["ci95"], one["balanced_accuracy"], one["intervals"]) == (None, None, None, {})
    assert "needs 5 groups of each class" in one["reasons"]["auc"]


def test_a_large_test_gives_the_rate_at_one_percent_with_its_interval() -> None:
    label = np.repeat([0, 1], 1000)
    score = np.concatenate([np.linspace(0, 1, 1000), np.linspace(0.5, 1.5, 1000)])
    found = intervals.origin_figures(label, score[None], [str(i) for i in range(2000)], 20)
    assert found["tpr_at_fpr_1e-2"] == pytest.approx(0.51, abs=0.002)
    low, high = found["intervals"]["tpr_at_fpr_1e-2"]
    assert low < 0.51 < high
    assert "tpr_at_fpr_1e-2" not in found["reasons"]
    assert "tpr_at_fpr_1e-3" in found["reasons"]


def test_the_oracle_is_labelled_and_the_frozen_threshold_is_what_counts() -> None:
    """Scores in the right order, all below the threshold: the oracle is perfect, the detector is not."""
    label = np.repeat([0, 1], 20)
    found = intervals.origin_figures(label, (label * 0.2 + 0.1)[None], [str(i) for i in range(40)], 0)
    assert (found["auc"], found["balanced_accuracy"], found["oracle"]["balanced_accuracy"]) == (1, 0.5, 1)
    assert "nobody can have it" in found["oracle"]["what"]
    assert found["ci95"] is None


def test_figures_are_medians_over_seeds() -> None:
    label = np.repeat([0, 1], 10)
    scores = np.stack([label * 0.9, 1 - label * 0.9, label * 0.9])
    found = intervals.origin_figures(label, scores, [str(i) for i in range(20)], 10)
    assert (found["auc"], found["balanced_accuracy"]) == (1.0, 1.0)


@pytest.mark.prove
@pytest.mark.parametrize("paired", [True, False], ids=["both classes in a group", "one class a group"])
def test_intervals_cover_as_often_as_they_say(paired: bool) -> None:
    """400 simulated tests of 60 groups of 5 images whose scores move together: 95 % of intervals hold the true figure. By rows
    alone they would do so far less often, which is what the groups are for."""
    random = np.random.default_rng(7)

    def drawn(groups: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        label = random.integers(0, 2, (groups, 5)) if paired else np.repeat(random.integers(0, 2, groups), 5).reshape(groups, 5)
        common = random.normal(0, 1, (groups, 1))
        logit = 1.2 * (label - 0.5) + (0 if paired else common) + random.normal(0, 1, (groups, 5))
        logit = logit + (common * (label - 0.5) * 2 if paired else 0)
        return label.ravel(), 1 / (1 + np.exp(-logit.ravel())), [str(g) for g in np.repeat(np.arange(groups), 5)]

    names = ("auc", "balanced_accuracy", "ap", "eer", "brier")
    truth = intervals.origin_figures(*_with_scores(*drawn(60_000)), 0)
    held = dict.fromkeys(names, 0)
    by_rows = 0
    times = 400
    for _ in range(times):
        label, p, groups = drawn(60)
        found = intervals.origin_figures(label, p[None], groups, 200)["intervals"]
        for name in names:
            held[name] += found[name][0] <= truth[name] <= found[name][1]
        low, high = intervals.interval(label, p[None], [str(i) for i in range(len(label))], 200) or (0, 0)
        by_rows += low <= truth["auc"] <= high
    rates = {name: count / times for name, count in held.items()}
    # A percentile interval of 60 groups falls a little short of 95 %; 400 tests tell rates apart by 0.02.
    assert all(0.90 <= rate <= 0.99 for name, rate in rates.items() if name != "ap"), rates
    assert rates["ap"] >= 0.88, rates
    assert by_rows / times < 0.85, by_rows / times


def _with_scores(label: np.ndarray, p: np.ndarray, groups: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    return label, p[None], groups
