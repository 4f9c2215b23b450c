"""Cluster bootstrap: whole groups are drawn, because rows of one group (crops of a photograph, a real image and its
reconstruction) are no independent evidence (Field and Welsh 2007; percentile intervals, Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imaginet_build.baseline import metrics
from imaginet_build.baseline.metrics import NAMES, RATES, Figures, Floats, Ints, rounded
from imaginet_build.records import random_of

BOOTSTRAPS = 1000
ORACLE = "the best threshold chosen on the test itself: nobody can have it; for comparison with papers that report it"


def resamples(groups: Sequence[str], times: int, purpose: str) -> Floats:
    """(times, n): how often each row is in each bootstrap sample of the groups."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    drawn = random_of(purpose, "baseline/bootstrap").integers(len(names), size=(times, len(names)))
    counts = np.zeros((times, len(names)))
    np.add.at(counts, (np.arange(times)[:, None], drawn), 1)
    return counts[:, member]


def ends(values: Floats) -> list[float] | None:
    """The central 95 % of bootstrap values; None where there are none. Samples without one of the classes say nothing."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return [rounded(low), rounded(high)]


def interval(label: Ints, scores: Floats, groups: Sequence[str], times: int) -> list[float] | None:
    """The central 95 % of the median-over-seeds AUC over `times` resamples of the groups; None where `times` is 0."""
    return ends(metrics.every(label, scores, resamples(groups, times, "interval"), ("auc",))["auc"]) if times else None


def origin_figures(label: Ints, scores: Floats, groups: Sequence[str], times: int = BOOTSTRAPS) -> Figures:
    """The origin track of one set of rows. `scores`: (seeds, n) calibrated P(synthetic): the frozen threshold is 0.5.

    Every figure is the median over seeds, `intervals` has its central 95 % over resampled groups, `ci95` is that of the AUC.
    `reasons` says why a figure is None: TPR at FPR f needs 10 / f real rows, everything needs `LEAST_GROUPS` groups of a class.
    """
    found: Figures = {"n_real": int((label == 0).sum()), "n_synthetic": int((label == 1).sum())}
    if reason := metrics.too_few(label, groups):
        nothing = dict.fromkeys((*NAMES, "oracle", "ci95"))
        return found | nothing | {"intervals": {}, "reasons": dict.fromkeys((*NAMES, "ci95"), reason)}
    needed = {name: round(10 / fpr) for name, fpr in RATES.items()}
    reasons = {
        name: f"needs {count} negatives, the test has {found['n_real']}"
        for name, count in needed.items()
        if found["n_real"] < count
    }
    names = [name for name in NAMES if name not in reasons]
    one = metrics.every(label, scores, np.ones((1, len(label))), names)
    found |= {name: rounded(one[name][0]) if name in one else None for name in NAMES}
    best = np.median([metrics.oracle_accuracy(metrics.Curve(label, p, np.ones((1, len(p)))))[0] for p in scores])
    found["oracle"] = {"balanced_accuracy": rounded(float(best)), "what": ORACLE}
    spread = metrics.every(label, scores, resamples(groups, times, "interval"), names) if times else {}
    found["intervals"] = {name: between for name, values in spread.items() if (between := ends(values))}
    found["ci95"] = found["intervals"].get("auc")
    return found | {"reasons": reasons}
