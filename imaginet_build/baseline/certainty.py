"""From a detector's logits on the calibration split to probabilities, and to where it may give a verdict at all.

The band in which it says "cannot tell" is a conformal one, made for each class by itself (Vovk 2012; Sadinle, Lei and Wasserman
2019): a real image like those of the split is called synthetic at most once in 1 / `ERROR` times, a synthetic one real no more
often. Between the two limits both answers are possible, or, where the classes lie far apart, neither was ever seen. Groups are
what is exchangeable, not rows: each weighs 1 / (groups + 1), its rows share that, and the rest lies beyond every score (Dunn,
Wasserman and Ramdas 2023).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from imaginet_build.baseline import metrics
from imaginet_build.baseline.metrics import Floats, Ints
from imaginet_build.detectors.checkpoint import Calibration

log = logging.getLogger(__name__)

ERROR = 0.05
"""The share of either class that may get the other's verdict."""
WORST = 0.2
"""A split whose groups cannot promise even this gives no verdicts at all: fewer than four of a class."""


def calibrated(label: Ints, logits: Floats, groups: Sequence[str]) -> Calibration:
    """Platt's scale and bias, and the band around them. `label` and `logits`: (n,) of the calibration split, 1 for synthetic.

    Where the split is too small for `ERROR`, the smallest share that it can promise stands in its place, and is in `error`;
    where it cannot promise `WORST`, or the scores point the wrong way, every answer is "cannot tell". Each is said aloud.
    """
    fitted = metrics.platt(label, logits)
    if fitted is None:
        log.warning(
            "%d calibration images are too few, or point the wrong way: probabilities are the network's own, and no verdict "
            "is given", len(label),
        )  # fmt: skip
        return Calibration(rows=len(label))
    scaled = Calibration(scale=fitted[0], bias=fitted[1], rows=len(label))
    names = np.asarray(groups, dtype=str)
    real, synthetic = label == 0, label == 1
    counts = [len(np.unique(names[rows])) for rows in (real, synthetic)]
    errors = [max(ERROR, 1 / (count + 1)) for count in counts]
    if max(errors) > WORST:
        log.warning("%d groups of a class in the calibration split are too few for verdicts", min(counts))
        return scaled
    if max(errors) > ERROR:
        log.warning(
            "%d groups of a class in the calibration split promise an error of %.2f, not %.2f",
            min(counts), max(errors), ERROR,
        )  # fmt: skip
    p = scaled.probability(logits)
    most = limit(p[real], names[real], errors[0])
    least = 1 - limit(1 - p[synthetic], names[synthetic], errors[1])
    return Calibration(fitted[0], fitted[1], min(most, least), max(most, least), len(label), max(errors), min(counts))


def limit(scores: Floats, groups: Sequence[str], error: float) -> float:
    """The lowest score that a further row of this kind exceeds with a probability of at most `error`; infinite where the
    groups are too few for that."""
    _, member, size = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(1 / size[member[order]]) / (len(size) + 1)
    at = int(np.searchsorted(below, 1 - error - 1e-9))
    return float(scores[order[at]]) if at < len(scores) else float("inf")
