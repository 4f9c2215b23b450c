"""Judge a detector on a release's test split, or on two folders: both tracks, by generator and content type, beside controls.

The threshold is fixed on the calibration split and carried through everything. The controls say what the figures are worth:
what permuted labels reach, and how many real images are called synthetic merely because they were blurred or resized.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from imaginet_build import catalog
from imaginet_build.auditing import bias, crossfit
from imaginet_build.baseline import metrics, robust
from imaginet_build.baseline.data import Rows, folders, splits
from imaginet_build.baseline.metrics import Figures, Floats
from imaginet_build.detectors.checkpoint import read_config
from imaginet_build.errors import BadImage, BuildError, UsageError
from imaginet_build.records import ORIGINS, Item, Scores, random_of

log = logging.getLogger(__name__)

RESULTS, TABLE, SCORES = "results.json", "results.csv", "scores.csv"
CONTROL_ROWS = 200
_CHUNK = 64


class Detector(Protocol):
    """What `evaluate` needs of an adapter; `fit(items, labels)` too where it has no weights of its own."""

    def score(self, items: Sequence[Item]) -> Scores: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`document` is what results.json holds, `files` what was written, `unreadable` the reason for each image left out."""

    document: dict[str, Any]
    files: tuple[Path, ...]
    unreadable: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Judge:
    """One detector with its scale of probability and its threshold, both from the calibration split."""

    detector: Detector
    seed: int | None
    scale: float
    bias: float
    threshold: float
    reason: str | None

    def p(self, scores: Scores) -> Floats:
        return 1 / (1 + np.exp(-(self.scale * metrics.logit(scores.p_synthetic) + self.bias)))


def evaluate(
    on: Path | tuple[Path, Path],
    out: Path | None = None,
    *,
    detector: str = "small",
    checkpoints: Sequence[Path] = (),
    view: str = "equalized",
    bootstrap: int = metrics.BOOTSTRAPS,
    permutations: int = 20,
) -> Evaluation:
    """Judge one detector on the test split of the release `on`, or on the folders (real, synthetic).

    `checkpoints`: one for each seed; figures are medians over them, `ci95` is over groups. Without any, the card `detector` is
    built as it is, and fitted on the train split if it can be (`nopixel`, `spectral`). A release's calibration split fixes the
    threshold; where there is none the detector's own 0.5 stands, and the reason is given. With `out`: results.json,
    results.csv (one line a figure) and scores.csv (one a test image and seed) are written there.
    Raises `UsageError` for an unknown card, a folder that is no release, or a release without a test split.
    """
    found = {"test": folders(*on)} if isinstance(on, tuple) else splits(on, view)
    if "test" not in found:
        raise UsageError(f"{on} has no test split; balance with more images or other splits")
    test = found["test"]
    judges = [_judge(d, seed, found.get("calibration")) for d, seed in _built(detector, checkpoints, found.get("train"))]
    items, unreadable = _readable(test)
    label = test.label[items]
    answers = [_score(j.detector, _items(test, items)) for j in judges]
    scores = np.stack([j.p(a) for j, a in zip(judges, answers, strict=True)])
    document: dict[str, Any] = {
        "detector": detector,
        "checkpoint": [str(c) for c in checkpoints] or None,
        "test": {"name": test.title, "images": len(items), "groups": len({test.group[i] for i in items})},
        "seeds": [j.seed for j in judges],
    }
    cut = _Cut(test, np.array(items, np.int64), label, scores, bootstrap)
    origin = cut.figures(np.ones(len(items), bool))
    origin["threshold"] = round(float(np.median([j.threshold for j in judges])), 6)
    if reasons := sorted({j.reason for j in judges if j.reason}):
        origin["reasons"]["threshold"] = "; ".join(reasons)
    document["tracks"] = {"origin": origin, "generator": _names(test, items, judges, answers)}
    document["by_generator"] = cut.by_generator()
    document["by_content_type"] = cut.by_content_type()
    document["controls"] = {
        "permuted_labels": _permuted(test, items, label, scores, permutations),
        **_smoothed(test, items, judges),
        "bias": _one_sided(test, items, judges),
    }

    def score(rows: Rows) -> Floats:
        return np.stack([j.p(_score(j.detector, _items(rows, range(len(rows))))) for j in judges])

    if isinstance(on, Path) and (sweeps := robust.judged(on, score, max(1, bootstrap // 4))):
        document["robustness"] = sweeps
    if unreadable:
        document["unreadable"] = unreadable
    return Evaluation(document, _write(out, document, test, items, judges, scores), unreadable)


def _built(name: str, checkpoints: Sequence[Path], train: Rows | None) -> Iterator[tuple[Detector, int | None]]:
    for folder in checkpoints:
        config = read_config(folder, "card")
        seed = config.get("trained", {}).get("settings", {}).get("seed")
        yield catalog.build(catalog.card("detectors", config["card"]), model=str(folder)), seed
    if checkpoints:
        return
    built = catalog.build(catalog.card("detectors", name))
    fit: Callable[[Sequence[Item], npt.NDArray[np.int64]], None] | None = getattr(built, "fit", None)
    if fit is not None:
        if train is None:
            raise UsageError(
                f"the detector '{name}' learns from a train split, and there is none here; evaluate it on a release"
            )
        places, _ = _readable(train)
        fit(_items(train, places), train.label[places])
    yield built, None


class _Reading(Sequence[Item]):
    """Items of some rows, each decoded when it is asked for."""

    def __init__(self, rows: Rows, places: Sequence[int], change: Callable[[Image.Image], Image.Image] | None = None) -> None:
        self._rows, self._places, self._change = rows, places, change

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return _Reading(self._rows, self._places[at], self._change)
        row = self._places[at]
        image = self._rows.image(row)
        return Item(self._rows.ids[row], self._rows.read(row), self._change(image) if self._change else image)


_items = _Reading


def _readable(rows: Rows) -> tuple[list[int], dict[str, str]]:
    """The rows that decode, and why the others do not."""
    good, bad = [], {}
    for row in range(len(rows)):
        try:
            rows.image(row)
            good.append(row)
        except BadImage as error:
            bad[rows.ids[row]] = str(error)
    if not good:
        raise BuildError(f"no image of {rows.title} can be read: {next(iter(bad.values()), 'there is none')}")
    if bad:
        log.warning("%d images of %s cannot be read and are left out", len(bad), rows.title)
    return good, bad


def _score(detector: Detector, items: Sequence[Item]) -> Scores:
    """All items, a chunk at a time so that memory stays bounded."""
    parts = [detector.score([items[i] for i in range(at, min(at + _CHUNK, len(items)))]) for at in range(0, len(items), _CHUNK)]
    named = [p.p_generator for p in parts if p.p_generator is not None]
    joined = np.concatenate(named) if len(named) == len(parts) else None
    return Scores(np.concatenate([p.p_synthetic for p in parts]), joined, parts[0].generators)


def _judge(detector: Detector, seed: int | None, calibration: Rows | None) -> _Judge:
    own = (1.0, 0.0)
    if calibration is None:
        return _Judge(detector, seed, *own, 0.5, "no calibration split: the detector's own 0.5")
    places, _ = _readable(calibration)
    p = _score(detector, _items(calibration, places)).p_synthetic
    fitted = metrics.platt(calibration.label[places], metrics.logit(p))
    reason = (
        None if fitted else f"the calibration split ({len(places)} images) is too small or misleads: the detector's own 0.5"
    )
    scale, bias = fitted or own
    return _Judge(detector, seed, scale, bias, float(1 / (1 + np.exp(bias / scale))), reason)


@dataclass(frozen=True, slots=True)
class _Cut:
    """The test, to be cut into parts. `scores`: (seeds, n) calibrated P(synthetic), so that every threshold is 0.5."""

    test: Rows
    rows: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    scores: Floats
    bootstrap: int

    def figures(self, mask: npt.NDArray[np.bool_], times: int | None = None) -> Figures:
        half = np.full(len(self.scores), 0.5)
        groups = [self.test.group[i] for i in self.rows[mask]]
        return metrics.origin_figures(self.label[mask], self.scores[:, mask], half, groups, times or self.bootstrap)

    def by_generator(self) -> dict[str, Figures]:
        """Each generator's images against the real ones of the content types it appears in."""
        made = np.array([self.test.generator[i] for i in self.rows], dtype=object)
        kind = np.array([self.test.content_type[i] for i in self.rows], dtype=object)
        found = {}
        for name in sorted(set(made[self.label == 1])):
            mine = (self.label == 1) & (made == name)
            found[str(name)] = self._part(mine | ((self.label == 0) & np.isin(kind.astype(str), kind[mine].astype(str))))
        return found

    def by_content_type(self) -> dict[str, Figures]:
        kind = np.array([self.test.content_type[i] for i in self.rows], dtype=object)
        return {str(name): self._part(kind == name) for name in sorted(set(kind))}

    def _part(self, mask: npt.NDArray[np.bool_]) -> Figures:
        found = self.figures(mask, max(1, self.bootstrap // 4))
        called = self.scores[:, mask] >= 0.5
        for value, key in ((1, "found"), (0, "false_alarms")):
            those = self.label[mask] == value
            found[key] = round(float(np.median(called[:, those].mean(1))), 6) if those.any() else None
        return found


def _names(test: Rows, items: Sequence[int], judges: Sequence[_Judge], answers: Sequence[Scores]) -> dict[str, Figures]:
    """The generator track over synthetic rows: as the detector names them, and its generators summed to families."""
    made = [k for k, i in enumerate(items) if test.label[i] == 1]
    empty = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_auc"))
    if any(a.p_generator is None for a in answers) or not made:
        nothing = empty | {"reason": "the detector names no generator" if made else "the test has no synthetic image"}
        return {"by_generator": dict(nothing), "by_family": dict(nothing)}
    names = answers[0].generators
    p = [a.p_generator[made] for a in answers if a.p_generator is not None]
    generators = [test.generator[items[k]] for k in made]
    families = [test.family[items[k]] for k in made]
    if getattr(judges[0].detector, "names_are", "generator") == "family":
        nothing = empty | {"reason": "the detector names families"}
        return {"by_generator": nothing, "by_family": metrics.name_figures(families, p, names)}
    config: dict[str, Any] = getattr(judges[0].detector, "config", {})
    family_of = dict(zip(generators, families, strict=True)) | config.get("families", {})
    family_of |= {n: n for n in names if n not in family_of}
    merged = [metrics.merged(a, names, family_of) for a in p]
    return {
        "by_generator": metrics.name_figures(generators, p, names),
        "by_family": metrics.name_figures(families, [m[0] for m in merged], merged[0][1]),
    }


def _permuted(test: Rows, items: Sequence[int], label: npt.NDArray[np.int64], scores: Floats, times: int) -> Figures:
    what = (
        "AUC of these scores against labels permuted among groups, a group that holds both classes swapping within itself: "
        "what chance reaches on a test of this size"
    )
    if reason := metrics.too_few(label, [test.group[i] for i in items]):
        return {"mean": None, "range95": None, "times": 0, "what": what, "reason": reason}
    _, groups = np.unique([test.group[i] for i in items], return_inverse=True)
    reached = [
        float(np.median([metrics.auc(new, s)[0] for s in scores]))
        for new in crossfit.permuted(label, groups.astype(np.int64), times)
    ]
    low, high = np.percentile(reached, [2.5, 97.5])
    return {
        "mean": round(float(np.mean(reached)), 6),
        "range95": [round(float(low), 6), round(float(high), 6)],
        "times": times,
        "what": what,
    }


def _smoothed(test: Rows, items: Sequence[int], judges: Sequence[_Judge]) -> dict[str, Figures]:
    """How many of the same real images are called synthetic untouched, blurred (sigma 1) and resized (to three quarters)."""
    real = [i for i in items if test.label[i] == 0]
    chosen = [real[k] for k in sorted(random_of(test.title, "baseline/controls").permutation(len(real))[:CONTROL_ROWS])]
    changes: dict[str, Callable[[Image.Image], Image.Image] | None] = {
        "real_untouched": None,
        "real_blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        "real_resized": lambda image: image.resize(
            (max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), Image.Resampling.LANCZOS
        ),
    }
    found: dict[str, Figures] = {}
    for name, change in changes.items():
        if not chosen:
            found[name] = {"n": 0, "called_synthetic": None, "reason": "the test has no real image"}
            continue
        called = [(j.p(_score(j.detector, _items(test, chosen, change))) >= 0.5).mean() for j in judges]
        found[name] = {"n": len(chosen), "called_synthetic": round(float(np.median(called)), 6)}
    return found


def _one_sided(test: Rows, items: Sequence[int], judges: Sequence[_Judge]) -> Figures:
    """How far the verdict moves when one class alone is compressed, resized or cropped: the median over the judges."""
    chosen: list[list[int]] = []
    for label in (0, 1):
        mine = [i for i in items if test.label[i] == label]
        order = random_of(test.title, f"baseline/bias {label}").permutation(len(mine))
        chosen.append(sorted(mine[k] for k in order[: CONTROL_ROWS // 4]))

    def score(these: Sequence[Item]) -> Floats:
        return np.median([j.p(_score(j.detector, these)) for j in judges], axis=0)

    found = bias.one_sided(score, *([_items(test, rows)[k] for k in range(len(rows))] for rows in chosen))
    return found.to_json() if found else {"score": None, "what": bias.WHAT, "reason": "the test has one class only"}


def _write(
    out: Path | None, document: dict[str, Any], test: Rows, items: Sequence[int], judges: Sequence[_Judge], scores: Floats
) -> tuple[Path, ...]:
    if out is None:
        return ()
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    (out / RESULTS).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    pd.DataFrame(_lines(document)).to_csv(out / TABLE, index=False, lineterminator="\n")
    known = {
        "id": [test.ids[i] for i in items],
        "label": [ORIGINS[test.label[i]] for i in items],
        "content_type": [test.content_type[i] for i in items],
        "generator": [test.generator[i] for i in items],
    }
    series = [
        pd.DataFrame(known | {"seed": "" if judge.seed is None else judge.seed, "p_synthetic": row.round(6)})
        for judge, row in zip(judges, scores, strict=True)
    ]
    pd.concat(series).to_csv(out / SCORES, index=False, lineterminator="\n")
    return (out / RESULTS, out / TABLE, out / SCORES)


def _lines(document: dict[str, Any]) -> list[dict[str, Any]]:
    """results.json as one line a figure: part, of what, figure, value, and why it is missing."""
    tracks = document["tracks"]
    parts = [("origin", "all", tracks["origin"]), *(("generator", k, v) for k, v in tracks["generator"].items())]
    parts += [(key, name, v) for key in ("by_generator", "by_content_type", "controls") for name, v in document[key].items()]
    parts += [("robustness", name, v) for name, v in document.get("robustness", {}).get("conditions", {}).items()]
    return [
        {
            "part": part,
            "of": name,
            "figure": figure,
            "value": json.dumps(value) if isinstance(value, list) else value,
            "reason": figures.get("reasons", {}).get(figure) or (figures.get("reason") if value is None else None),
        }
        for part, name, figures in parts
        for figure, value in figures.items()
        if figure not in ("reasons", "reason", "what")
    ]
