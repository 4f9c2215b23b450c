"""`audit`: can the labels of a data set be guessed without looking at a picture? Figures, a verdict, and what to do.

The report holds every probe alone and all together, on origin, family and generator, over everything and per content type,
and the verdict of the gate (`gate.decide`) that stands before anything is published.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build.auditing.facts import PIXELS, Map, Target
from imaginet_build.auditing.findings import AuditResult, Leak, Row, Skipped, write
from imaginet_build.auditing.gate import LIMIT, PERMUTATIONS, Gate, decide, joint
from imaginet_build.auditing.leaks import leaks_of
from imaginet_build.auditing.markers import markers, self_test
from imaginet_build.auditing.pixel_probes import EXPECTED
from imaginet_build.auditing.probe_tables import RELABELINGS, TRACKS, View, select
from imaginet_build.auditing.probes import ALL
from imaginet_build.auditing.targets import read, read_pair

__all__ = ["ALL", "AuditResult", "Leak", "Row", "Skipped", "audit", "audit_facts", "audit_folders", "write"]

log = logging.getLogger(__name__)

REFITS = 19
"""Relabelings of all facts together in each content type of the view that the gate looks at: the fewest with a 95 % point."""


def audit(
    target: Path | str, *, map: Map = map, pixels: bool = False, limit: float = LIMIT, permutations: int = PERMUTATIONS
) -> AuditResult:
    """Audit a release, a work folder, a folder with an index, an annotation list or a Hub data set.

    `map` measures the images (default: one after another); `pixels` adds the pixel probes, on `facts.PIXEL_ROWS` images of each
    view at most. Raises `UsageError` where the target is not understood; a refusal by the gate is an answer and no error.
    """
    return audit_facts(read(target, map, pixels), limit=limit, permutations=permutations)


def audit_folders(
    real: Path | str,
    fake: Path | str,
    *,
    map: Map = map,
    pixels: bool = False,
    limit: float = LIMIT,
    permutations: int = PERMUTATIONS,
) -> AuditResult:
    """Audit two plain folders, one of real and one of synthetic images."""
    return audit_facts(read_pair(real, fake, map, pixels), limit=limit, permutations=permutations)


def audit_facts(target: Target, *, limit: float = LIMIT, permutations: int = PERMUTATIONS) -> AuditResult:
    """Audit facts that have been read already."""
    lines: list[Row] = []
    leaks: list[Leak] = []
    skipped: list[Skipped] = []
    verdict: Gate | None = None
    _warn_of_both_labels(target.table)
    for name in target.views:  # `equalized` comes first: where it exists, it is what the gate looks at
        times = min(RELABELINGS, permutations)
        view = View(name, select(target.table, name), times, min(REFITS, times) if verdict is None else 0)
        for track in TRACKS:
            lines += view.lines(track, skipped)
        _, cases = view.cases("origin", ALL, [])
        found = markers(view.markable(), cases, view.parts())
        if verdict is None:
            value, chance = joint([p for p in view.probes if p.gate], cases, permutations)
            tested = self_test(view.markable(), cases, view.parts())
            verdict = decide(value, chance, found, int(cases.groups.max()) + 1, limit, tested)
            lines = [_with_p(r, value, chance) if _is_gate(r, name) else r for r in lines]
        leaks += leaks_of(view, lines, found, limit, target.command)
        log.debug("%s view: %d rows", name, len(view.table))
    assert verdict is not None
    notes = {row.probe: EXPECTED[row.probe] for row in lines if not row.gate}
    return AuditResult(
        target.name, target.kind, len(target.table), verdict, tuple(lines), tuple(leaks), target.unreadable, tuple(skipped),
        notes,
    )  # fmt: skip


def _warn_of_both_labels(table: pa.Table) -> None:
    """Say that the same pixels stand under both labels: nothing can tell those apart, and no probe shows it."""
    alike = table.filter(pc.starts_with(table["group"], PIXELS)).group_by("group").aggregate([("origin", "count_distinct")])
    both = alike.filter(pc.equal(alike["origin_count_distinct"], 2))
    if len(both):
        one = table.filter(pc.equal(table["group"], both["group"][0]))
        log.warning(
            "%d images stand under both labels, pixel by pixel, such as %s: one of the labels is wrong. "
            "build-imaginet balance leaves such images out", len(both), " and ".join(one["path"].to_pylist()[:2]),
        )  # fmt: skip


def _is_gate(row: Row, view: str | None) -> bool:
    return row.track == "origin" and row.probe == ALL and row.scope == ALL and row.view == view


def _with_p(row: Row, value: float | None, chance: npt.NDArray[np.float64]) -> Row:
    if value is None or not chance.size:
        return row
    return replace(row, p=float((np.sum(chance >= value) + 1) / (chance.size + 1)))
