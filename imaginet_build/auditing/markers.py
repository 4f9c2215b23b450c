"""Markers: single values of single facts that one class carries and the other does not, however few rows they stand on.

They are looked for over everything and in every content type: one that leans one way here and the other way there tells the
label of every row that carries it, and nothing over everything.

Groups are the witnesses, not rows. Two exact tests look at every value: one counts each group by the share of its rows that
carry the value, one asks among groups of equal size whether any row does. All p values are corrected together (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from imaginet_build.auditing.crossfit import Cases, Floats, Ints
from imaginet_build.auditing.probes import ALL, Probe
from imaginet_build.records import ORIGINS, random_of

MARKER_P = 0.01
"""Family-wise error of the search."""

PLANTED_SHARE, PLANTED_GROUPS = 0.02, 25
"""The self-test marks so many of a class's groups: the larger of the two. Where a class has fewer it cannot be made."""

Parts = Mapping[str, npt.NDArray[np.bool_]]
"""Content types by name: which rows, (n,), each of them holds."""

NO_PARTS: Parts = MappingProxyType({})

_EXACT = 20_000
_CELLS = 1_000_000
"""Values times sizes of groups that are counted at once."""
_KEPT = 1000
"""Groups; the chances of so many are kept: hundreds of keys ask for the same ones again and again."""


@dataclass(frozen=True)
class Marker:
    """A value that one class carries more often than the other.

    `real`, `synthetic`: in how many groups of each class (a group counts once per class; where only some of its rows carry the
    value it counts by their share, rounded over all groups, or wholly where the test of presence is what found it). `p`: exact,
    two-sided, Holm-corrected. `scope`: the content type whose groups are counted, or `all`. `number`: which of the probe's
    values it is, as two of them may read alike.
    """

    probe: str
    value: str
    real: int
    synthetic: int
    groups: tuple[int, int]
    p: float
    scope: str = ALL
    number: int = -1


@dataclass(frozen=True)
class SelfTest:
    """A marker of our own on `groups` groups (real, synthetic), in each of `facts`, and whether every one was found.

    `scope`: the content type in which it was planted as well, or None where none has groups enough. `few`: why nothing could be
    planted at all, in words; empty where it could. `thin`: what was missed where one row of each group carried it, which is no
    fault of the data: groups of one class that are all larger than those of the other meet every value more often.
    """

    groups: tuple[int, int]
    facts: tuple[str, ...]
    caught: bool
    missed: tuple[str, ...]
    scope: str | None = None
    few: str = ""
    thin: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Test:
    """One value to be tested: the least p it could reach, known without labels, and the p it has."""

    probe: str
    value: str
    real: int
    synthetic: int
    least: float
    p: float
    scope: str
    groups: tuple[int, int]
    number: int


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


@dataclass(frozen=True)
class _Field:
    """Where one looks: everything (`rows` is None) or the rows of one content type."""

    scope: str
    rows: npt.NDArray[np.bool_] | None
    blocks: _Blocks

    def tests(self, probe: Probe) -> list[_Test]:
        """All tests of one probe here."""
        return list(_tests(probe if self.rows is None else probe.take(self.rows), self))

    def __call__(self, probe: Probe, v: int, count: tuple[int, int], least: float, p: float) -> _Test:
        total = self.blocks.total
        return _Test(probe.name, probe.names[v], *count, least, p, self.scope, (int(total[0]), int(total[1])), v)


def _fields(cases: Cases, parts: Parts) -> list[_Field]:
    """Everything first, then every content type."""
    own = {
        scope: replace(cases, labels=cases.labels[rows], groups=cases.groups[rows], parts=None) for scope, rows in parts.items()
    }
    return [_Field(ALL, None, _Blocks.of(cases)), *(_Field(s, parts[s], _Blocks.of(c)) for s, c in own.items())]


def shares(probe: Probe, cases: Cases) -> Floats:
    """How many groups of each class carry each value: (len(probe.names), 2).

    Every (group, class) block counts one in all, split over its values by their share of its rows: two hundred crops of one
    photograph are one witness, and a value that all classes draw alike is no likelier to be met in large groups.
    """
    return _shares(probe, _Blocks.of(cases))


def markers(probes: Sequence[Probe], cases: Cases, parts: Parts = NO_PARTS) -> list[Marker]:
    """The values whose share differs between the classes, over everything or in one of `parts`, surest first.

    One entry for each value and scope; what marks a class over everything is not told again for its content types. All tests
    of all scopes are Holm-corrected together at MARKER_P, over the values that could be significant at all: a value in so few
    groups that even one-sided presence would not be is left out by its margin, which knows no label (Tarone 1990).
    """
    return _holm([test for field in _fields(cases, parts) for probe in probes for test in field.tests(probe)])


def self_test(probes: Sequence[Probe], cases: Cases, parts: Parts = NO_PARTS) -> SelfTest:
    """Plant a value that nobody has on some whole groups of one class, fact by fact and class by class, and search for it.

    Planted in the first, the last and the middle one of `probes`: over everything, and in the one of `parts` whose rarer class
    has most groups (if it has PLANTED_GROUPS), there with as many groups of the other class outside it, so that over everything
    nothing shows. A search that misses it has too few groups to say that there is no marker. Then over everything on one row of
    each group alone.
    """
    fields = _fields(cases, parts)
    whole = fields[0].blocks
    planted = tuple(min(_planted(n), n) for n in whole.total.tolist())
    rare = int(whole.total.argmin())
    if whole.total[rare] < PLANTED_GROUPS:
        few = (
            f"{whole.total[rare]} groups of a class ({ORIGINS[rare]}), fewer than the {PLANTED_GROUPS} that the self-test marks"
        )
        return SelfTest((planted[0], planted[1]), (), False, (few,), few=few)
    chosen = {p.name: p for p in (probes[0], probes[len(probes) // 2], probes[-1])} if probes else {}
    tests = {probe.name: np.array([t.p for f in fields for t in f.tests(probe)]) for probe in probes}
    best = max(fields[1:], key=lambda f: int(f.blocks.total.min()), default=None)
    tried = [fields[0], *([best] if best is not None and best.blocks.total.min() >= PLANTED_GROUPS else [])]
    missed: list[str] = []
    thin: list[str] = []
    for field, told in [*((field, missed) for field in tried), (fields[0], thin)]:
        for label, origin in enumerate(ORIGINS):
            rows = _planting(field, whole, label)
            if told is thin:
                if whole.size[whole.label == label].max() == 1:
                    continue
                rows &= np.isin(np.arange(len(rows)), np.unique(whole.of_row, return_index=True)[1])
            for name, probe in chosen.items():
                value, names = len(probe.names), (*probe.names, "planted")
                with_it = Probe(name, probe.codes, probe.ordered, np.where(rows, value, probe.values), names)
                mine = [t for f in fields for t in f.tests(with_it)]
                surest = min((t.p for t in mine if t.number == value and t.scope in (ALL, field.scope)), default=1.0)
                if not _stands(surest, [*(ps for n, ps in tests.items() if n != name), np.array([t.p for t in mine])]):
                    told.append(f"{name} of {origin}" + ("" if field.scope == ALL else f" among {field.scope}"))
    scope = tried[1].scope if len(tried) > 1 else None
    return SelfTest((planted[0], planted[1]), tuple(chosen), not missed, tuple(missed), scope, thin=tuple(thin))


def _planted(groups: int) -> int:
    """How many of a class's groups the self-test marks."""
    return max(PLANTED_GROUPS, int(np.ceil(PLANTED_SHARE * groups)))


def _planting(field: _Field, whole: _Blocks, label: int) -> npt.NDArray[np.bool_]:
    """The rows that carry the planted value, (n,): groups of `label` in `field`, and outside it as many of the other class."""
    random, blocks = random_of(f"audit {ORIGINS[label]}", "self-test"), field.blocks
    count = _planted(int(blocks.total[label]))
    here = np.isin(blocks.of_row, random.choice(np.flatnonzero(blocks.label == label), count, replace=False))
    if field.rows is None:
        return np.asarray(here, bool)
    rows: npt.NDArray[np.bool_] = ~field.rows & (whole.label[whole.of_row] != label)
    outside = np.unique(whole.of_row[rows])
    rows &= np.isin(whole.of_row, random.choice(outside, min(count, len(outside)), replace=False))
    rows[field.rows] = here
    return rows


def _shares(probe: Probe, blocks: _Blocks) -> Floats:
    weights = 1 / blocks.size[blocks.of_row]
    flat = np.bincount(probe.values * 2 + blocks.label[blocks.of_row], weights=weights, minlength=2 * len(probe.names))
    return flat.astype(np.float64).reshape(-1, 2)


def _tests(probe: Probe, field: _Field) -> Iterable[_Test]:
    """Both tests of every value of one probe; of a yes or no one value says it all."""
    blocks = field.blocks
    counts = np.minimum(np.floor(_shares(probe, blocks) + 0.5).astype(np.int64), blocks.total)
    first = 1 if len(probe.names) == 2 else 0
    known: dict[int, float] = {}
    for v in np.flatnonzero(counts.sum(axis=1) > 1).tolist():
        if v < first:
            continue
        a, b = int(counts[v, 0]), int(counts[v, 1])
        if a + b not in known:
            known[a + b] = _fisher(a + b, blocks.total)[0]
        if known[a + b] <= MARKER_P:
            yield field(probe, v, (a, b), known[a + b], _fisher(a + b, blocks.total, a)[1])
    yield from _presence(probe, field, first)


def _presence(probe: Probe, field: _Field, first: int) -> Iterable[_Test]:
    """Whether any row of a group carries the value, for values that stand on a part of a group's rows, among groups of equal
    size: a group of many rows meets more values than a small one, whatever its label."""
    blocks = field.blocks
    if blocks.size.max(initial=1) == 1:
        return
    met, times = np.unique(blocks.of_row * len(probe.names) + probe.values, return_counts=True)
    block, value = met // len(probe.names), met % len(probe.names)
    partial = np.unique(value[times < blocks.size[block]])
    order = np.argsort(value, kind="stable")
    ends = np.searchsorted(value[order], np.arange(len(probe.names) + 1))
    # Not one stratum for all large groups: the larger of them would meet a rare value more often still.
    sizes, stratum = np.unique(blocks.size, return_inverse=True)
    total = np.bincount(stratum * 2 + blocks.label, minlength=2 * len(sizes)).reshape(-1, 2)
    here = stratum[block] * 2 + blocks.label[block]
    wide = 2 * len(sizes)
    many = max(1, min(len(probe.names), _CELLS // wide))
    partial = partial[partial >= first]
    for start in range(0, len(probe.names), many):
        some = order[ends[start] : ends[min(start + many, len(probe.names))]]
        carries = np.bincount((value[some] - start) * wide + here[some], minlength=wide * many).reshape(many, -1, 2)
        counts = carries.sum(axis=1).tolist()
        for v in partial[(partial >= start) & (partial < start + many)].tolist():
            carry = carries[v - start]
            if wide > 2:
                tells = (total.min(axis=1) > 0) & (carry.sum(axis=1) > 0)
                least, p = _stratified(carry[tells], total[tells])
            else:
                real, synthetic = counts[v - start]
                least, p = _exact(real + synthetic, int(total[0, 0]), int(total[0, 1]), real)
            if least <= MARKER_P:
                yield field(probe, v, (counts[v - start][0], counts[v - start][1]), least, p)


def _stratified(carry: Ints, total: Ints) -> tuple[float, float]:
    """The exact conditional test over strata (n, 2): how many groups of each class carry the value, and how many there are.

    The count in the first class is a sum of independent hypergeometric numbers; past _EXACT terms a normal one stands for it.
    """
    if not len(carry):
        return 1.0, 1.0
    margin = carry.sum(axis=1)
    return _summed(tuple(margin.tolist()), tuple(total.ravel().tolist()), int(carry[:, 0].sum()))


@lru_cache(2**16)
def _summed(margins: tuple[int, ...], totals: tuple[int, ...], real: int) -> tuple[float, float]:
    """`_stratified` of what decides it: how many groups carry the value in each stratum, and how many of all are real."""
    from scipy.stats import norm

    margin, total = np.array(margins, np.int64), np.array(totals, np.int64).reshape(-1, 2)
    size = total.sum(axis=1)
    if np.minimum(margin, total.min(axis=1)).sum() > _EXACT:
        mean = (margin * total[:, 0] / size).sum()
        share = total / size[:, None]
        variance = (margin * share[:, 0] * share[:, 1] * ((size - margin) / np.maximum(size - 1, 1))).sum()
        return 0.0, float(2 * norm.sf(abs(real - mean) / max(float(variance) ** 0.5, 1e-9)))
    law, start = np.ones(1), 0
    for one, m in zip(total, margins, strict=True):
        low, chance = _hypergeometric(m, one)
        law = np.convolve(law, chance)
        start += low
    here = law[real - start]
    return float(min(law[0], law[-1])), min(1.0, float(law[law <= here * (1 + 1e-7)].sum()))


def _stands(p: float, tests: Sequence[Floats]) -> bool:
    """Whether a test of this p is among those that `_holm` finds, of all the p values there are."""
    every = np.concatenate(tests)
    before = np.sort(every[every <= p])
    return bool(len(before)) and bool((before * (len(every) - np.arange(len(before))) < MARKER_P).all())


def _holm(tests: Sequence[_Test]) -> list[Marker]:
    order = sorted(tests, key=lambda test: test.p)
    found: dict[tuple[str, int, str], Marker] = {}
    worst = 0.0
    for rank, test in enumerate(order):
        worst = max(worst, min(1.0, test.p * (len(order) - rank)))
        if worst >= MARKER_P:
            break
        marker = Marker(test.probe, test.value, test.real, test.synthetic, test.groups, worst, test.scope, test.number)
        found.setdefault((test.probe, test.number, test.scope), marker)
    return [m for m in found.values() if m.scope == ALL or (m.probe, m.number, ALL) not in found]


def _fisher(margin: int, total: npt.NDArray[np.int64], real: int | None = None) -> tuple[float, float]:
    """Fisher's exact test of a value that `margin` groups carry: the least p value it could reach, and that of `real` of them.

    Two-sided: the sum over all tables no likelier than this one.
    """
    return _exact(margin, int(total[0]), int(total[1]), real)


@lru_cache(2**16)
def _exact(margin: int, reals: int, synthetics: int, real: int | None) -> tuple[float, float]:
    low, chance = _hypergeometric(margin, np.array([reals, synthetics]))
    least = float(min(chance[0], chance[-1]))
    if real is None:
        return least, 1.0
    return least, min(1.0, float(chance[chance <= chance[real - low] * (1 + 1e-7)].sum()))


def _hypergeometric(margin: int, total: Ints) -> tuple[int, Floats]:
    """Of `margin` groups that carry a value, how many are real, where the label means nothing: the fewest, and the chance of
    each number from there on. `total`: the groups of each class."""
    asked = margin, int(total[0]), int(total[1])
    return _kept(*asked) if margin <= _KEPT else _chances(*asked)


def _chances(margin: int, real: int, synthetic: int) -> tuple[int, Floats]:
    from scipy.special import gammaln

    def ways(n: int, k: Ints) -> Floats:
        logs: Floats = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        return logs

    low = max(0, margin - synthetic)
    k = np.arange(low, min(margin, real) + 1)
    return low, np.exp(ways(real, k) + ways(synthetic, margin - k) - ways(real + synthetic, np.array([margin])))


_kept = lru_cache(2**12)(_chances)
