"""Figures of a detector from labels and scores: arrays in, numbers out. Every figure that a test is too small for is None, and
the reason stands beside it.

Intervals are cluster bootstraps: whole groups are drawn, because rows of one group (crops of a photograph, a real image and its
reconstruction) are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.records import random_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figures = dict[str, Any]

LEAST_GROUPS = 5
"""A class with fewer groups than this gives no AUC and no accuracy."""
BOOTSTRAPS = 1000
_FPR = 1e-2
_BINS = 10
_EDGE = 1e-6


def logit(p: Floats) -> Floats:
    """log(p / (1 - p)), finite: p is kept a millionth away from 0 and 1."""
    inside = np.clip(p, _EDGE, 1 - _EDGE)
    return np.log(inside) - np.log1p(-inside)


def platt(label: Ints, logits: Floats) -> tuple[float, float] | None:
    """Scale and bias of the logistic regression from a detector's logit to P(synthetic), both classes weighing alike.

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


def auc(label: Ints, score: Floats, weight: Floats | None = None) -> Floats:
    """Area under the ROC curve, ties counting half: (k,) for `weight` (k, n), one row a resample; (1,) without. NaN where a
    class has no weight."""
    w = np.ones((1, len(label))) if weight is None else weight
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(place[order]) != 0])
    positive = np.add.reduceat(w[:, order] * label[order], starts, axis=1)
    negative = np.add.reduceat(w[:, order] * (1 - label[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * below).sum(1) / pairs, np.nan)


def resamples(groups: Sequence[str], times: int, purpose: str) -> Floats:
    """(times, n): how often each row is in each bootstrap sample of the groups."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    drawn = random_of(purpose, "baseline/bootstrap").integers(len(names), size=(times, len(names)))
    counts = np.zeros((times, len(names)))
    np.add.at(counts, (np.arange(times)[:, None], drawn), 1)
    return counts[:, member]


def too_few(label: Ints, groups: Sequence[str]) -> str | None:
    """Why no AUC can be given, or None."""
    for value, name in ((0, "real"), (1, "synthetic")):
        count = len({g for g, y in zip(groups, label, strict=True) if y == value})
        if count < LEAST_GROUPS:
            return f"needs {LEAST_GROUPS} groups of each class, the test has {count} {name}"
    return None


def origin_figures(label: Ints, scores: Floats, thresholds: Floats, groups: Sequence[str], times: int = BOOTSTRAPS) -> Figures:
    """The origin track of one set of rows. `scores`: (seeds, n) P(synthetic); `thresholds`: (seeds,).

    Every figure is the median over seeds; `ci95` is of that median's AUC. `reasons` says why a figure is None.
    """
    reason = too_few(label, groups)
    found: Figures = {"n_real": int((label == 0).sum()), "n_synthetic": int((label == 1).sum())}
    called = scores >= thresholds[:, None]
    names = ("auc", "ap", "balanced_accuracy", "tpr_at_fpr_1e-2", "ece")
    if reason:
        return found | dict.fromkeys(names) | {"ci95": None, "reasons": dict.fromkeys([*names, "ci95"], reason)}
    from sklearn.metrics import average_precision_score

    right = (called == label.astype(bool)).astype(float)
    accuracy = [(r[label == 0].mean() + r[label == 1].mean()) / 2 for r in right]
    found["auc"] = _median([auc(label, s)[0] for s in scores])
    found["ap"] = _median([average_precision_score(label, s) for s in scores])
    found["balanced_accuracy"] = _median(accuracy)
    reasons: dict[str, str] = {}
    needed = round(10 / _FPR)
    if found["n_real"] >= needed:
        found["tpr_at_fpr_1e-2"] = _median([tpr_at(label, s, _FPR) for s in scores])
    else:
        found["tpr_at_fpr_1e-2"] = None
        reasons["tpr_at_fpr_1e-2"] = f"needs {needed} negatives, the test has {found['n_real']}"
    found["ece"] = _median([calibration_error(label, s) for s in scores])
    found["ci95"] = interval(label, scores, groups, times)
    return found | {"reasons": reasons}


def interval(label: Ints, scores: Floats, groups: Sequence[str], times: int) -> list[float] | None:
    """The central 95 % of the median-over-seeds AUC over `times` resamples of the groups; None where `times` is 0."""
    if not times:
        return None
    weights = resamples(groups, times, "interval")
    with np.errstate(all="ignore"):
        spread = np.median([auc(label, s, weights) for s in scores], axis=0)
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return [_rounded(low), _rounded(high)]


def tpr_at(label: Ints, score: Floats, fpr: float) -> float:
    """The share of synthetic images above the strictest threshold that lets at most `fpr` of the real ones through."""
    real = np.sort(score[label == 0])[::-1]
    allowed = int(np.floor(fpr * len(real)))
    limit = real[allowed] if allowed < len(real) else -np.inf
    return float((score[label == 1] > limit).mean())


def calibration_error(label: Ints, p: Floats) -> float:
    """Expected calibration error over ten bins of equal width (Guo et al. 2017)."""
    place = np.minimum((p * _BINS).astype(int), _BINS - 1)
    size = np.bincount(place, minlength=_BINS)
    gap = np.abs(np.bincount(place, p, _BINS) - np.bincount(place, label.astype(float), _BINS))
    return float(gap[size > 0].sum() / len(p))


def name_figures(truth: Sequence[str], answers: Sequence[Floats], names: Sequence[str]) -> Figures:
    """The generator track: closed set over `names`, synthetic rows only. `answers`: for each seed (n, len(names))
    probabilities.

    Rows whose true name is none of `names` are left out and counted as `unknown`.
    """
    known = np.array([t in names for t in truth], bool)
    found: Figures = {"n": int(known.sum()), "unknown": int((~known).sum())}
    at = np.array([list(names).index(t) for t in truth if t in names], np.int64)
    present = np.unique(at)
    if len(present) < 2:
        reason = f"needs two known generators or families in the test, it has {len(present)}"
        keys = ("accuracy", "balanced_accuracy", "macro_auc")
        return found | dict.fromkeys(keys) | {"reasons": dict.fromkeys(keys, reason)}
    kept = [a[known] for a in answers]
    guesses = [a.argmax(1) for a in kept]
    found["accuracy"] = _median([(g == at).mean() for g in guesses])
    found["balanced_accuracy"] = _median([np.mean([(g[at == k] == k).mean() for k in present]) for g in guesses])
    found["macro_auc"] = _median([np.mean([auc((at == k).astype(np.int64), a[:, k])[0] for k in present]) for a in kept])
    found["classes"] = [names[k] for k in present]
    return found


def merged(answer: Floats, names: Sequence[str], family_of: Mapping[str, str]) -> tuple[Floats, list[str]]:
    """Probabilities of generators summed to probabilities of families: (n, families), and the families, sorted."""
    families = sorted({family_of[n] for n in names})
    sums = np.zeros((len(answer), len(families)))
    for column, name in enumerate(names):
        sums[:, families.index(family_of[name])] += answer[:, column]
    return sums, families


def _median(values: Sequence[float]) -> float:
    return _rounded(float(np.median(values)))


def _rounded(value: float) -> float:
    return round(float(value), 6)
