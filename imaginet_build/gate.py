"""The gate: may these labels be trusted, or can they be guessed without looking at a picture?

Two rules refuse. All no-pixel facts together tell origin with a balanced accuracy above the limit *and* above what relabeled
groups reach 95 % of the time; or a single value of a single fact is a marker of one class, however few rows carry it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from imaginet_build.crossfit import Cases, Floats, guess_all, relabelings
from imaginet_build.probes import Probe, matrix

Verdict = Literal["passed", "refused", "undecided"]

LIMIT = 0.55
"""Highest joint no-pixel balanced accuracy that needs no further question."""

MARKER_P = 0.01
"""Family-wise error of the search for markers (Holm 1979)."""

PERMUTATIONS = 100
_RELABELED_ROWS = 4_000_000


@dataclass(frozen=True)
class Marker:
    """A value that one class carries more often than the other.

    `real`, `synthetic`: in how many groups of each class (a group counts once per class; where only some of its rows carry the
    value it counts by their share, rounded over all groups). `p`: Fisher's exact test, two-sided, Holm-corrected.
    """

    probe: str
    value: str
    real: int
    synthetic: int
    groups: tuple[int, int]
    p: float


@dataclass(frozen=True)
class Gate:
    """The verdict. `value` and `permutation95` are None where too few groups leave nothing to compute; `reason` says why."""

    verdict: Verdict
    value: float | None
    limit: float
    permutation95: float | None
    groups: int
    reason: str
    markers: tuple[Marker, ...] = ()


def shares(probe: Probe, cases: Cases) -> Floats:
    """How many groups of each class carry each value: (len(probe.names), 2).

    Every (group, class) block counts one in all, split over its values by their share of its rows: two hundred crops of one
    photograph are one witness, and a value that all classes draw alike is no likelier to be met in large groups.
    """
    _, block, size = np.unique(cases.groups * 2 + cases.labels, return_inverse=True, return_counts=True)
    flat = np.bincount(probe.values * 2 + cases.labels, weights=1 / size[block], minlength=2 * len(probe.names))
    return flat.astype(np.float64).reshape(-1, 2)


def markers(probes: Iterable[Probe], cases: Cases) -> list[Marker]:
    """The values whose share differs between the classes, surest first.

    Fisher's exact test on groups, Holm-corrected at MARKER_P over the values that could be significant at all: a value in so
    few groups that even one-sided presence would not be is left out by its margin, which knows no label (Tarone 1990).
    """
    total = cases.groups_per_class()
    tests: list[tuple[str, str, int, int]] = []
    for probe in probes:
        counts = np.minimum(np.floor(shares(probe, cases) + 0.5).astype(np.int64), total)
        if len(probe.names) == 2:  # yes or no: one test says it all
            counts = counts[1:]
        offset = len(probe.names) - len(counts)
        for v in np.flatnonzero(counts.sum(axis=1) > 1):
            tests.append((probe.name, probe.names[v + offset], int(counts[v, 0]), int(counts[v, 1])))
    if not tests:
        return []
    best = [_fisher(a + b, total)[0] for _, _, a, b in tests]
    tests = [t for t, b in zip(tests, best, strict=True) if b <= MARKER_P]
    p = [_fisher(a + b, total, a)[1] for _, _, a, b in tests]
    order = sorted(range(len(tests)), key=lambda i: p[i])
    found, worst = [], 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(tests) - rank)))
        if worst >= MARKER_P:
            break
        probe_name, value, a, b = tests[i]
        found.append(Marker(probe_name, value, a, b, (int(total[0]), int(total[1])), worst))
    return found


def _fisher(margin: int, total: npt.NDArray[np.int64], real: int | None = None) -> tuple[float, float]:
    """Fisher's exact test of a value that `margin` groups carry: the least p value it could reach, and that of `real` of them.

    Two-sided: the sum over all tables no likelier than this one.
    """
    from scipy.special import gammaln

    def ways(n: int, k: npt.NDArray[np.int64]) -> Floats:
        logs: Floats = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        return logs

    k = np.arange(max(0, margin - int(total[1])), min(margin, int(total[0])) + 1)
    chance = np.exp(ways(int(total[0]), k) + ways(int(total[1]), margin - k) - ways(int(total.sum()), np.array([margin])))
    least = float(min(chance[0], chance[-1]))
    if real is None:
        return least, 1.0
    return least, min(1.0, float(chance[chance <= chance[real - k[0]] * (1 + 1e-7)].sum()))


def joint(
    probes: Sequence[Probe], cases: Cases, permutations: int = PERMUTATIONS
) -> tuple[float | None, npt.NDArray[np.float64]]:
    """Balanced accuracy of all probes together, and of `permutations` relabelings; None with fewer than two groups a class.

    Past forty thousand rows there are fewer relabelings, down to the nineteen whose largest is the 95 % point: chance hardly
    strays from one half there.
    """
    if int(cases.groups_per_class().min()) < 2:
        return None, np.empty(0)
    times = min(permutations, max(19, _RELABELED_ROWS // len(cases.labels)))
    null = relabelings(cases, times)
    guess, chance = guess_all(matrix(probes), tuple(p.ordered for p in probes), cases, cases.folds(), null)
    return guess.balanced_accuracy, chance


def decide(
    value: float | None, chance: npt.NDArray[np.float64], found: Sequence[Marker], groups: int, limit: float = LIMIT
) -> Gate:
    """The verdict from the joint value, the relabelings and the markers.

    Refused: any marker, or a value above `limit` and above the 95 % point of the relabelings. Undecided: that point is itself
    above `limit` (or nothing could be computed), so that there are too few groups to say; unless no relabeling at all
    reaches the value, which is then refused: sixty images told apart every time are enough. Else passed.
    """
    point = float(np.quantile(chance, 0.95, method="higher")) if chance.size else None
    verdict: Verdict
    if found:
        first = found[0]
        verdict = "refused"
        reason = (
            f"{first.probe} = {first.value} marks a class: in {first.real} of {first.groups[0]} real groups and in "
            f"{first.synthetic} of {first.groups[1]} synthetic ones (p = {first.p:.1e})"
        )
    elif value is None or point is None:
        verdict, reason = "undecided", f"undecided: {groups} groups, too few to cross-fit"
    elif value > limit and value > (point if point <= limit else float(chance.max())):
        verdict = "refused"
        reason = f"without a pixel, origin is guessed with {value:.3f} balanced accuracy (limit {limit}, chance {point:.3f})"
    elif point > limit:
        verdict, reason = "undecided", f"undecided: {groups} groups, chance alone reaches {point:.3f}"
    else:
        verdict, reason = "passed", f"without a pixel, origin is guessed with {value:.3f} balanced accuracy (limit {limit})"
    return Gate(verdict, value, limit, point, groups, reason, tuple(found))
