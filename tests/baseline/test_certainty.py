"""Where a detector may give a verdict: the band keeps its promise on images like those of its calibration split."""

from __future__ import annotations

import numpy as np
import pytest

from imaginet_build.baseline.certainty import ERROR, calibrated, limit


def split(seed: int, groups: int, each: int, gap: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of a group share most of what moves their logit."""
    random = np.random.default_rng(seed)
    label = np.repeat([0, 1], groups * each)
    shared = np.repeat(random.normal(size=2 * groups), each)
    logits = gap * (2 * label - 1) + shared + 0.3 * random.normal(size=len(label))
    return label, logits, [f"g{k // each}" for k in range(len(label))]


@pytest.mark.parametrize("gap", [0.3, 1.0, 4.0], ids=["overlapping", "usual", "far apart"])
def test_of_new_images_at_most_the_promised_share_gets_the_wrong_verdict(gap: float) -> None:
    wrong = {0: [], 1: []}
    for seed in range(30):
        label, logits, groups = split(seed, 40, 3, gap)
        found = calibrated(label, logits, groups)
        assert found.error == ERROR
        new, scores, _ = split(1000 + seed, 200, 1, gap)
        said = [found.verdict(p) for p in found.probability(scores)]
        for value, other in ((0, "synthetic"), (1, "real")):
            wrong[value].append(np.mean([s == other for s, y in zip(said, new, strict=True) if y == value]))
    for shares in wrong.values():
        assert np.mean(shares) <= ERROR + 0.015, "the mean over splits is what conformal prediction promises"
        if gap == 1.0:
            assert np.mean(shares) >= ERROR / 3, "and it is no more careful than it must be"


def test_a_small_split_says_what_little_it_can_promise() -> None:
    found = calibrated(*split(0, 9, 1, 1.0))
    assert found.error == pytest.approx(0.1)
    assert found.groups == 9


def test_too_few_groups_or_scores_that_point_the_wrong_way_give_no_verdict_at_all(caplog: pytest.LogCaptureFixture) -> None:
    label, logits, _ = split(0, 3, 4, 3.0)
    groups = [f"g{k // 4}" for k in range(len(label))]
    found = calibrated(label, logits, groups)
    assert {found.verdict(p) for p in (0.0, 0.5, 1.0)} == {"cannot tell"}
    assert "too few for verdicts" in caplog.text
    label, logits, groups = split(0, 30, 1, 2.0)
    found = calibrated(label, -logits, groups)
    assert {found.verdict(p) for p in (0.0, 0.5, 1.0)} == {"cannot tell"}
    assert "no verdict" in caplog.text


def test_a_group_of_many_rows_weighs_no_more_than_one_of_a_single_row() -> None:
    scores = np.concatenate([np.full(100, 0.9), np.linspace(0, 0.5, 19)])
    groups = ["many"] * 100 + [f"g{k}" for k in range(19)]
    assert limit(scores, groups, 0.1) < 0.6 < limit(scores, [str(k) for k in range(119)], 0.1)
    assert limit(scores[:3], groups[:3], 0.1) == float("inf")
