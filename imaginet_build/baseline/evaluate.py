"""Judge a detector on a test: both tracks, every part, under every condition, beside controls.

The threshold is fixed on the calibration split and carried through everything. The controls say what the figures are worth:
what permuted labels reach, and how many real images are called synthetic merely because they were smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imaginet_build.baseline import controls, judge, naming, papertables, results, robust
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.intervals import BOOTSTRAPS
from imaginet_build.baseline.judge import Judge, items
from imaginet_build.baseline.metrics import Figures, Floats, rounded
from imaginet_build.baseline.naming import Named
from imaginet_build.baseline.parts import Parts
from imaginet_build.baseline.testset import Around, Test, prepare
from imaginet_build.records import Scores

PERMUTATIONS = 200


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`document` is what results.json holds, `files` what was written, `unreadable` the reason for each image left out.
    `scores`: (seeds, n) calibrated P(synthetic) of the test's rows."""

    document: dict[str, Any]
    files: tuple[Path, ...]
    unreadable: dict[str, str]
    scores: Floats


def evaluate(
    on: Path | str | tuple[Path, Path] | Test,
    out: Path | None = None,
    *,
    detector: str = "small",
    checkpoints: Sequence[Path] = (),
    view: str = "equalized",
    bootstrap: int = BOOTSTRAPS,
    permutations: int = PERMUTATIONS,
    around: Around | None = None,
) -> Evaluation:
    """Judge one detector on the test split of the release `on`, on the folders (real, synthetic), or on any set that
    `benchsets` knows.

    `checkpoints`: one for each seed; figures are medians over them, intervals are over groups. Without any, the card `detector`
    is built as it is, and fitted on the train split if it can be (`nopixel`, `spectral`). The calibration split fixes the
    threshold; where there is none the detector's own 0.5 stands, and the reason is given. With `out`: results.json,
    results.csv (one line a figure) and scores.csv (one a test image and seed) are written there.
    Raises `UsageError` for an unknown card, a folder that is no test, or a release without a test split.
    """
    test = on if isinstance(on, Test) else prepare(on, view, around)
    judges = judge.judges(detector, checkpoints, test.train, test.calibration, test.lock)
    answers = [judge.score(j.detector, items(test.rows)) for j in judges]
    scores = np.stack([j.p(a) for j, a in zip(judges, answers, strict=True)])
    parts = Parts(test.rows, scores, bootstrap)
    by_generator, by_family, by_content = parts.by_generator(), parts.by_family(), parts.by_content_type()
    document: dict[str, Any] = {
        "detector": detector,
        "checkpoint": [str(c) for c in checkpoints] or None,
        "revision": judges[0].revision,
        "test": test.described(),
        "seeds": [j.seed for j in judges],
        "headline": parts.headline(by_generator),
        "tracks": {"origin": _origin(parts, judges, test), "generator": named(test.rows, judges, answers, bootstrap // 4)},
        "by_generator": by_generator,
        "by_family": by_family,
        "by_content_type": by_content,
        "by_source": parts.by_source(),
        "by_size": parts.by_size(),
        "by_release": parts.by_release(_trained_on(test, judges)),
        "controls": controls.controls(test.rows, judges, scores, permutations),
    }
    paper = papertables.of_set(test.layout, by_generator)
    if test.layout == papertables.LISTS:
        paper = papertables.of_release(by_family, by_content, test.condition)
    if test.release is not None:
        under = robust.scored(test.release, lambda rows: _all(judges, rows))
        if sweeps := robust.judged(under, max(1, bootstrap // 4) if bootstrap else 0):
            document["robustness"] = sweeps
        social = under.get(papertables.CONDITION)
        chained = Parts(*social, bootstrap) if social else None
        paper = papertables.of_release(
            chained.by_family() if chained else by_family,
            chained.by_content_type() if chained else by_content,
            papertables.CONDITION if chained else test.condition,
        )
    document["published"] = paper
    if test.contamination is not None:
        document["contamination"] = test.contamination
    if test.unreadable:
        document["unreadable"] = test.unreadable
    files = results.write(out, document, test.rows, {"": [j.seed for j in judges]}, {"": scores}) if out else ()
    return Evaluation(document, files, test.unreadable, scores)


def _all(judges: Sequence[Judge], rows: Rows) -> Floats:
    return np.stack([j.p(judge.score(j.detector, items(rows))) for j in judges])


def _origin(parts: Parts, judges: Sequence[Judge], test: Test) -> Figures:
    found = parts.whole()
    found["threshold"] = rounded(float(np.median([j.threshold for j in judges])))
    found["threshold_from"] = test.frozen
    if reasons := sorted({j.reason for j in judges if j.reason}):
        found["reasons"]["threshold"] = "; ".join(reasons)
        found["threshold_from"] = None
    return found


def _trained_on(test: Test, judges: Sequence[Judge]) -> list[str] | None:
    """The generators that a detector learned from: its checkpoint's names, or the train split it was taught on."""
    config = judges[0].config
    if config.get("names") and judges[0].names_are == "generator":
        return list(config["names"])
    if test.train is not None and judge.learns(judges[0].detector):
        return sorted({g for g in test.train.generator if g != "real"})
    return None


def named(rows: Rows, judges: Sequence[Judge], answers: Sequence[Scores], times: int) -> dict[str, Figures]:
    """The generator track over synthetic rows: as the detector names them, its generators summed to families, and the tree."""
    made = np.flatnonzero(rows.label == 1)
    empty: Figures = dict.fromkeys(naming.FIGURES)
    p = [a.p_generator[made] for a in answers if a.p_generator is not None]
    if len(p) < len(answers):
        nothing = empty | {"reason": "the detector names no generator"}
        return {"by_generator": nothing, "by_family": dict(nothing)}
    generators, families = ([values[i] for i in made] for values in (rows.generator, rows.family))
    groups, names = [rows.group[i] for i in made], answers[0].generators
    keep = [j.keep for j in judges if j.keep is not None]
    least = keep if len(keep) == len(judges) else None
    if judges[0].names_are == "family":
        found = Named(families, groups, p, names, least)
        nothing = empty | {"reason": "the detector names families"}
        return {
            "by_generator": nothing,
            "by_family": naming.figures(found, times),
            "tree": naming.tree(generators, families, None, found),
        }
    merged = [naming.merged(a, names, judge.families(judges[0], names, rows)) for a in p]
    one = Named(generators, groups, p, names, least)
    two = Named(families, groups, [m[0] for m in merged], merged[0][1])
    return {
        "by_generator": naming.figures(one, times),
        "by_family": naming.figures(two, times),
        "tree": naming.tree(generators, families, one, two),
    }
