"""Distances between the classes, beside what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaginet_build.balancing import likeness

SAMPLE = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(SAMPLE, SAMPLE)
def test_the_distance_is_the_largest_between_the_two_distributions(a: list[int], b: list[int]) -> None:
    by_hand = max(abs(np.mean(np.array(a) <= value) - np.mean(np.array(b) <= value)) for value in range(7))
    assert likeness.ks(a, b) == pytest.approx(by_hand)


def test_a_class_that_is_not_there_has_no_distance() -> None:
    assert likeness.ks([], [1]) is None
    assert likeness.sampling_error(0, 5) is None


def test_the_sampling_error_is_exceeded_once_in_twenty_times() -> None:
    chance = np.random.default_rng(0)
    limit = likeness.sampling_error(400, 300)
    assert limit is not None
    over = sum((likeness.ks(chance.random(400), chance.random(300)) or 0) > limit for _ in range(1000))
    assert 20 <= over <= 70


def test_what_was_never_jpeg_is_a_quality_of_its_own() -> None:
    synthetic = np.array([False, False, True, True])
    side = np.array([100, 100, 100, 100])
    found = likeness.distances(synthetic, side, side, np.array([90.0, 90.0, np.nan, np.nan]))
    assert found == {"size": 0.0, "aspect": 0.0, "quality": 1.0}


def test_bytes_per_pixel_are_all_bytes_over_all_pixels() -> None:
    synthetic = np.array([False, False, True])
    found = likeness.bytes_per_pixel(synthetic, np.array([10, 30, 5]), np.array([100, 100, 50]))
    assert found == {"real": 0.2, "synthetic": 0.1}
    assert likeness.bytes_per_pixel(np.array([True]), np.array([1]), np.array([1]))["real"] is None
