"""What an audit found, as plain values: lines of figures, leaks, what was skipped, and the document that `--json` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaginet_build.auditing.facts import Unreadable
from imaginet_build.auditing.gate import Gate
from imaginet_build.auditing.probes import ALL

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One line of the audit: how well `probe` guesses `track` in `scope` of `view`. `p` is a permutation p value, or None where
    relabelings would cost too much. `gate`: whether the probe counts for the verdict."""

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
    """One fact that tells the classes apart, its clearest value, where to look, and what removes it.

    `examples`: paths of the images that it gives away most surely. `scope`: the content type in which the value marks a class,
    or `all`.
    """

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
    scope: str = ALL


@dataclass(frozen=True)
class Skipped:
    """A table, or a class of one, that has too few groups to say anything."""

    track: str
    view: str | None
    scope: str
    what: str


@dataclass(frozen=True)
class AuditResult:
    """What the audit found; `to_json` is what `--json` prints. `notes`: what to expect of the probes beside the gate."""

    target: str
    kind: str
    rows: int
    gate: Gate
    probes: tuple[Row, ...]
    leaks: tuple[Leak, ...]
    unreadable: tuple[Unreadable, ...]
    skipped: tuple[Skipped, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

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
            "notes": dict(self.notes),
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


def write(result: AuditResult, folder: Path) -> tuple[Path, Path]:
    """`audit.json` and `audit.csv` (the probes) in `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder / "audit.json", folder / "audit.csv"
    json_path.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    result.table().to_csv(csv_path, index=False, float_format="%.6g", lineterminator="\n")
    return json_path, csv_path
