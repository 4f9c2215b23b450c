"""Guessing from vectors: what is there is found, chance looks like chance, groups stay whole."""

from __future__ import annotations

import numpy as np
import pytest

from imaginet_build.auditing.crossfit import Cases, Guess
from imaginet_build.auditing.ridge import features, guess_numbers


def guess(x: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, times: int = 39, curved: bool = True) -> Guess:
    groups = np.arange(len(labels)) if groups is None else groups
    names = tuple("abcdef"[: labels.max() + 1])
    cases = Cases(labels.astype(np.int64), groups.astype(np.int64), names)
    return guess_numbers(features(x, curved), cases, cases.folds(), times)


def test_what_is_there_is_found_straight_or_curved() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 500)
    x = random.normal(size=(500, 6))
    shifted = guess(x + 0.8 * labels[:, None], labels)
    assert shifted.balanced_accuracy > 0.85
    assert shifted.auc > 0.9
    assert shifted.p == 1 / 40
    assert shifted.ci95[0] < shifted.balanced_accuracy < shifted.ci95[1]
    wider = guess(x * (1 + labels[:, None]), labels)
    assert wider.balanced_accuracy > 0.8
    assert guess(x * (1 + labels[:, None]), labels, curved=False).balanced_accuracy < 0.6


def test_chance_is_one_half_and_its_p_values_are_what_they_promise() -> None:
    found = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        labels = (random.random(150) < 0.25).astype(int)
        found.append(guess(random.normal(size=(150, 20)), labels))
    assert np.mean([g.balanced_accuracy for g in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([g.p for g in found]) == pytest.approx(0.5, abs=0.12)
    assert np.mean([g.p is not None and g.p <= 0.05 for g in found]) <= 0.12


def test_who_knows_the_group_has_memorised_and_not_guessed() -> None:
    found = []
    for seed in range(15):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(30), 10)
        x = random.normal(size=(30, 8))[groups] + 0.01 * random.normal(size=(300, 8))
        found.append(guess(x, groups % 2, groups))
    assert np.mean([g.balanced_accuracy for g in found]) == pytest.approx(0.5, abs=0.08)
    assert sum(g.p is not None and g.p <= 0.05 for g in found) <= 3


def test_several_classes_and_nothing_to_see() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 600)
    assert guess(random.normal(size=(600, 4)) + 2 * np.eye(4)[labels], labels).balanced_accuracy > 0.7
    assert guess(np.ones((600, 4)), labels).balanced_accuracy == pytest.approx(1 / 3, abs=0.05)


def test_a_wild_value_or_the_order_of_rows_changes_nothing() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(200) % 2
    x = random.normal(size=(200, 3)) + labels[:, None]
    wild = x.copy()
    wild[x[:, 0].argmax(), 0] = 1e12
    assert np.array_equal(features(x), features(wild))
