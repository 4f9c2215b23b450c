"""`audit`: can the labels of a data set be guessed without looking at a picture? Figures, a verdict, and what to do.

The report holds every probe alone and all together, on origin, family and generator, over everything and per content type,
and the verdict of the gate (`gate.decide`) that stands before anything is published.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from imaginet_build.crossfit import Cases, Guess, guess_all, guess_one, relabelings
from imaginet_build.facts import Map, Target, Unreadable
from imaginet_build.gate import LIMIT, PERMUTATIONS, Gate, Marker, decide, joint, markers
from imaginet_build.probes import Probe, matrix, pixel_codes, probes_of, remedy
from imaginet_build.records import ORIGINS, SPLITS
from imaginet_build.targets import read, read_pair

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TRACKS = ("origin", "family", "generator")
ALL = "all"
FEWEST_GROUPS = 5
"""A class with fewer groups is left out of a table, and a table with fewer than two such classes is left out whole."""
_BIG = 20_000
_EXAMPLES = 5


@dataclass(frozen=True)
class Row:
    """One line of the audit: how well `probe` guesses `track` in `scope` of `view`. `p` is a permutation p value or None."""

    track: str
    view: str | None
    probe: str
    scope: str
    balanced_accuracy: float
    auc: float
    ci95: tuple[float, float]
    accuracy: float
    p: float | None
    classes: int
    rows: int
    gate: bool


@dataclass(frozen=True)
class Leak:
    """One fact that tells the classes apart, its clearest value, where to look, and what removes it."""

    view: str | None
    probe: str
    value: str | None
    p: float | None
    balanced_accuracy: float | None
    real: int | None
    synthetic: int | None
    more_values: int
    examples: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class Skipped:
    """A table, or a class of one, that has too few groups to say anything."""

    track: str
    view: str | None
    scope: str
    what: str


@dataclass(frozen=True)
class AuditResult:
    """What the audit found; `to_json` is what `--json` prints."""

    target: str
    kind: str
    rows: int
    gate: Gate
    probes: tuple[Row, ...]
    leaks: tuple[Leak, ...]
    unreadable: tuple[Unreadable, ...]
    skipped: tuple[Skipped, ...]

    @property
    def refused(self) -> bool:
        """Whether nothing of this may be published without `--force`."""
        return self.gate.verdict == "refused"

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        gate = asdict(self.gate)
        gate["markers"] = len(self.gate.markers)
        return {
            "target": self.target,
            "kind": self.kind,
            "rows": self.rows,
            "gate": gate,
            "probes": [asdict(row) | {"ci95": list(row.ci95)} for row in self.probes],
            "leaks": [asdict(leak) | {"examples": list(leak.examples)} for leak in self.leaks],
            "unreadable": [asdict(one) for one in self.unreadable],
            "skipped": [asdict(one) for one in self.skipped],
        }

    def table(self) -> pd.DataFrame:
        """The probes as a table: the fields of `Row`, the interval as ci_low and ci_high."""
        import pandas as pd

        rows = [asdict(row) for row in self.probes]
        for row in rows:
            row["ci_low"], row["ci_high"] = row.pop("ci95")
        return pd.DataFrame(rows)

    def row(self, track: str, probe: str, scope: str = ALL, view: str | None = None) -> Row | None:
        """One line, or None where it was skipped."""
        wanted = (track, probe, scope, view)
        return next((r for r in self.probes if (r.track, r.probe, r.scope, r.view) == wanted), None)


def audit(
    target: Path | str, *, map: Map = map, pixels: bool = False, limit: float = LIMIT, permutations: int = PERMUTATIONS
) -> AuditResult:
    """Audit a release, a work folder, a folder with an index, an annotation list or a Hub data set.

    `map` measures the images (default: one after another); `pixels` adds the pixel probes, at several times the cost. Raises
    `UsageError` where the target is not understood; a refusal by the gate is an answer and no error.
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
    for view in target.views:  # `equalized` comes first: where it exists, it is what the gate looks at
        table = target.table.filter(pa.array(_mask(target.table, "view", view)))
        looked = _View(view, table)
        for track in TRACKS:
            lines += looked.lines(track, skipped)
        rows, cases = looked.cases("origin", ALL, [])
        if verdict is None:
            found = markers(looked.markable(), cases)
            value, chance = joint([p for p in looked.probes if p.gate], cases, permutations)
            verdict = decide(value, chance, found, int(cases.groups.max()) + 1, limit)
            lines = [_with_p(r, value, chance) if _is_gate(r, view) else r for r in lines]
        else:
            found = markers(looked.markable(), cases)
        leaks += _leaks(target, looked, lines, found, limit)
        log.debug("%s view: %d rows", view, len(rows))
    assert verdict is not None
    return AuditResult(
        target.name, target.kind, len(target.table), verdict, tuple(lines), tuple(leaks), target.unreadable, tuple(skipped)
    )


def write(result: AuditResult, folder: Path) -> tuple[Path, Path]:
    """`audit.json` and `audit.csv` (the probes) in `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder / "audit.json", folder / "audit.csv"
    json_path.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    result.table().to_csv(csv_path, index=False, float_format="%.6g", lineterminator="\n")
    return json_path, csv_path


class _View:
    """One view of the target with its probes coded once."""

    def __init__(self, view: str | None, table: pa.Table) -> None:
        self.view = view
        self.table = table
        self.probes = probes_of(table)
        self.pixels = pixel_codes(table)
        self.groups = _codes(table["group"].to_pylist())[0]
        splits = table["split"].to_pylist()
        self.parts = np.array([SPLITS.index(name) if name else -1 for name in splits], np.int64)
        self.columns = {t: np.array(table[t].to_pylist(), dtype=object) for t in (*TRACKS, "content_type")}

    def scopes(self) -> list[str]:
        """`all`, and every content type if there are several."""
        types = sorted(set(self.columns["content_type"].tolist()))
        return [ALL, *types] if len(types) > 1 else [ALL]

    def markable(self) -> list[Probe]:
        """The probes whose single values may be markers: facts of the file, not the category it is filed under."""
        return [p for p in self.probes if p.gate and p.name != "content_type"]

    def cases(self, track: str, scope: str, skipped: list[Skipped]) -> tuple[npt.NDArray[np.bool_], Cases]:
        """Which rows are in a table, and their labels; classes with too few groups are left out and noted."""
        rows = np.array([v is not None for v in self.columns[track]], bool)
        if track != "origin":
            rows &= self.columns["origin"] == "synthetic"
        if scope != ALL:
            rows &= self.columns["content_type"] == scope
        if track == "origin" and scope == ALL:
            words: list[str] = list(ORIGINS)
        else:
            words = []
            for word in sorted({str(v) for v in self.columns[track][rows]}):
                count = np.unique(self.groups[rows & (self.columns[track] == word)]).size
                if count >= FEWEST_GROUPS:
                    words.append(word)
                else:
                    skipped.append(Skipped(track, self.view, scope, f"{word}: {count} groups, fewer than {FEWEST_GROUPS}"))
                    rows &= self.columns[track] != word
            words.sort(key=lambda w: -int(np.sum(self.columns[track][rows] == w)))  # ties in a rule go to the commoner class
        labels = np.array([words.index(str(v)) for v in self.columns[track][rows]], np.int64)
        groups = np.unique(self.groups[rows], return_inverse=True)[1].astype(np.int64)
        parts = None if (self.parts < 0)[rows].any() or not rows.any() else np.unique(self.parts[rows], return_inverse=True)[1]
        return rows, Cases(labels, groups, tuple(words), parts)

    def lines(self, track: str, skipped: list[Skipped]) -> Iterator[Row]:
        """Every probe alone, extension with content type, and all together, in every scope of one track."""
        for scope in self.scopes():
            rows, cases = self.cases(track, scope, skipped)
            if len(cases.classes) < 2 or int(cases.groups_per_class().min()) < 2:
                skipped.append(Skipped(track, self.view, scope, "fewer than two classes to tell apart"))
                continue
            fold = cases.folds()
            null = relabelings(cases, 99 if len(cases.labels) <= _BIG else 19) if track == "origin" else []
            taken = [p.take(rows) for p in self.probes]
            for probe in taken:
                if probe.name == "content_type" and scope != ALL:
                    continue
                yield self._row(track, scope, probe.name, cases, guess_one(*_cells(probe.codes), cases, fold, null), probe.gate)
            by_name = {p.name: p for p in taken}
            if {"extension", "content_type"} <= by_name.keys() and scope == ALL:
                both = by_name["extension"].codes * 64 + by_name["content_type"].codes
                yield self._row(
                    track, scope, "extension+content_type", cases, guess_one(*_cells(both), cases, fold, null), True
                )
            gated = [p for p in taken if p.gate]
            guess, _ = guess_all(matrix(gated), tuple(p.ordered for p in gated), cases, fold)
            yield self._row(track, scope, ALL, cases, guess, True)
            for name in self.pixels if scope == ALL else ():
                codes = self.pixels[name][rows]
                guess, _ = guess_all(codes, (True,) * codes.shape[1], cases, fold)
                yield self._row(track, scope, name, cases, guess, False)

    def _row(self, track: str, scope: str, probe: str, cases: Cases, guess: Guess, gate: bool) -> Row:
        return Row(
            track, self.view, probe, scope, round(guess.balanced_accuracy, 6), round(guess.auc, 6),
            (round(guess.ci95[0], 6), round(guess.ci95[1], 6)), round(guess.accuracy, 6), guess.p, len(cases.classes),
            len(cases.labels), gate,
        )  # fmt: skip


def _mask(table: pa.Table, column: str, value: str | None) -> list[bool]:
    return [v == value for v in table[column].to_pylist()]


def _codes(values: Sequence[object]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Values as numbers in the order of their names, so that the order of rows decides nothing."""
    names, inverse = np.unique(np.array([str(v) for v in values]), return_inverse=True)
    return inverse.astype(np.int64), names.tolist()


def _cells(codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    unique, cells = np.unique(codes, return_inverse=True)
    return cells.astype(np.int64), len(unique)


def _is_gate(row: Row, view: str | None) -> bool:
    return row.track == "origin" and row.probe == ALL and row.scope == ALL and row.view == view


def _with_p(row: Row, value: float | None, chance: npt.NDArray[np.float64]) -> Row:
    if value is None or not chance.size:
        return row
    return replace(row, p=float((np.sum(chance >= value) + 1) / (chance.size + 1)))


def _leaks(target: Target, looked: _View, lines: Sequence[Row], found: Sequence[Marker], limit: float) -> list[Leak]:
    """One entry for every probe that marks a class or tells it above the limit, surest first; the joint rule last."""
    leaks: dict[str, Leak] = {}
    lines = [r for r in lines if r.track == "origin" and r.scope == ALL and r.view == looked.view and r.gate]
    score = {r.probe: r for r in lines}
    for marker in found:
        if marker.probe in leaks:
            held = leaks[marker.probe]
            leaks[marker.probe] = replace(held, more_values=held.more_values + 1)
            continue
        line = score.get(marker.probe)
        leaks[marker.probe] = Leak(
            looked.view, marker.probe, marker.value, marker.p, line.balanced_accuracy if line else None, marker.real,
            marker.synthetic, 0, _examples(looked, marker), remedy(marker.probe, looked.view, target.command),
        )  # fmt: skip
    for row in lines:
        sure = row.p is None or row.p <= 0.05
        if row.probe not in leaks and row.balanced_accuracy > limit and sure:
            leaks[row.probe] = Leak(
                looked.view, row.probe, None, row.p, row.balanced_accuracy, None, None, 0, (),
                remedy(row.probe, looked.view, target.command),
            )  # fmt: skip
    return sorted(leaks.values(), key=lambda leak: (leak.probe == ALL, leak.value is None, leak.p or 0.0, leak.probe))


def _examples(looked: _View, marker: Marker) -> tuple[str, ...]:
    """A few images of the marked class that carry the value."""
    probe = next(p for p in looked.probes if p.name == marker.probe)
    share = marker.real / marker.groups[0], marker.synthetic / marker.groups[1]
    marked = ORIGINS[int(share[1] > share[0])]
    rows = (probe.values == probe.names.index(marker.value)) & (looked.columns["origin"] == marked)
    places = np.flatnonzero(rows)[:_EXAMPLES]
    return tuple(looked.table["path"].take(pa.array(places)).to_pylist())
