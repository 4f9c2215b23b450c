"""How well numbers tell labels: ridge regression on random Fourier features, cross-fitted, in closed form.

The probes beside the gate are vectors (a thumbnail, a spectrum, the words of a caption). Because the fit is linear in the
labels, a hundred relabelings of the groups cost one matrix product, and every figure comes with its permutation p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imaginet_build.auditing.crossfit import Cases, Floats, Guess, Ints, interval, permuted
from imaginet_build.records import random_of

FEATURES = 256
"""Random Fourier features beside the numbers themselves (Rahimi and Recht 2007)."""

RIDGE = 1.0


def features(numbers: npt.NDArray[np.floating], curved: bool = True) -> Floats:
    """(n, p) features of `numbers` (n, d); a row's expected squared length is 1 for each of the two kernels.

    Each column is replaced by the normal score of its rank, which knows no label and no outlier; constant ones are left out.
    With `curved` a Gaussian kernel stands beside the linear one.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    numbers = numbers[:, (numbers != numbers[:1]).any(axis=0)]
    n, d = numbers.shape
    if not d:
        return np.zeros((n, 1))
    scores = ndtri((rankdata(numbers, axis=0) - 0.5) / n)
    scores = (scores - scores.mean(axis=0)) / np.maximum(scores.std(axis=0), 1e-9)
    if not curved:
        return np.asarray(scores / np.sqrt(d), np.float64)
    random = random_of("audit", f"ridge {d}")
    turn = random.normal(size=(d, FEATURES)) / np.sqrt(d)
    waves = np.sqrt(2 / FEATURES) * np.cos(scores @ turn + random.random(FEATURES) * 2 * np.pi)
    return np.concatenate([scores / np.sqrt(d), waves], axis=1)


@dataclass(frozen=True)
class _Fold:
    """One fold, solved for any labels: `rows` learn, `held` are guessed; `back` turns targets into weights."""

    rows: Ints
    held: Ints
    back: Floats
    leverage: Floats


def guess_numbers(x: Floats, cases: Cases, fold: Ints, times: int) -> Guess:
    """How well features `x` (n, p) tell the labels, and how often `times` relabelings that keep groups whole do as well.

    For every class one regression against the rest, both sides weighing alike; a row goes to the class whose score lies
    furthest above the middle between its two sides, and that middle is taken from leave-one-out scores.
    """
    k = len(cases.classes)
    labels = np.stack([cases.labels, *permuted(cases.labels, cases.groups, times)])
    scores = np.zeros((len(labels), len(x), k))
    for part in _solved(x, fold):
        scores[:, part.held] = _held(x, labels, k, part)
    guessed = scores.argmax(axis=2)
    reached = np.stack([_recall(guessed == labels, labels, c) for c in range(k)]).mean(axis=0)
    hits = guessed[0] == cases.labels
    p = float((np.sum(reached[1:] >= reached[0]) + 1) / (times + 1)) if times else None
    return Guess(float(reached[0]), float(hits.mean()), _auc(cases.labels, scores[0]), interval(hits, cases), p)


def _solved(x: Floats, fold: Ints) -> list[_Fold]:
    parts = []
    for f in range(int(fold.max()) + 1):
        rows, held = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        if rows.size and held.size:
            centred = x[rows] - x[rows].mean(axis=0)
            back = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(x.shape[1]), centred.T)
            leverage = np.einsum("ij,ji->i", centred, back) + 1 / rows.size
            parts.append(_Fold(rows, held, back, np.minimum(leverage, 0.999)))
    return parts


def _held(x: Floats, labels: Ints, k: int, part: _Fold) -> Floats:
    """Scores of the rows held out, (labelings, held, classes): above 0 speaks for the class."""
    mean = x[part.rows].mean(axis=0)
    found = np.zeros((len(labels), part.held.size, k))
    learned = labels[:, part.rows]
    for c in range(k):
        mine = learned == c
        size = np.maximum(mine.sum(axis=1, keepdims=True), 1)
        rest = np.maximum((~mine).sum(axis=1, keepdims=True), 1)
        target = (np.where(mine, 1 / size, -1 / rest) * part.rows.size).T
        weights = part.back @ target
        offset = target.mean(axis=0)
        fitted = (x[part.rows] - mean) @ weights + offset
        alone = target - (target - fitted) / (1 - part.leverage)[:, None]
        middle = (np.where(mine.T, alone, 0).sum(axis=0) / size[:, 0] + np.where(mine.T, 0, alone).sum(axis=0) / rest[:, 0]) / 2
        spread = np.maximum(alone.std(axis=0), 1e-9)
        found[:, :, c] = (((x[part.held] - mean) @ weights + offset - middle) / spread).T
    return found


def _recall(hit: npt.NDArray[np.bool_], labels: Ints, c: int) -> Floats:
    mine = labels == c
    share: Floats = (hit & mine).sum(axis=1) / np.maximum(mine.sum(axis=1), 1)
    return share


def _auc(labels: Ints, scores: Floats) -> float:
    """Area under the ROC curve; over more than two classes the mean of one against the rest."""
    from scipy.stats import rankdata

    areas = []
    for c in [1] if scores.shape[1] == 2 else range(scores.shape[1]):
        mine = labels == c
        if mine.any() and not mine.all():
            rank = rankdata(scores[:, c])[mine].sum() - mine.sum() * (mine.sum() + 1) / 2
            areas.append(float(rank / (mine.sum() * (~mine).sum())))
    return float(np.mean(areas)) if areas else 0.5
