"""The gate: may these labels be trusted, or can they be guessed without looking at a picture?

Two rules refuse. All no-pixel facts together tell origin with a balanced accuracy above the limit *and* above what relabeled
groups reach 95 % of the time; or a single value of a single fact is a marker of one class, over everything or within a content
type, however few rows carry it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from imaginet_build.auditing.crossfit import Cases, guess_all, relabelings
from imaginet_build.auditing.markers import Marker, SelfTest
from imaginet_build.auditing.probes import ALL, Probe, matrix

Verdict = Literal["passed", "refused", "undecided"]

LIMIT = 0.55
"""Highest joint no-pixel balanced accuracy that needs no further question."""

PERMUTATIONS = 100
_RELABELED_ROWS = 4_000_000


@dataclass(frozen=True)
class Gate:
    """The verdict. `value` and `permutation95` are None where too few groups leave nothing to compute; `reason` says why.
    `self_test`: whether a marker of our own would have been found."""

    verdict: Verdict
    value: float | None
    limit: float
    permutation95: float | None
    groups: int
    reason: str
    markers: tuple[Marker, ...] = ()
    self_test: SelfTest | None = None


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
    guess, chance, _ = guess_all(matrix(probes), tuple(p.ordered for p in probes), cases, cases.folds(), null)
    return guess.balanced_accuracy, chance


def decide(
    value: float | None,
    chance: npt.NDArray[np.float64],
    found: Sequence[Marker],
    groups: int,
    limit: float = LIMIT,
    tested: SelfTest | None = None,
) -> Gate:
    """The verdict from the joint value, the relabelings and the markers.

    Refused: any marker, or a value above `limit` and above the 95 % point of the relabelings. Undecided: that point is itself
    above `limit` (or nothing could be computed), so that there are too few groups to say; unless no relabeling at all
    reaches the value, which is then refused: sixty images told apart every time are enough. Undecided too where the self-test
    missed the marker it had planted, or had too few groups to plant it on, since nothing can then be said of markers. Else
    passed.
    """
    point = float(np.quantile(chance, 0.95, method="higher")) if chance.size else None
    verdict: Verdict
    if found:
        first = found[0]
        verdict = "refused"
        reason = (
            f"{first.probe} = {first.value} marks a class{'' if first.scope == ALL else f' among {first.scope}'}: "
            f"in {first.real} of {first.groups[0]} real groups and in "
            f"{first.synthetic} of {first.groups[1]} synthetic ones (p {f'= {first.p:.1e}' if first.p else '< 1e-300'})"
        )
    elif value is None or point is None:
        why = "too few to cross-fit" if value is None else "and no label permutation was made: set audit.permutations to 100"
        verdict, reason = "undecided", f"undecided: {groups} groups, {why}"
    elif value > limit and value > (point if point <= limit else float(chance.max())):
        verdict = "refused"
        reason = f"without a pixel, origin is guessed with {value:.3f} balanced accuracy (limit {limit}, chance {point:.3f})"
    elif point > limit:
        verdict, reason = "undecided", f"undecided: {groups} groups, chance alone reaches {point:.3f}"
    elif tested is not None and tested.few:
        verdict, reason = "undecided", f"undecided: {groups} groups; {tested.few}"
    elif tested is not None and not tested.caught:
        verdict = "undecided"
        reason = (
            f"undecided: {groups} groups, too few to notice a marker on {tested.groups[0]} real or {tested.groups[1]} "
            f"synthetic ones, as the self-test found: missed {', '.join(tested.missed)}"
        )
    else:
        verdict, reason = "passed", f"without a pixel, origin is guessed with {value:.3f} balanced accuracy (limit {limit})"
    return Gate(verdict, value, limit, point, groups, reason, tuple(found), tested)
