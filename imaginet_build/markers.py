"""Markers: single values of single facts that one class carries and the other does not, however few rows they stand on.

Groups are the witnesses, not rows. Two exact tests look at every value: one counts each group by the share of its rows that
carry the value, one asks among groups of equal size whether any row does. All p values are corrected together (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imaginet_build.crossfit import Cases, Floats, Ints
from imaginet_build.probes import Probe
from imaginet_build.records import ORIGINS, random_of

MARKER_P = 0.01
"""Family-wise error of the search."""

PLANTED_SHARE, PLANTED_GROUPS = 0.02, 25
"""The self-test marks so many of a class's groups: the larger of the two, and all where there are fewer."""

_EXACT = 20_000


@dataclass(frozen=True)
class Marker:
    """A value that one class carries more often than the other.

    `real`, `synthetic`: in how many groups of each class (a group counts once per class; where only some of its rows carry the
    value it counts by their share, rounded over all groups, or wholly where the test of presence is what found it). `p`: exact,
    two-sided, Holm-corrected.
    """

    probe: str
    value: str
    real: int
    synthetic: int
    groups: tuple[int, int]
    p: float


@dataclass(frozen=True)
class SelfTest:
    """A marker of our own on `groups` groups (real, synthetic), in each of `facts`, and whether every one was found."""

    groups: tuple[int, int]
    facts: tuple[str, ...]
    caught: bool
    missed: tuple[str, ...]


@dataclass(frozen=True)
class _Test:
    """One value to be tested: the least p it could reach, known without labels, and the p it has."""

    probe: str
    value: str
    real: int
    synthetic: int
    least: float
    p: float


@dataclass(frozen=True)
class _Blocks:
    """The rows of one group and one label: what counts as one witness."""

    of_row: Ints
    size: Ints
    label: Ints
    total: Ints

    @classmethod
    def of(cls, cases: Cases) -> _Blocks:
        names, of_row, size = np.unique(cases.groups * 2 + cases.labels, return_inverse=True, return_counts=True)
        return cls(of_row.astype(np.int64), size.astype(np.int64), names % 2, cases.groups_per_class())


def shares(probe: Probe, cases: Cases) -> Floats:
    """How many groups of each class carry each value: (len(probe.names), 2).

    Every (group, class) block counts one in all, split over its values by their share of its rows: two hundred crops of one
    photograph are one witness, and a value that all classes draw alike is no likelier to be met in large groups.
    """
    return _shares(probe, _Blocks.of(cases))


def markers(probes: Iterable[Probe], cases: Cases) -> list[Marker]:
    """The values whose share differs between the classes, surest first, one entry for each.

    Holm-corrected at MARKER_P over the values that could be significant at all: a value in so few groups that even one-sided
    presence would not be is left out by its margin, which knows no label (Tarone 1990).
    """
    blocks = _Blocks.of(cases)
    return _holm([test for probe in probes for test in _tests(probe, blocks)], blocks)


def self_test(probes: Sequence[Probe], cases: Cases) -> SelfTest:
    """Plant a value that nobody has on some whole groups of one class, fact by fact and class by class, and search for it.

    Planted in the first, the last and the middle one of `probes`. A search that misses it has too few groups to say that
    there is no marker.
    """
    blocks = _Blocks.of(cases)
    chosen = {p.name: p for p in (probes[0], probes[len(probes) // 2], probes[-1])} if probes else {}
    tests = {probe.name: list(_tests(probe, blocks)) for probe in probes}
    planted = [min(int(n), max(PLANTED_GROUPS, int(np.ceil(PLANTED_SHARE * n)))) for n in blocks.total]
    missed = []
    for label, origin in enumerate(ORIGINS):
        mine = np.flatnonzero(blocks.label == label)
        marked = random_of(f"audit {origin}", "self-test").choice(mine, planted[label], replace=False)
        rows = np.isin(blocks.of_row, marked)
        for name, probe in chosen.items():
            value = len(probe.names)
            names = (*probe.names, "planted")
            with_it = Probe(name, probe.codes, probe.ordered, np.where(rows, value, probe.values), names)
            found = _holm([t for n, ts in tests.items() if n != name for t in ts] + list(_tests(with_it, blocks)), blocks)
            if not any((m.probe, m.value) == (name, "planted") for m in found):
                missed.append(f"{name} of {origin}")
    return SelfTest((planted[0], planted[1]), tuple(chosen), not missed, tuple(missed))


def _shares(probe: Probe, blocks: _Blocks) -> Floats:
    weights = 1 / blocks.size[blocks.of_row]
    flat = np.bincount(probe.values * 2 + blocks.label[blocks.of_row], weights=weights, minlength=2 * len(probe.names))
    return flat.astype(np.float64).reshape(-1, 2)


def _tests(probe: Probe, blocks: _Blocks) -> Iterable[_Test]:
    """Both tests of every value of one probe; of a yes or no one value says it all."""
    counts = np.minimum(np.floor(_shares(probe, blocks) + 0.5).astype(np.int64), blocks.total)
    first = 1 if len(probe.names) == 2 else 0
    known: dict[int, float] = {}
    for v in np.flatnonzero(counts.sum(axis=1) > 1):
        if v < first:
            continue
        a, b = int(counts[v, 0]), int(counts[v, 1])
        if a + b not in known:
            known[a + b] = _fisher(a + b, blocks.total)[0]
        if known[a + b] <= MARKER_P:
            yield _Test(probe.name, probe.names[v], a, b, known[a + b], _fisher(a + b, blocks.total, a)[1])
    yield from _presence(probe, blocks, first)


def _presence(probe: Probe, blocks: _Blocks, first: int) -> Iterable[_Test]:
    """Whether any row of a group carries the value, for values that stand on a part of a group's rows, among groups of equal
    size: a group of many rows meets more values than a small one, whatever its label."""
    if blocks.size.max(initial=1) == 1:
        return
    met, times = np.unique(blocks.of_row * len(probe.names) + probe.values, return_counts=True)
    block, value = met // len(probe.names), met % len(probe.names)
    partial = np.unique(value[times < blocks.size[block]])
    order = np.argsort(value, kind="stable")
    ends = np.searchsorted(value[order], np.arange(len(probe.names) + 1))
    stratum = np.minimum(blocks.size, 64)
    total = np.bincount(stratum * 2 + blocks.label, minlength=130).reshape(-1, 2)
    for v in partial[partial >= first]:
        there = block[order[ends[v] : ends[v + 1]]]
        carry = np.bincount(stratum[there] * 2 + blocks.label[there], minlength=130).reshape(-1, 2)
        tells = (total.min(axis=1) > 0) & (carry.sum(axis=1) > 0)
        least, p = _stratified(carry[tells], total[tells])
        if least <= MARKER_P:
            yield _Test(probe.name, probe.names[v], int(carry[:, 0].sum()), int(carry[:, 1].sum()), least, p)


def _stratified(carry: Ints, total: Ints) -> tuple[float, float]:
    """The exact conditional test over strata (n, 2): how many groups of each class carry the value, and how many there are.

    The count in the first class is a sum of independent hypergeometric numbers; past _EXACT terms a normal one stands for it.
    """
    from scipy.stats import hypergeom, norm

    if not len(carry):
        return 1.0, 1.0
    size, margin = total.sum(axis=1), carry.sum(axis=1)
    if np.minimum(margin, total.min(axis=1)).sum() > _EXACT:
        mean = (margin * total[:, 0] / size).sum()
        share = total / size[:, None]
        variance = (margin * share[:, 0] * share[:, 1] * ((size - margin) / np.maximum(size - 1, 1))).sum()
        return 0.0, float(2 * norm.sf(abs(carry[:, 0].sum() - mean) / max(float(variance) ** 0.5, 1e-9)))
    law, start = np.ones(1), 0
    for k, (n, m) in enumerate(zip(size, margin, strict=True)):
        low, high = max(0, m - total[k, 1]), min(m, total[k, 0])
        law = np.convolve(law, hypergeom.pmf(np.arange(low, high + 1), n, total[k, 0], m))
        start += int(low)
    here = law[int(carry[:, 0].sum()) - start]
    return float(min(law[0], law[-1])), min(1.0, float(law[law <= here * (1 + 1e-7)].sum()))


def _holm(tests: Sequence[_Test], blocks: _Blocks) -> list[Marker]:
    order = sorted(tests, key=lambda test: test.p)
    found: dict[tuple[str, str], Marker] = {}
    worst = 0.0
    for rank, test in enumerate(order):
        worst = max(worst, min(1.0, test.p * (len(order) - rank)))
        if worst >= MARKER_P:
            break
        groups = (int(blocks.total[0]), int(blocks.total[1]))
        found.setdefault((test.probe, test.value), Marker(test.probe, test.value, test.real, test.synthetic, groups, worst))
    return list(found.values())


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
