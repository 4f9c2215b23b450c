"""What an export is held to, and how it is measured."""

from __future__ import annotations

import numpy as np
import pytest

from imaginet_build.baseline import promises


def logits(groups: int, noise: float) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    label = np.arange(2 * groups) % 2
    whole = 2.0 * label + random.normal(size=len(label))
    return label, [str(k) for k in range(len(label))], whole, whole + noise * random.normal(size=len(label))


def test_a_loss_of_auc_comes_with_an_interval_that_holds_it() -> None:
    mean, low, high = promises.lost(*logits(150, 1.0))
    assert low <= mean <= high
    assert mean > promises.AUC_LOSS
    assert promises.lost(*logits(150, 0.0)) == (0, 0, 0)
    assert promises.too_few(*logits(promises.LEAST, 0.0)[:2]) is None
    assert "too few" in (promises.too_few(*logits(promises.LEAST - 1, 0.0)[:2]) or "")


@pytest.mark.parametrize(
    ("preset", "precision", "difference", "speed", "loss", "fault"),
    [
        ("imaginet", "fp32", 1e-6, 2.4, None, None),
        ("imaginet", "fp32", 1e-6, 1.9, None, "1.9 times torch's speed, not 2"),
        ("imaginet", "fp32", 2e-5, 2.4, None, "2.0e-05 from torch"),
        ("imaginet", "fp32", float("nan"), 2.4, None, "nan from torch"),
        ("small", "fp32", 1e-6, 0.9, None, None),
        ("imaginet", "int8", 1e-2, 6.0, (0.001, -0.001, 0.0015), None),
        ("imaginet", "int8-mixed", 1e-2, 4.9, (0.0, 0.0, 0.0), "4.9 times torch's speed, not 5"),
        ("imaginet", "int8", 1e-2, 6.0, (0.003, 0.001, 0.004), "0.0030 of AUC lost, more than 0.002"),
        ("imaginet", "int8", 1e-2, 6.0, (0.001, -0.01, 0.01), "too small to show 0.002"),
        ("imaginet", "int8", 1e-2, 6.0, None, "few"),
        ("small", "int8", 1e-2, 2.0, (0.0, 0.0, 0.0), "no faster than fp32"),
    ],
)
def test_each_broken_promise_is_said(
    preset: str, precision: str, difference: float, speed: float, loss: tuple[float, float, float] | None, fault: str | None
) -> None:
    found = promises.broken(preset, precision, difference, speed, 2.4, loss, "few")
    assert (fault is None) == (not found)
    assert fault is None or fault in found[0]


def test_speed_is_the_ratio_of_cpu_time() -> None:
    def turns(count: int) -> promises.Run:
        def run(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            for _ in range(count):
                np.sort(crops.ravel())
            return crops, crops

        return run

    (speed,) = promises.speeds(turns(4), [turns(1)], 3)
    assert 2 < speed < 8
