"""Figures of the origin track from labels and scores: arrays in, numbers out.

Every figure is written for many weightings of the rows at once, because a bootstrap asks for a thousand of them: scikit-learn's
functions take one at a time. With whole numbers for weights each equals scikit-learn's, which the tests hold it to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figures = dict[str, Any]

LEAST_GROUPS = 5
"""A class with fewer groups than this gives no AUC and no accuracy."""
RATES = {"tpr_at_fpr_1e-2": 1e-2, "tpr_at_fpr_1e-3": 1e-3}
HALF = 0.5
_BINS = 10
_EDGE = 1e-6
_CELLS = 2_000_000
"""Weights held at once: more are taken a piece at a time."""


def logit(p: Floats) -> Floats:
    """log(p / (1 - p)), finite: p is kept a millionth away from 0 and 1."""
    inside = np.clip(p, _EDGE, 1 - _EDGE)
    return np.log(inside) - np.log1p(-inside)


def platt(label: Ints, logits: Floats) -> tuple[float, float] | None:
    """Scale and bias of the logistic regression from a detector's logit to P(synthetic), both classes weighing alike
    (Platt 1999).

    None where it cannot be fitted: a class with fewer than `LEAST_GROUPS` rows, or scores that point the wrong way.
    """
    from sklearn.linear_model import LogisticRegression

    if np.bincount(label, minlength=2).min() < LEAST_GROUPS or np.ptp(logits) == 0:
        return None
    deviation = float(logits.std())
    # The mild penalty acts on standardised logits, so that a perfectly separated split does not send the scale to infinity.
    fitted = LogisticRegression(C=10.0, class_weight="balanced").fit(((logits - logits.mean()) / deviation)[:, None], label)
    scale = float(fitted.coef_[0, 0]) / deviation
    bias = float(fitted.intercept_[0]) - scale * float(logits.mean())
    return (scale, bias) if scale > 0 else None


def too_few(label: Ints, groups: Sequence[str]) -> str | None:
    """Why no AUC can be given, or None."""
    for value, name in ((0, "real"), (1, "synthetic")):
        count = len({g for g, y in zip(groups, label, strict=True) if y == value})
        if count < LEAST_GROUPS:
            return f"needs {LEAST_GROUPS} groups of each class, the test has {count} {name}"
    return None


@dataclass(frozen=True)
class Curve:
    """The ROC curve of one set of scores under k weightings: one vertex a distinct score, from the highest down, and (0, 0)
    before them. Ties are one vertex, so the line between two vertices is what drawing lots among them reaches.

    `label`: (n,) 1 for synthetic; `score`: (n,) P(synthetic); `weight`: (k, n), not negative.
    """

    label: Ints
    score: Floats
    weight: Floats

    @cached_property
    def _order(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        order = np.argsort(-self.score, kind="stable")
        falls = np.diff(self.score[order]) != 0
        return order, np.flatnonzero(np.r_[True, falls])

    def _counts(self, value: int) -> Floats:
        """(k, vertices): weight of the rows of one class at each distinct score."""
        order, starts = self._order
        return np.asarray(np.add.reduceat(self.weight[:, order] * (self.label[order] == value), starts, axis=1), np.float64)

    @cached_property
    def positive(self) -> Floats:
        """(k, vertices): synthetic weight at each distinct score, highest first."""
        return self._counts(1)

    @cached_property
    def negative(self) -> Floats:
        """The same of the real rows."""
        return self._counts(0)

    @cached_property
    def tpr(self) -> Floats:
        """(k, vertices + 1): the share of synthetic rows called synthetic."""
        return _share(self.positive)

    @cached_property
    def fpr(self) -> Floats:
        """(k, vertices + 1): the share of real rows called synthetic."""
        return _share(self.negative)


def _share(counts: Floats) -> Floats:
    summed = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts, axis=1)], axis=1)
    return np.asarray(summed / summed[:, -1:], np.float64)


def area(curve: Curve) -> Floats:
    """Area under the ROC curve, ties counting half: 0 to 1, chance 0.5 (Hanley and McNeil 1982)."""
    # By counts, not by shares: a perfect detector has exactly 1.
    below = curve.negative.sum(1, keepdims=True) - np.cumsum(curve.negative, axis=1) + curve.negative / 2
    return np.asarray((curve.positive * below).sum(1) / (curve.positive.sum(1) * curve.negative.sum(1)), np.float64)


def average_precision(curve: Curve) -> Floats:
    """Average precision, the precision at every vertex weighed by the recall it adds: 0 to 1, chance is the share of synthetic
    rows (Zhu 2004; scikit-learn's `average_precision_score`)."""
    found, called = np.cumsum(curve.positive, axis=1), np.cumsum(curve.positive + curve.negative, axis=1)
    precision = found / np.where(called > 0, called, 1)
    return np.asarray((np.diff(curve.tpr, axis=1) * precision).sum(1), np.float64)


def equal_error_rate(curve: Curve) -> Floats:
    """The error rate where as many real rows are called synthetic as synthetic ones are missed: 0 to 1, chance 0.5, on the line
    between the two vertices around that point (Brümmer and de Villiers 2013)."""
    gap = curve.fpr - (1 - curve.tpr)  # from -1 to 1, never falling
    at = np.maximum((gap >= 0).argmax(axis=1), 1)
    rows = np.arange(len(gap))
    low, high = gap[rows, at - 1], gap[rows, at]
    part = -low / np.where(high > low, high - low, 1)
    return np.asarray(curve.fpr[rows, at - 1] + part * (curve.fpr[rows, at] - curve.fpr[rows, at - 1]), np.float64)


def rate_at(curve: Curve, fpr: float) -> Floats:
    """The share of synthetic rows above the lowest threshold that lets at most `fpr` of the real ones through: 0 to 1, chance
    `fpr`. No line is drawn between vertices: a threshold must be one that somebody can set."""
    return np.asarray(np.where(curve.fpr <= fpr * (1 + 1e-12), curve.tpr, 0).max(axis=1), np.float64)


def oracle_accuracy(curve: Curve) -> Floats:
    """The highest balanced accuracy that any threshold reaches on these very rows: 0.5 to 1. Nobody can have it."""
    return np.asarray(((curve.tpr + 1 - curve.fpr) / 2).max(axis=1), np.float64)


def balanced_accuracy(label: Ints, called: npt.NDArray[np.bool_], weight: Floats) -> Floats:
    """The mean of the shares of real and of synthetic rows called right: 0 to 1, chance 0.5 (Brodersen et al. 2010)."""
    right = (called == label.astype(bool)).astype(np.float64)
    return np.asarray(sum(_mean(right, weight, label == value) for value in (0, 1)) / 2, np.float64)


def calibration_error(label: Ints, p: Floats, weight: Floats | None = None) -> Floats:
    """Expected calibration error over ten bins of equal width: 0 to 1, 0 is best (Guo et al. 2017)."""
    w = np.ones((1, len(label))) if weight is None else weight
    place = np.minimum((p * _BINS).astype(int), _BINS - 1)
    member = np.zeros((len(p), _BINS))
    member[np.arange(len(p)), place] = p - label
    return np.asarray(np.abs(w @ member).sum(1) / w.sum(1), np.float64)


def brier(label: Ints, p: Floats, weight: Floats) -> Floats:
    """Mean squared difference of P(synthetic) and the label: 0 to 1, 0 is best, 0.25 for always saying 0.5 (Brier 1950)."""
    return np.asarray(weight @ ((p - label) ** 2) / weight.sum(1), np.float64)


def cllr(label: Ints, p: Floats, weight: Floats) -> Floats:
    """Log-likelihood-ratio cost in bits, the logit of `p` read as the log-likelihood ratio: 0 upwards, 0 is best, 1 for a
    detector that says nothing, above 1 for one that misleads (Brümmer and du Preez 2006)."""
    ratio = logit(p)
    cost = np.logaddexp(0, np.where(label == 1, -ratio, ratio)) / np.log(2)
    return np.asarray(sum(_mean(cost, weight, label == value) for value in (0, 1)) / 2, np.float64)


def _mean(values: Floats, weight: Floats, rows: npt.NDArray[np.bool_]) -> Floats:
    mine = weight[:, rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(mine @ values[rows] / mine.sum(1), np.float64)


def auc(label: Ints, score: Floats, weight: Floats | None = None) -> Floats:
    """`area` of labels and scores: (k,) for `weight` (k, n), one row a resample; (1,) without. NaN where a class has no
    weight."""
    w = np.ones((1, len(label))) if weight is None else weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return area(Curve(label, score, w))


_CURVED: Mapping[str, Callable[[Curve], Floats]] = {
    "auc": area,
    "ap": average_precision,
    "eer": equal_error_rate,
    **{name: lambda curve, fpr=fpr: rate_at(curve, fpr) for name, fpr in RATES.items()},  # type: ignore[misc]
}
_PLAIN: Mapping[str, Callable[[Ints, Floats, Floats], Floats]] = {
    "balanced_accuracy": lambda label, p, weight: balanced_accuracy(label, p >= HALF, weight),
    "ece": calibration_error,
    "brier": brier,
    "cllr": cllr,
}
NAMES = ("auc", "ap", "balanced_accuracy", *RATES, "eer", "ece", "brier", "cllr")


def every(label: Ints, scores: Floats, weight: Floats, names: Sequence[str] = NAMES) -> dict[str, Floats]:
    """Each figure, (k,), under k weightings: the median over the detectors. `scores`: (seeds, n) calibrated P(synthetic), so
    that every frozen threshold is 0.5. NaN where a class has no weight."""
    step = max(1, _CELLS // max(1, len(label)))
    pieces = []
    for start in range(0, len(weight), step):
        some = weight[start : start + step]
        both = np.where(np.minimum(some @ label, some @ (1 - label)) > 0, 0.0, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            curves = [Curve(label, p, some) for p in scores] if set(names) & _CURVED.keys() else []
            pieces.append(
                {
                    name: both
                    + np.median(
                        [_CURVED[name](c) for c in curves]
                        if name in _CURVED
                        else [_PLAIN[name](label, p, some) for p in scores],
                        axis=0,
                    )
                    for name in names
                }
            )
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


def rounded(value: float) -> float:
    """Six digits after the point, as every figure is written."""
    return round(float(value), 6)
