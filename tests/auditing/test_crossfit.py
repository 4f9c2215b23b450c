"""Cross-fitting: groups stay whole, classes weigh alike, chance looks like chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from imaginet_build.auditing import crossfit
from imaginet_build.auditing.crossfit import (
    Cases,
    Guess,
    auc_of,
    counts_of,
    fold_groups,
    guess_all,
    guess_one,
    interval,
    permuted,
    recalls,
    relabelings,
    table_scores,
)  # fmt: skip

BOTH = ("real", "synthetic")


def cases_of(labels: np.ndarray, groups: np.ndarray | None = None) -> Cases:
    return Cases(labels.astype(np.int64), np.arange(len(labels)) if groups is None else groups.astype(np.int64), BOTH)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=6, max_size=120),
    folds=st.integers(2, 5),
)
def test_a_group_is_in_one_fold_and_the_order_of_rows_decides_nothing(rows: list[tuple[int, int]], folds: int) -> None:
    groups = np.unique([g for g, _ in rows], return_inverse=True)[1]
    labels = np.array([label for _, label in rows])
    fold = fold_groups(labels, groups, folds)
    assert all(len(set(fold[groups == g])) == 1 for g in set(groups))
    back = np.random.default_rng(0).permutation(len(rows))
    assert np.array_equal(fold_groups(labels[back], groups[back], folds), fold[back])


def test_every_class_is_spread_over_all_folds() -> None:
    labels = np.repeat([0, 1], [10, 1000])
    fold = fold_groups(labels, np.arange(1010), 5)
    assert np.bincount(fold[labels == 0]).tolist() == [2] * 5
    assert np.bincount(fold[labels == 1]).tolist() == [200] * 5


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=4, max_size=80))
def test_relabeling_keeps_blocks_whole_and_pairs_pairs(rows: list[tuple[int, int]]) -> None:
    groups = np.unique([g for g, _ in rows], return_inverse=True)[1]
    labels = np.array([label for _, label in rows])
    mixed = {g for g in set(groups) if len(set(labels[groups == g])) == 2}
    pure = sorted(int(labels[groups == g][0]) for g in set(groups) if g not in mixed)
    for new in permuted(labels, groups, 5):
        for g in set(groups):
            was, now = labels[groups == g], new[groups == g]
            if g in mixed:
                assert np.array_equal(now, was) or np.array_equal(now, 1 - was)
            else:
                assert len(set(now)) == 1
        assert sorted(int(new[groups == g][0]) for g in set(groups) if g not in mixed) == pure


def alone(codes: np.ndarray, values: int, cases: Cases, times: int = 0) -> Guess:
    return guess_one(codes, values, cases, cases.folds(), relabelings(cases, times))


def together(codes: np.ndarray, ordered: tuple[bool, ...], cases: Cases) -> Guess:
    return guess_all(codes.astype(np.uint8), ordered, cases, cases.folds())[0]


def test_a_fact_that_says_nothing_scores_exactly_one_half() -> None:
    cases = cases_of(np.arange(101) % 2)
    guess = alone(np.zeros(101, np.int64), 1, cases)
    assert (guess.balanced_accuracy, guess.auc) == (0.5, 0.5)
    joint = together(np.zeros((101, 3)), (True, False, True), cases)
    assert joint.balanced_accuracy == 0.5


@pytest.mark.parametrize("ordered", [True, False])
def test_a_fact_that_says_all_scores_one(ordered: bool) -> None:
    labels = np.arange(200) % 2
    guess = together(labels[:, None], (ordered,), cases_of(labels))
    assert guess.balanced_accuracy == 1.0
    assert alone(labels, 2, cases_of(labels), 19).p == 1 / 20


def test_two_facts_that_say_nothing_alone_are_caught_together() -> None:
    random = np.random.default_rng(5)
    a, b = random.integers(0, 2, 600), random.integers(0, 2, 600)
    cases = cases_of(a ^ b)
    assert alone(a, 2, cases).balanced_accuracy < 0.6
    for ordered in (True, False):
        guess = together(np.stack([a, b], 1), (ordered, ordered), cases)
        assert guess.balanced_accuracy > 0.95


def test_a_fact_that_names_the_group_is_no_fact_about_the_label() -> None:
    """Forty photographs of twenty crops: who knows the photograph has memorised, not guessed."""
    groups = np.repeat(np.arange(40), 20)
    labels = groups % 2
    value = alone(groups, 40, cases_of(labels, groups)).balanced_accuracy
    assert value == 0.5


def test_a_small_class_weighs_as_much_as_a_large_one() -> None:
    labels = np.repeat([0, 1], [950, 50])
    fact = np.r_[np.zeros(950, np.int64), np.repeat([0, 1], [10, 40])]
    guess = alone(fact, 2, cases_of(labels))
    assert guess.balanced_accuracy == pytest.approx(0.9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), values=st.integers(1, 9))
def test_figures_from_counts_are_those_of_scikit_learn(seed: int, values: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, random.integers(0, 2, 60)]
    cells = random.integers(0, values, 62)
    fold = fold_groups(labels, np.arange(62), 2)
    counts = counts_of(cells, labels, fold, values, 2)
    scores = table_scores(counts)
    by_row = scores[cells, :, fold]
    assert auc_of(counts, scores) == pytest.approx(roc_auc_score(labels, by_row[:, 1]))
    assert recalls(counts, scores).mean() == pytest.approx(balanced_accuracy_score(labels, by_row.argmax(axis=1)))


def test_the_interval_counts_groups_and_not_rows() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(400) % 2
    single = interval(random.random(400) < 0.7, cases_of(labels))
    right = np.repeat(random.random(20) < 0.7, 20)
    crowded = interval(right, cases_of(np.repeat(np.arange(20) % 2, 20), np.repeat(np.arange(20), 20)))
    assert 0.6 < single[0] < 0.7 < single[1] < 0.8
    assert crowded[1] - crowded[0] > 2 * (single[1] - single[0])


def test_a_targets_own_parts_are_the_folds_so_that_matched_looks_say_nothing() -> None:
    """Within each part both classes hold every value equally often: across parts there is nothing to learn, and 0.5 to show."""
    values = np.repeat(np.arange(300), 2)
    labels = np.tile([0, 1], 300)
    parts = np.repeat(np.arange(3), 200)
    groups = np.arange(600)
    own = crossfit.Cases(labels, groups, ("real", "synthetic"), parts)
    assert (own.folds() == parts).all()
    assert crossfit.guess_one(values, 300, own, own.folds()).balanced_accuracy == 0.5
    across = crossfit.Cases(labels, groups, ("real", "synthetic"))
    assert crossfit.guess_one(values, 300, across, across.folds()).balanced_accuracy < 0.3


def test_parts_that_cut_a_group_or_lack_a_class_are_not_folds() -> None:
    labels, groups = np.array([0, 1] * 6), np.arange(12) // 2
    cut = crossfit.Cases(labels, groups, ("real", "synthetic"), np.arange(12) % 2)
    assert (cut.folds() == crossfit.Cases(labels, groups, ("real", "synthetic")).folds()).all()
    lacking = crossfit.Cases(labels, np.arange(12), ("real", "synthetic"), np.array([0, 1] * 6))
    assert (lacking.folds() == crossfit.Cases(labels, np.arange(12), ("real", "synthetic")).folds()).all()
