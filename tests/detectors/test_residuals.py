"""Residual histograms: they see what was smoothed, and not which way an image is turned."""

from __future__ import annotations

import numpy as np
import pytest
from fixture_types import Told
from PIL import Image
from sklearn.metrics import roc_auc_score

from imaginet_build.detectors.residuals import Residuals, histograms
from imaginet_build.errors import UsageError


def test_it_learns_what_was_smoothed(told_apart: Told) -> None:
    learn, label, judge, wanted = told_apart
    detector = Residuals()
    with pytest.raises(UsageError, match="has learned nothing yet"):
        detector.score(judge)
    detector.fit(learn, label)
    assert roc_auc_score(wanted, detector.score(judge).p_synthetic) > 0.95
    assert len(detector.score([]).p_synthetic) == 0


def test_turning_or_flipping_changes_nothing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    found = histograms(image, 1.0, 2)
    assert found.shape == (3 * 125,)
    np.testing.assert_allclose((found**2).reshape(3, -1).sum(1), 1)
    for turn in Image.Transpose:
        np.testing.assert_allclose(histograms(image.transpose(turn), 1.0, 2), found)


def test_a_flat_picture_is_all_zeros_in_the_middle() -> None:
    found = histograms(Image.new("RGB", (30, 30), (10, 200, 90)), 1.0, 2).reshape(3, 5, 5, 5)
    assert np.array_equal(np.argwhere(found), [[plane, 2, 2, 2] for plane in range(3)])
