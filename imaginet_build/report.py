"""`report`: one HTML file that shows a work folder, whichever stages have run, and opens offline.

The page asks for nothing from anywhere: images are inside it, its policy forbids every request, and the one small script (the
filter) is named there by its hash. All text that came from outside is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

from imaginet_build.errors import UsageError
from imaginet_build.running.reportdata import LEAKS, Content, Curve, gather
from imaginet_build.store import write_text

NAME = "report.html"
_PLOT = 300
_SWEEP = 120

_SCRIPT = """
const picks = [...document.querySelectorAll("select[data-filter]")];
const show = () => {
  let shown = 0;
  for (const cell of document.querySelectorAll("[data-cell]")) {
    cell.hidden = picks.some(p => p.value && cell.dataset[p.dataset.filter] !== p.value);
    shown += !cell.hidden;
  }
  document.getElementById("shown").textContent = shown + " cells shown";
};
picks.forEach(p => p.addEventListener("change", show));
"""


def report(work: Path, *, samples: int = 12, side: int = 128) -> Path:
    """Write `<work>/report.html` and return its path.

    `samples`: thumbnails for each cell; `side`: pixels of a thumbnail's longer side. Raises `UsageError` where `work` is no
    folder.
    """
    work = Path(work)
    if not work.is_dir():
        raise UsageError(f"no work folder {work}: name one with --work, or make one with build-imaginet run")
    path = work / NAME
    write_text(path, page(gather(work, samples, side)))
    return path


def page(content: Content) -> str:
    """The page as text."""
    # Lenient on purpose: a figure another version did not write leaves its place empty.
    environment = Environment(
        loader=PackageLoader("imaginet_build"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, text=_text, line=_line)
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        content=content,
        script=Markup(_SCRIPT),  # noqa: S704 - a constant of this module
        script_hash=digest,
        figures=figures(content),
        audit_tables=_audit_tables(content.audit),
        heat_maps=heat_maps(content.audit),
        audit_notes=(content.audit or {}).get("notes") or {},
        shown_leaks=LEAKS,
        breakdowns=_breakdowns(content.results),
        controls=_flat((content.results or {}).get("controls") or {}),
        origin=_reasoned(((content.results or {}).get("tracks") or {}).get("origin") or {}),
        generator=_flat(_named(((content.results or {}).get("tracks") or {}).get("generator") or {})),
        confusions=_confusions(((content.results or {}).get("tracks") or {}).get("generator") or {}),
        headline=(content.results or {}).get("headline") or {},
        plot=_PLOT,
        sweeps=sweeps(content.results),
        sweep_height=_SWEEP,
    )


def figures(content: Content) -> list[tuple[str, str, str]]:
    """The five figures that matter, each as (name, value, what it means); `-` for what has not run yet."""
    gate = (content.audit or {}).get("gate") or {}
    origin = ((content.results or {}).get("tracks") or {}).get("origin") or {}
    kept = f"of {content.rows} collected and drawn" if content.kept is not None else "no plan yet"
    filled = sum(cell.filled for cell in content.cells)
    ci = origin.get("ci95")
    return [
        ("images", str(content.rows if content.kept is None else content.kept), kept),
        (
            "twins removed",
            str(content.twins_removed) if content.kept is not None else "-",
            f"in {content.twin_groups} groups" if content.kept is not None else "balance has not run",
        ),
        (
            "cells filled",
            f"{filled} of {len(content.cells)}" if content.kept is not None else "-",
            "category x origin x generator or source",
        ),
        (
            "audit",
            _number(gate.get("value")) if gate else "-",
            f"balanced accuracy without pixels; {gate.get('verdict')}, limit {_number(gate.get('limit'))}"
            if gate
            else "audit has not run",
        ),
        (
            "baseline AUC",
            _number(origin.get("auc")) if origin else "-",
            (f"95 % interval {_text(ci)}" if ci else "origin, test split") if origin else "baseline has not run",
        ),
    ]


def _audit_tables(audit: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The probes by track and view, each table's rows split into scope `all` and the rest."""
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for probe in (audit or {}).get("probes") or []:
        key = (str(probe["track"]), str(probe.get("view") or "as given"))
        table = tables.setdefault(key, {"track": key[0], "view": key[1], "all": [], "scopes": []})
        table["all" if probe.get("scope", "all") == "all" else "scopes"].append(probe)
    order = {"origin": 0, "family": 1, "generator": 2}
    return sorted(tables.values(), key=lambda t: (order.get(t["track"], 3), t["track"], t["view"]))


def heat_maps(audit: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Probe x cell, a map for each track: `columns` are (view, content type), `rows` (probe, counts for the gate, cells).

    A cell holds the probe's figures and `heat`, 0 to 10: how far it lies between chance (one over the number of classes) and
    certainty; None where nothing could be said. Probes of the gate come first, each part hottest first.
    """
    maps = []
    for track in ("origin", "family", "generator"):
        lines = [p for p in (audit or {}).get("probes") or [] if p["track"] == track]
        columns = list(dict.fromkeys((str(p.get("view") or "as given"), str(p.get("scope", "all"))) for p in lines))
        columns.sort(key=lambda c: (c[0] != "equalized", c[0], c[1] != "all", c[1]))
        cells = {(p["probe"], str(p.get("view") or "as given"), str(p.get("scope", "all"))): p for p in lines}
        rows = []
        for name in dict.fromkeys(p["probe"] for p in lines):
            found = [cells.get((name, *column)) for column in columns]
            row = [{**p, "heat": _heat(p)} if p else None for p in found]
            rows.append((name, any(p.get("gate", True) for p in found if p), row))
        rows.sort(key=lambda r: (not r[1], r[0] != "all", -max(c["heat"] for c in r[2] if c)))
        if rows:
            maps.append({"track": track, "columns": columns, "rows": rows})
    return maps


def _heat(probe: Mapping[str, Any]) -> int:
    chance = 1 / max(int(probe.get("classes") or 2), 2)
    return max(0, min(10, round(10 * (float(probe["balanced_accuracy"]) - chance) / (1 - chance))))


_ASIDE = ("reasons", "intervals", "oracle", "reason")
"""What a table of figures leaves out; the JSON has it."""


def _breakdowns(results: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """`by_generator`, `by_content_type` and the conditions of `robustness` as tables: name, columns, rows."""
    held, found = results or {}, []
    for part, key, title in (
        (held, "by_generator", "By generator"),
        (held, "by_family", "By family"),
        (held, "by_content_type", "By content type"),
        (held, "by_source", "By source of real images"),
        (held, "by_size", "By shorter side"),
        (held.get("by_release") or {}, "windows", "By the year a generator was released"),
        (held.get("leave_one_out") or {}, "generators", "Leave one generator out"),
        (held.get("robustness") or {}, "conditions", "Robustness: under each condition, threshold frozen"),
    ):
        table = {name: row for name, row in (part.get(key) or {}).items() if isinstance(row, dict)}
        columns = [c for c in dict.fromkeys(column for row in table.values() for column in row) if c not in _ASIDE]
        if table:
            order = table if key == "conditions" else sorted(table)
            rows = [(name, [table[name].get(column) for column in columns]) for name in order]
            found.append({"title": title, "columns": columns, "rows": rows})
    return found


def sweeps(results: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The robustness curves as numbers for the template: for each sweep the line, the band of its intervals, and the strengths
    below. AUC 0.5 lies at the foot, 1 at the top; what falls below the foot is cut there."""
    found = []
    for kind, points in (((results or {}).get("robustness") or {}).get("curves") or {}).items():
        known = [point for point in points if point[1] is not None]
        if len(known) < 2:
            continue
        step = _PLOT / (len(known) - 1)

        def at(k: int, value: float, step: float = step) -> str:
            return f"{k * step:.1f},{min(1.0, 2 * (1 - value)) * _SWEEP:.1f}"

        banded = [(k, point) for k, point in enumerate(known) if point[2] is not None]
        band = [at(k, p[3]) for k, p in banded] + [at(k, p[2]) for k, p in reversed(banded)]
        line = " ".join(at(k, p[1]) for k, p in enumerate(known))
        ticks = [(round(k * step, 1), f"{known[k][0]:g}") for k in sorted({0, len(known) // 2, len(known) - 1})]
        found.append({"kind": kind, "line": line, "band": " ".join(band), "ticks": ticks, "low": min(p[1] for p in known)})
    return found


def _reasoned(figures_of: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Figures as lines; one that is missing gives the reason that stands beside it."""
    why = figures_of.get("reasons") or {}
    return [(k, str(why[k]) if v is None and why.get(k) else _text(v)) for k, v in figures_of.items() if k != "reasons"]


def _named(tracks: Mapping[str, Any]) -> dict[str, Any]:
    """The generator track without what is no line: confusions have tables of their own, the tree is in the JSON."""
    kept = {name: one for name, one in tracks.items() if name != "tree" and isinstance(one, dict)}
    return {name: {k: v for k, v in one.items() if k != "confusion"} for name, one in kept.items()}


def _confusions(tracks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`true`, `named` and `counts` of each track that has a confusion, under its name."""
    return [{"of": name, **one["confusion"]} for name, one in tracks.items() if isinstance(one, dict) and one.get("confusion")]


def _flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Nested figures as lines: ("permutation: mean", "0.512")."""
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{path}: {key}" if path else str(key)
        if key != "reasons":
            found += _flat(item, name) if isinstance(item, dict) else [(name.replace("_", " "), _text(item))]
    return found


def _number(value: object) -> str:
    """A figure as people read it: whole numbers whole, others with three decimals, nothing as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    """Whatever a result may hold: a figure, an interval, a reason, a list."""
    if isinstance(value, dict):
        return str(value["reason"]) if value.get("reason") else ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        pair = len(value) == 2 and all(isinstance(v, float) for v in value)
        return " to ".join(map(_number, value)) if pair else ", ".join(map(_text, value))
    return _number(value)


def _line(curve: Curve) -> str:
    """The points of a ROC curve for an SVG polyline in a square of `_PLOT` units."""
    return " ".join(f"{x * _PLOT:.1f},{(1 - y) * _PLOT:.1f}" for x, y in zip(curve.fpr, curve.tpr, strict=True))
