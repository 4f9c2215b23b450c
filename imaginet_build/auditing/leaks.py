"""From figures to leaks: which facts give the label away, on which images most plainly, and what removes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from imaginet_build.auditing.crossfit import Floats
from imaginet_build.auditing.findings import Leak, Row
from imaginet_build.auditing.markers import Marker
from imaginet_build.auditing.probe_tables import View
from imaginet_build.auditing.probes import ALL, Probe, remedy

EXAMPLES = 5
SURE_P = 0.05
"""A probe above the limit is no leak where relabelings do as well this often."""


def leaks_of(view: View, lines: Sequence[Row], found: Sequence[Marker], limit: float, command: str) -> list[Leak]:
    """One entry for every no-pixel probe that marks a class or tells it above the limit, surest first; the joint rule last.

    A marker of one content type stands with that type's figures and images; a probe's other values are counted, each once.
    """
    leaks: dict[str, Leak] = {}
    lines = [r for r in lines if r.track == "origin" and r.view == view.view and r.gate]
    score = {(r.probe, r.scope): r for r in lines}
    seen: set[tuple[str, int]] = set()
    for marker in found:
        told = (marker.probe, marker.number) in seen
        seen.add((marker.probe, marker.number))
        # Of a container and the hundred keys that came with it the surest speaks for all.
        place = marker.probe.partition(" ")[0]
        if place in leaks:
            leaks[place] = replace(leaks[place], more_values=leaks[place].more_values + (not told))
            continue
        line = score.get((marker.probe, marker.scope))
        leaks[place] = Leak(
            view.view, marker.probe, marker.value, marker.p, line.balanced_accuracy if line else None, marker.real,
            marker.synthetic, 0, _marked(view, marker), remedy(marker.probe, view.view, command), marker.scope,
        )  # fmt: skip
    for row in lines:
        sure = row.p is None or row.p <= SURE_P
        if row.scope == ALL and row.probe not in leaks and row.balanced_accuracy > limit and sure:
            leaks[row.probe] = Leak(
                view.view, row.probe, None, row.p, row.balanced_accuracy, None, None, 0, _given_away(view, row.probe),
                remedy(row.probe, view.view, command),
            )  # fmt: skip
    return sorted(leaks.values(), key=lambda leak: (leak.probe == ALL, leak.value is None, leak.p or 0.0, leak.probe))


def _marked(view: View, marker: Marker) -> tuple[str, ...]:
    """Images of the marked class that carry the value, in the marker's own scope."""
    probe = next(p for p in view.markable() if p.name == marker.probe)
    share = marker.real / marker.groups[0], marker.synthetic / marker.groups[1]
    marked = "synthetic" if share[1] > share[0] else "real"
    rows = (probe.values == marker.number) & _is(view, marked) & view.within(marker.scope)
    return _paths(view, np.flatnonzero(rows))


def _given_away(view: View, name: str) -> tuple[str, ...]:
    """The images that a probe gives away most surely: those of the joint rule by their score, else those whose value has the
    most one-sided share of the classes."""
    probe = next((p for p in view.probes if p.name == name), None)
    if probe is None:
        rows, own = view.joint.get(ALL, (np.zeros(len(view.table), bool), np.empty(0)))
        order = np.argsort(-own, kind="stable")
        return _paths(view, np.flatnonzero(rows)[order])
    return _paths(view, _one_sided(view, probe))


def _one_sided(view: View, probe: Probe) -> npt.NDArray[np.int64]:
    """The rows of the class that prevails in its cell, the most lopsided cell first."""
    synthetic = _is(view, "synthetic")
    share: list[Floats] = []
    for mine in (~synthetic, synthetic):
        share.append(np.bincount(probe.codes[mine], minlength=int(probe.codes.max()) + 1) / max(int(mine.sum()), 1))
    lean = share[1] - share[0]
    right = (lean[probe.codes] > 0) == synthetic
    rows = np.flatnonzero(right)
    return rows[np.argsort(-np.abs(lean)[probe.codes[rows]], kind="stable")]


def _is(view: View, origin: str) -> npt.NDArray[np.bool_]:
    column = view.columns["origin"]
    return np.asarray(column.codes == column.names.index(origin), bool)


def _paths(view: View, rows: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """The first few of `rows`, each group once as long as there are others."""
    first = np.sort(np.unique(view.groups[rows], return_index=True)[1])
    chosen = [*rows[first[:EXAMPLES]], *np.delete(rows, first)[: EXAMPLES - len(first[:EXAMPLES])]]
    return tuple(view.table["path"].take(pa.array(chosen, pa.int64())).to_pylist())
