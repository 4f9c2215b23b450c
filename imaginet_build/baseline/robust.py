"""A detector under the conditions of a release's robustness set: a figure for each, and the curves of the sweeps.

The threshold is the one that was frozen on the calibration split; a condition gets no threshold of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from imaginet_build.baseline.data import Rows, from_parquet, places_of
from imaginet_build.baseline.intervals import origin_figures
from imaginet_build.baseline.metrics import Figures, Floats, rounded
from imaginet_build.baseline.parts import shares
from imaginet_build.records import ORIGINS
from imaginet_build.releases import release

CONFIG = "robustness"
PLAIN = "centre"
"""The condition that does nothing but cut out the middle: what the others are to be held against."""

WHAT = (
    "the test images under the conditions of the release's config robustness, at the threshold that the calibration split "
    "froze: AUC with the central 95 % of cluster bootstraps over groups"
)
LEAN = (
    "lean: the share of synthetic images missed less the share of real ones accused, at the frozen threshold, -1 to 1: 1 calls "
    "everything real, -1 everything synthetic, 0 errs on both sides alike. How far a perturbation moves both classes to one "
    "side of the threshold (the response bias of signal detection, Macmillan and Creelman 2005, in shares instead of z); "
    "`score` is its largest size over the conditions"
)
Scored = Mapping[str, tuple[Rows, Floats]]
_SWEEP = re.compile(r"(jpeg|webp|blur|noise|crop-to|resize-12)-([\d.]+)")
_STRENGTH: Mapping[str, Callable[[float], float]] = {"resize-12": lambda i: round(12 / i, 4)}


def conditions(folder: Path) -> dict[str, Rows]:
    """The rows of each condition, in the order of the release's own list; empty where it has no robustness set.

    Within a condition rows keep the order of their files, so that each row group is read once. Rows without pixels, which may
    not be passed on, are left out.
    """
    found = release.shards(folder, CONFIG).get("test", [])
    if not found:
        return {}
    table = release.rows(folder, CONFIG)
    columns = {n: table[n].to_pylist() for n in ("id", "label", "content_type", "family", "generator", "group", "condition")}
    here = ~np.asarray(table["fetch"].is_valid()) if "fetch" in table.column_names else np.ones(table.num_rows, bool)
    sizes = np.stack([table["width"].to_numpy(), table["height"].to_numpy()], axis=1).astype(np.int64)
    places = places_of(found)
    names = release.features_of(found[0])["condition"]["names"]
    condition = np.asarray(columns["condition"], dtype=object)
    parts = {}
    for name in names:
        rows = np.flatnonzero((condition == name) & here).tolist()
        if rows:
            parts[name] = Rows(
                title=f"{folder.name}:{CONFIG}:{name}",
                ids=tuple(columns["id"][i] for i in rows),
                label=np.array([ORIGINS.index(columns["label"][i]) for i in rows], np.int64),
                content_type=tuple(columns["content_type"][i] for i in rows),
                family=tuple(columns["family"][i] for i in rows),
                generator=tuple(columns["generator"][i] for i in rows),
                group=tuple(columns["group"][i] or columns["id"][i] for i in rows),
                size=sizes[rows],
                read=functools.partial(from_parquet, [places[i] for i in rows]),
            )
    return parts


def scored(folder: Path, score: Callable[[Rows], Floats]) -> Scored:
    """The rows of every condition with the detector's answers; empty where the release at `folder` has no robustness set.

    `score`: (seeds, n) calibrated P(synthetic) of some rows, so that every frozen threshold is 0.5.
    """
    return {name: (rows, score(rows)) for name, rows in conditions(folder).items()}


def judged(found: Scored, bootstrap: int) -> Figures | None:
    """What a detector reaches under every condition; None without any.

    `worst` names the condition with the lowest AUC; `curves` has for each sweep its points by strength: strength, AUC, and the
    interval's ends. Every condition says its `lean`; `one_sided` has the largest.
    """
    if not found:
        return None
    under: dict[str, Figures] = {name: _figures(rows, scores, bootstrap) for name, (rows, scores) in found.items()}
    known = {name: figures["auc"] for name, figures in under.items() if figures["auc"] is not None}
    return {
        "conditions": under,
        "curves": _curves(under),
        "worst": min(known, key=lambda name: (known[name], name)) if known else None,
        "plain": PLAIN if PLAIN in under else None,
        "one_sided": one_sided(under),
        "what": WHAT,
    }


def one_sided(under: Mapping[str, Figures]) -> Figures:
    """The one-sided bias of the frozen threshold: `score`, 0 to 1, is the largest size of a condition's `lean`, `worst` the
    condition, `mean` the mean size over all. 0: wherever it errs, it errs on both sides alike."""
    leans = {name: figures["lean"] for name, figures in under.items() if figures["lean"] is not None}
    if not leans:
        return {"score": None, "what": LEAN, "reason": "no condition has both classes"}
    worst = max(leans, key=lambda name: (abs(leans[name]), name))
    mean = rounded(float(np.mean([abs(lean) for lean in leans.values()])))
    return {"score": abs(leans[worst]), "worst": worst, "lean": leans[worst], "mean": mean, "what": LEAN}


def _figures(rows: Rows, scores: Floats, bootstrap: int) -> Figures:
    figures = origin_figures(rows.label, scores, rows.group, bootstrap) | shares(rows.label, scores)
    sides = (figures["found"], figures["false_alarms"])
    figures["lean"] = None if None in sides else rounded(1 - sides[0] - sides[1])
    return figures


def _curves(found: Mapping[str, Figures]) -> dict[str, list[list[float | None]]]:
    curves: dict[str, list[list[float | None]]] = {}
    for name, figures in found.items():
        if match := _SWEEP.fullmatch(name):
            kind, strength = match[1], float(match[2])
            at = _STRENGTH.get(kind, float)(strength)
            ends: Sequence[float | None] = figures["ci95"] or [None, None]
            curves.setdefault({"resize-12": "resize", "crop-to": "crop"}.get(kind, kind), []).append(
                [at, figures["auc"], *ends]
            )
    return {kind: sorted(points, key=lambda point: point[0] or 0) for kind, points in curves.items()}
