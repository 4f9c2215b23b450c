"""What an exported network is held to beside torch: the same logit, so much faster, hardly an image ranked worse.

| | logit | speed, `imaginet` at 256 px | AUC lost |
|---|---|---|---|
| fp32 | within 1e-5 | 2 x torch eager | - |
| int8 | - | 5 x torch eager | at most 0.002, the whole 95 % interval of it |

Other presets have no promise of speed but that int8 is faster than fp32. Speed is CPU time on one thread, the median of the
ratios of some rounds, in each of which both run in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.baseline import intervals, metrics
from imaginet_build.baseline.metrics import Floats, Ints

TOLERANCE = 1e-5
"""The largest difference in a logit between an fp32 export and torch."""
SPEED = {"imaginet": {"fp32": 2.0, "int8": 5.0}}
AUC_LOSS = 0.002
LEAST = 50
"""Groups of each class that a loss of AUC is judged on: fewer can rank all alike and still say nothing."""
SIDE = 256
_LEAST_SECONDS = 0.2

Run = Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[Any], npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate: `precision` fp32, int8 or int8-mixed; `runtime` onnxruntime or openvino.

    `difference`: the largest in any logit from torch's. `speed`: times torch eager. `loss`: AUC of the fp32 network less that
    of this one, with its 95 % interval; None where it was not measured. `broken`: the promises that it does not keep, in words.
    """

    runtime: str
    precision: str
    nbytes: int
    difference: float
    speed: float
    loss: tuple[float, float, float] | None
    broken: tuple[str, ...]

    @property
    def name(self) -> str:
        """`openvino int8`, as the table has it."""
        return f"{self.runtime} {self.precision}"


def difference(reference: Run, run: Run, crops: Sequence[npt.NDArray[np.float32]]) -> float:
    """The largest difference in any logit over batches of crops."""
    apart = [np.abs(w - g).max(initial=0) for batch in crops for w, g in zip(reference(batch), run(batch), strict=True)]
    return float(np.max(apart))  # not the built-in one, which would pass over what is not a number


def speeds(reference: Run, runs: Sequence[Run], rounds: int) -> list[float]:
    """How many times the reference's images a second of CPU time each of `runs` gives at `SIDE` pixels.

    All run on one thread of this process; the first, which warms up, does not count.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE)).astype(np.float32)
    every = [reference, *runs]
    times = [max(1, round(_LEAST_SECONDS / max(_spent(run, pixels, 2), 1e-4))) for run in every]
    taken = [[_spent(run, pixels, n) for run, n in zip(every, times, strict=True)] for _ in range(rounds)]
    return [statistics.median(row[0] / row[k] for row in taken) for k in range(1, len(every))]


def _spent(run: Run, pixels: npt.NDArray[np.float32], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        run(pixels)
    return (time.process_time() - began) / times


def too_few(label: Ints, groups: Sequence[str]) -> str | None:
    """Why no loss of AUC can be shown on these rows, or None."""
    count = min(len({g for g, y in zip(groups, label, strict=True) if y == value}) for value in (0, 1))
    if count >= LEAST:
        return None
    return f"{count} groups of a class in the calibration split, fewer than {LEAST}: too few to show a loss of {AUC_LOSS}"


def lost(label: Ints, groups: Sequence[str], whole: Floats, small: Floats) -> tuple[float, float, float]:
    """AUC of the logits `whole` less that of `small` on the same images, and its 95 % interval: a bootstrap of whole groups,
    both drawn alike."""
    weights = np.concatenate([np.ones((1, len(label))), intervals.resamples(groups, intervals.BOOTSTRAPS, "export")])
    with np.errstate(all="ignore"):
        loss = metrics.area(metrics.Curve(label, whole, weights)) - metrics.area(metrics.Curve(label, small, weights))
    low, high = np.nanpercentile(loss[1:], [2.5, 97.5])
    return round(float(loss[0]), 6) + 0.0, round(float(low), 6) + 0.0, round(float(high), 6) + 0.0


def broken(preset: str, precision: str, difference: float, speed: float, fp32: float, loss: Any, why_no_loss: str) -> list[str]:
    """Which promises a candidate does not keep, each in words. `fp32`: the speed of the fastest fp32 candidate."""
    faults = []
    kind = precision.partition("-")[0]
    needed = SPEED.get(preset, {}).get(kind)
    if needed is not None and speed < needed:
        faults.append(f"{speed:.1f} times torch's speed, not {needed:g}")
    if kind == "fp32":
        if not difference <= TOLERANCE:
            faults.append(f"{difference:.1e} from torch in a logit, more than {TOLERANCE:.0e}")
        return faults
    if needed is None and speed <= fp32:
        faults.append("no faster than fp32")
    if loss is None:
        faults.append(why_no_loss)
    elif loss[0] > AUC_LOSS:
        faults.append(f"{loss[0]:.4f} of AUC lost, more than {AUC_LOSS}")
    elif loss[2] > AUC_LOSS:
        faults.append(f"up to {loss[2]:.4f} of AUC may be lost: the calibration split is too small to show {AUC_LOSS}")
    return faults
