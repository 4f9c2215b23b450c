"""Every figure against scikit-learn's or a plain definition, under weights and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
    roc_curve,
)

from imaginet_build.baseline import metrics

RANDOM = np.random.default_rng(0)
ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 3)), min_size=4, max_size=40)


def of(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    return label, score / 8, weight[None].astype(float)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_figures_are_those_of_scikit_learn_with_ties_and_weights(rows: list[tuple[int, int, int]]) -> None:
    label, p, weight = of(rows)
    found = {name: values[0] for name, values in metrics.every(label, p[None], weight).items()}
    w = weight[0]
    if min(w[label == 0].sum(), w[label == 1].sum()) == 0:
        assert all(np.isnan(value) for value in found.values()), "a sample without one of the classes says nothing"
        return
    assert found["auc"] == pytest.approx(roc_auc_score(label, p, sample_weight=w))
    assert found["ap"] == pytest.approx(average_precision_score(label, p, sample_weight=w))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, p >= 0.5, sample_weight=w))
    assert found["brier"] == pytest.approx(brier_score_loss(label, p, sample_weight=w))
    even = np.where(label == 1, w / w[label == 1].sum(), w / w[label == 0].sum())
    bits = log_loss(label, np.clip(p, 1e-6, 1 - 1e-6), sample_weight=even) / np.log(2)
    assert found["cllr"] == pytest.approx(bits), "Cllr is the log loss in bits where both classes weigh alike"


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_rates_are_those_of_a_plain_walk_over_the_thresholds(rows: list[tuple[int, int, int]]) -> None:
    label, p, weight = of(rows)
    w = weight[0]
    assume(min(w[label == 0].sum(), w[label == 1].sum()) > 0)
    curve = metrics.Curve(label, p, weight)
    fpr, tpr, _ = roc_curve(label, p, sample_weight=w, drop_intermediate=False)
    for allowed in (0.01, 0.1, 0.34):
        assert metrics.rate_at(curve, allowed)[0] == pytest.approx(
            max(t for f, t in zip(fpr, tpr, strict=True) if f <= allowed)
        )
    assert metrics.oracle_accuracy(curve)[0] == pytest.approx(max((tpr + 1 - fpr) / 2))
    # The equal error rate lies on the curve: where the anti-diagonal crosses the line between two vertices.
    fine = np.linspace(0, 1, 20_001)
    gap = np.interp(fine, np.linspace(0, 1, len(fpr)), fpr) - (1 - np.interp(fine, np.linspace(0, 1, len(tpr)), tpr))
    plain = np.interp(fine[np.abs(gap).argmin()], np.linspace(0, 1, len(fpr)), fpr)
    assert metrics.equal_error_rate(curve)[0] == pytest.approx(plain, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_every_figure_keeps_its_range_and_turns_with_the_labels(rows: list[tuple[int, int, int]]) -> None:
    label, p, _ = of(rows)
    weight = np.ones((1, len(label)))
    found = {name: float(values[0]) for name, values in metrics.every(label, p[None], weight).items()}
    assume(label.min() < label.max())
    assert all(0 <= value <= 1 for name, value in found.items() if name != "cllr")
    assert found["cllr"] >= 0
    other = {name: float(values[0]) for name, values in metrics.every(1 - label, 1 - p[None], weight).items()}
    for name in ("auc", "eer", "brier", "cllr"):
        assert other[name] == pytest.approx(found[name]), "which class is called positive does not matter"
    squeezed = metrics.every(label, p[None] ** 3, weight)
    assert squeezed["auc"][0] == pytest.approx(found["auc"])
    assert squeezed["eer"][0] == pytest.approx(found["eer"])


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_a_weight_of_two_is_the_row_twice(rows: list[tuple[int, int, int]]) -> None:
    label, p, weight = of(rows)
    copies = weight[0].astype(int)
    twice = np.repeat(np.arange(len(label)), copies)
    assume(len(twice))
    one = metrics.every(label, p[None], weight)
    two = metrics.every(label[twice], p[None, twice], np.ones((1, len(twice))))
    for name in metrics.NAMES:
        np.testing.assert_allclose(one[name], two[name], err_msg=name)


def test_many_weightings_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    label, p = np.array([0, 1] * 20), RANDOM.random((2, 40))
    weight = RANDOM.integers(0, 3, (50, 40)).astype(float)
    whole = metrics.every(label, p, weight)
    monkeypatch.setattr(metrics, "_CELLS", 100)
    for name, values in metrics.every(label, p, weight).items():
        np.testing.assert_allclose(values, whole[name], err_msg=name)


def test_a_detector_that_says_nothing_costs_one_bit_and_a_perfect_one_none() -> None:
    label = np.repeat([0, 1], 50)
    weight = np.ones((1, 100))
    assert metrics.cllr(label, np.full(100, 0.5), weight)[0] == pytest.approx(1)
    assert metrics.cllr(label, label.astype(float), weight)[0] < 1e-5
    assert metrics.cllr(label, 1.0 - label, weight)[0] > 10
    assert metrics.brier(label, np.full(100, 0.5), weight)[0] == 0.25
    perfect = metrics.Curve(label, label.astype(float), weight)
    assert (metrics.equal_error_rate(perfect)[0], metrics.rate_at(perfect, 1e-3)[0], metrics.area(perfect)[0]) == (0, 1, 1)
    constant = metrics.Curve(label, np.full(100, 0.3), weight)
    assert (metrics.equal_error_rate(constant)[0], metrics.rate_at(constant, 0.01)[0], metrics.area(constant)[0]) == (
        0.5,
        0,
        0.5,
    )


def test_platt_finds_the_scale_and_bias_that_made_the_labels() -> None:
    logits = RANDOM.normal(size=20_000) * 2
    label = (RANDOM.random(20_000) < 1 / (1 + np.exp(-(1.5 * logits)))).astype(np.int64)
    fitted = metrics.platt(label, logits)
    assert fitted == pytest.approx((1.5, 0.0), abs=0.06)


def test_platt_refuses_scores_that_mislead_and_splits_too_small() -> None:
    label = np.array([0, 1] * 10)
    assert metrics.platt(label, -label.astype(float)) is None
    assert metrics.platt(label[:6], label[:6].astype(float)) is None
    separated = metrics.platt(label, label.astype(float))
    assert separated is not None
    assert np.isfinite(separated).all()


def test_calibration_error_is_zero_for_honest_probabilities() -> None:
    p = RANDOM.random(50_000)
    honest = (RANDOM.random(50_000) < p).astype(np.int64)
    assert metrics.calibration_error(honest, p)[0] < 0.02
    assert metrics.calibration_error(honest, np.sqrt(p))[0] > 0.1
