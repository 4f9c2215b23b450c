from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from imaginet_build.baseline import metrics

RANDOM = np.random.default_rng(0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=4, max_size=40))
def test_auc_is_that_of_scikit_learn_with_ties_and_weights(rows: list[tuple[int, int, int]]) -> None:
    label, score, weight = (np.array(c) for c in zip(*rows, strict=True))
    found = metrics.auc(label, score.astype(float), weight[None].astype(float))[0]
    if min(weight[label == 0].sum(), weight[label == 1].sum()) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(label, score, sample_weight=weight))


def test_resampling_takes_groups_whole() -> None:
    counts = metrics.resamples(["a", "a", "b", "c", "c", "c"], 50, "test")
    assert np.array_equal(counts[:, 0], counts[:, 1])
    assert np.array_equal(counts[:, 3], counts[:, 5])
    assert np.array_equal(counts[:, [0, 2, 3]].sum(1), np.full(50, 3))


def test_an_interval_over_few_groups_is_wider_than_over_rows() -> None:
    label = np.repeat([0, 1], 100)
    score = RANDOM.normal(size=20).repeat(10)[None] + label * 0.8
    few = metrics.interval(label, score, [str(i // 10) for i in range(200)], 300)
    many = metrics.interval(label, score, [str(i) for i in range(200)], 300)
    assert few is not None
    assert many is not None
    assert few[1] - few[0] > 2 * (many[1] - many[0])


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


def test_a_figure_the_test_is_too_small_for_is_null_with_the_reason() -> None:
    label = np.array([0] * 30 + [1] * 30)
    scores = RANDOM.random((1, 60))
    found = metrics.origin_figures(label, scores, np.array([0.5]), [str(i) for i in range(60)], 20)
    assert found["tpr_at_fpr_1e-2"] is None
    assert found["reasons"]["tpr_at_fpr_1e-2"] == "needs 1000 negatives, the test has 30"
    assert found["auc"] is not None
    one = metrics.origin_figures(label, scores, np.array([0.5]), ["a"] * 60, 20)
    assert (one["auc"], one["ci95"], one["balanced_accuracy"]) == (None, None, None)
    assert "needs 5 groups of each class" in one["reasons"]["auc"]


def test_a_large_test_gives_the_rate_at_one_percent() -> None:
    label = np.repeat([0, 1], 1000)
    score = np.concatenate([np.linspace(0, 1, 1000), np.linspace(0.5, 1.5, 1000)])
    assert metrics.tpr_at(label, score, 0.01) == pytest.approx(0.51, abs=0.002)
    found = metrics.origin_figures(label, score[None], np.array([0.5]), [str(i) for i in range(2000)], 0)
    assert found["tpr_at_fpr_1e-2"] == pytest.approx(0.51, abs=0.002)
    assert "tpr_at_fpr_1e-2" not in found["reasons"]


def test_figures_are_medians_over_seeds() -> None:
    label = np.repeat([0, 1], 10)
    scores = np.stack([label * 0.9, 1 - label * 0.9, label * 0.9])
    found = metrics.origin_figures(label, scores, np.full(3, 0.5), [str(i) for i in range(20)], 10)
    assert (found["auc"], found["balanced_accuracy"]) == (1.0, 1.0)


def test_calibration_error_is_zero_for_honest_probabilities() -> None:
    p = RANDOM.random(50_000)
    honest = (RANDOM.random(50_000) < p).astype(np.int64)
    assert metrics.calibration_error(honest, p) < 0.02
    assert metrics.calibration_error(honest, np.sqrt(p)) > 0.1


def test_names_are_judged_over_those_that_are_known() -> None:
    answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    found = metrics.name_figures(["a", "b", "b", "unheard"], [answers], ["a", "b"])
    assert (found["n"], found["unknown"]) == (3, 1)
    assert found["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["balanced_accuracy"] == 0.75
    assert found["macro_auc"] == 1.0
    assert metrics.name_figures(["a"], [answers[:1]], ["a", "b"])["accuracy"] is None


def test_generators_are_summed_to_families() -> None:
    sums, families = metrics.merged(np.array([[0.2, 0.3, 0.5]]), ["x", "y", "z"], {"x": "sd", "y": "gan", "z": "sd"})
    assert families == ["gan", "sd"]
    np.testing.assert_allclose(sums, [[0.3, 0.7]])
