"""Several detectors on one test: one table, one plot, and for each two of them the difference on the same resampled groups.

The detector that sees no pixel always has its row: what it reaches, nobody has to look at a picture for. Rows are ordered by
the worst generator, not by the mean: a detector is as good as what gets past it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from imaginet_build.baseline import judge, metrics, results
from imaginet_build.baseline.controls import permuted
from imaginet_build.baseline.evaluate import PERMUTATIONS, evaluate
from imaginet_build.baseline.intervals import BOOTSTRAPS, ends, resamples
from imaginet_build.baseline.judge import NO_PIXEL
from imaginet_build.baseline.metrics import Figures, Floats, rounded
from imaginet_build.baseline.parts import Parts
from imaginet_build.baseline.testset import Test
from imaginet_build.store import write_text

NAME = "leaderboard"
CROSSED = "cross-fitted over groups on the test itself, which brings no train split"
COLUMNS = ("auc", "ap", "balanced_accuracy", "tpr_at_fpr_1e-2", "eer", "ece", "brier", "cllr")
_PAIRED = ("auc", "balanced_accuracy")
_WIDTH, _ROW = 520, 34


def leaderboard(
    test: Test,
    detectors: Sequence[tuple[str, Sequence[Path]]],
    out: Path | None = None,
    bootstrap: int = BOOTSTRAPS,
    permutations: int = PERMUTATIONS,
) -> dict[str, Any]:
    """Judge each (name, checkpoints) on the same test; the detector without pixels is added where it is not among them.

    The document has `leaderboard` (a row a detector, best worst generator first), `differences` (each two of them) and
    `detectors` (the whole evaluation of each). With `out`: leaderboard.json, .csv, .html and scores.csv are written there.
    """
    for name, checkpoints in detectors:  # a fault of the last one is said before the first is judged
        judge.known(name, checkpoints)
    documents: dict[str, dict[str, Any]] = {}
    scores: dict[str, Floats] = {}
    for name, checkpoints in detectors:
        done = evaluate(test, detector=name, checkpoints=checkpoints, bootstrap=bootstrap, permutations=permutations)
        documents[name], scores[name] = done.document, done.scores
    if NO_PIXEL not in documents:
        documents[NO_PIXEL], scores[NO_PIXEL] = _no_pixel(test, bootstrap, permutations)
    ranked = sorted(documents, key=lambda name: (*_rank(documents[name]), name))
    document: dict[str, Any] = {
        "test": test.described(),
        "leaderboard": [{"rank": k, **row(documents[name])} for k, name in enumerate(ranked, 1)],
        "differences": differences(test, {name: scores[name] for name in ranked}, bootstrap),
        "detectors": {name: documents[name] for name in ranked},
    }
    for key in ("contamination", "unreadable"):
        if said := getattr(test, key):
            document[key] = said
    if out is not None:
        document["files"] = [str(path) for path in _write(out, document, test, scores)]
    return document


def _no_pixel(test: Test, bootstrap: int, permutations: int) -> tuple[dict[str, Any], Floats]:
    if test.release is not None and test.train is not None:
        done = evaluate(test, detector=NO_PIXEL, bootstrap=bootstrap, permutations=permutations)
        return done.document, done.scores
    scores = judge.crossed(test.rows)[None]
    parts = Parts(test.rows, scores, bootstrap)
    by_generator, origin = parts.by_generator(), parts.whole()
    origin |= {"threshold": metrics.HALF, "threshold_from": None}
    origin["reasons"]["threshold"] = "cross-fitted: its own 0.5"
    document: dict[str, Any] = {
        "detector": NO_PIXEL,
        "checkpoint": None,
        "test": test.described(),
        "seeds": [None],
        "how": CROSSED,
    }
    document["controls"] = {
        "permuted_labels": permuted(test.rows.label, test.rows.group, scores, permutations),
        "smoothness": {"verdict": "not seen", "words": "it sees no pixel, smooth or not"},
    }
    document |= {"headline": parts.headline(by_generator), "tracks": {"origin": origin}, "by_generator": by_generator}
    return document, scores


def _rank(document: Mapping[str, Any]) -> tuple[float, float]:
    worst = document["headline"]["worst"]
    overall = document["tracks"]["origin"]["auc"]
    return (-worst["auc"]["value"] if worst else 0.0, -overall if overall is not None else 0.0)


def row(document: Mapping[str, Any]) -> Figures:
    """One line of the table: the worst generator beside the mean, the whole test, and what the controls say."""
    head, origin, controls = document["headline"], document["tracks"]["origin"], document.get("controls", {})
    worst, mean = (head["worst"] or {}).get("auc", {}), (head["mean"] or {}).get("auc", {})
    robustness = document.get("robustness") or {}
    under = robustness.get("worst")
    return {
        "detector": document["detector"],
        "checkpoint": document["checkpoint"],
        "worst_auc": worst.get("value"),
        "worst_generator": worst.get("generator"),
        "worst_ci95": worst.get("ci95"),
        "mean_auc": mean.get("value"),
        "mean_ci95": mean.get("ci95"),
        **{name: origin[name] for name in COLUMNS},
        "ci95": origin["ci95"],
        "chance_reaches": controls.get("permuted_labels", {}).get("reachable"),
        "smoothness": controls.get("smoothness", {}).get("verdict"),
        "worst_condition": under,
        "worst_condition_auc": robustness["conditions"][under]["auc"] if under else None,
        "how": document.get("how"),
    }


def differences(test: Test, scores: Mapping[str, Floats], bootstrap: int) -> list[Figures]:
    """For each two detectors the first less the second, in AUC and balanced accuracy, with the central 95 % over resamples of
    the groups that both are judged on; `sure`: the interval leaves 0 out. None where the test is too small."""
    label, groups = test.rows.label, test.rows.group
    if metrics.too_few(label, groups):
        return []
    one = {name: metrics.every(label, p, np.ones((1, len(label))), _PAIRED) for name, p in scores.items()}
    weight = resamples(groups, bootstrap, "paired")
    spread = {name: metrics.every(label, p, weight, _PAIRED) for name, p in scores.items()} if bootstrap else {}
    found = []
    for first, second in itertools.combinations(scores, 2):
        said: Figures = {"first": first, "second": second}
        for name in _PAIRED:
            between = ends(spread[first][name] - spread[second][name]) if spread else None
            value = rounded(one[first][name][0] - one[second][name][0])
            sure = None if between is None else bool(between[0] > 0 or between[1] < 0)
            said[name] = {"value": value, "ci95": between, "sure": sure}
        found.append(said)
    return found


def plot(documents: Mapping[str, Mapping[str, Any]]) -> Figures:
    """The plot as numbers for its template: for each detector its line, its dots (a generator each) and its interval."""
    from_ = min([0.5, *(v for d in documents.values() for v in _values(d))])

    def x(value: float) -> float:
        return round((value - from_) / max(1e-9, 1 - from_) * _WIDTH, 1)

    lines = []
    for k, (name, document) in enumerate(documents.items()):
        origin, worst = document["tracks"]["origin"], (document["headline"]["worst"] or {}).get("auc", {}).get("generator")
        dots = [
            {"x": x(f["auc"]), "name": g, "auc": f["auc"], "worst": g == worst}
            for g, f in document["by_generator"].items()
            if f["auc"] is not None
        ]
        ends_ = tuple(x(v) for v in origin["ci95"]) if origin["ci95"] else None
        middle = None if origin["auc"] is None else x(origin["auc"])
        lines.append({"name": name, "y": _ROW * k + 20, "dots": dots, "ends": ends_, "middle": middle})
    ticks = [(x(v), f"{v:.2f}") for v in np.linspace(from_, 1, 6)]
    return {"lines": lines, "ticks": ticks, "width": _WIDTH, "height": _ROW * len(lines) + 10, "half": x(0.5)}


def _values(document: Mapping[str, Any]) -> list[float]:
    found = [f["auc"] for f in document["by_generator"].values() if f["auc"] is not None]
    return found + [v for v in (document["tracks"]["origin"]["ci95"] or []) if v is not None]


def page(document: Mapping[str, Any]) -> str:
    """The table and the plot as one HTML page that asks for nothing from anywhere."""
    environment = Environment(loader=PackageLoader("imaginet_build"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, between=_between)
    template = environment.get_template("leaderboard.html.j2")
    return template.render(board=document, plot=plot(document["detectors"]), columns=COLUMNS)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _between(ends_: Sequence[float] | None) -> str:
    return "-" if ends_ is None else f"{ends_[0]:.3f} to {ends_[1]:.3f}"


def _write(out: Path, document: dict[str, Any], test: Test, scores: Mapping[str, Floats]) -> tuple[Path, ...]:
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    table = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in line.items()} for line in document["leaderboard"]]
    paths = tuple(out / f"{NAME}.{suffix}" for suffix in ("json", "csv", "html"))
    write_text(paths[0], json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_text(paths[1], pd.DataFrame(table).to_csv(index=False, lineterminator="\n"))
    write_text(paths[2], page(document))
    seeds = {name: document["detectors"][name]["seeds"] for name in scores}
    return (*paths, results.scores_file(out, test.rows, seeds, scores))
