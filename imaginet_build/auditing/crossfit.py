"""Cross-fitting over groups: how well codes tell labels, with intervals over groups and group-preserving permutations.

Rows with equal codes are one *cell*; everything is computed from counts per cell, class and fold, so forty thousand rows that
differ in two facts cost no more than sixteen. Classes weigh alike whatever their size: chance is 1 / number of classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from imaginet_build.records import random_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FOLDS = 5
BOOTSTRAPS = 200
_SMOOTHING = 2.0
_CATEGORY_SMOOTHING = 10.0
_DENSE = 100
_DECIMALS = (
    2  # scores that differ by a row or two must tie: held-out rows are missing from the others, and a fold would lean away
)


@dataclass(frozen=True)
class Cases:
    """The labels to be guessed: `labels` (n,) in [0, len(classes)), `groups` (n,) in [0, number of groups).

    `parts`: (n,) the division that the target itself makes (a release's splits), or None.
    """

    labels: Ints
    groups: Ints
    classes: tuple[str, ...]
    parts: Ints | None = None

    def folds(self, deal: Ints | None = None) -> Ints:
        """(n,) fold of every row: the target's own parts where each holds every class and no group lies in two, else
        `fold_groups` with as many folds as the smallest class has groups, at most FOLDS.

        Within a split both classes of our releases hold every look equally often. Folds across splits would part a look from
        its counterpart, and a guesser would lean away from it: that is no knowledge, but it is not 0.5 either.
        """
        if self.parts is not None and self._apart(self.parts):
            return self.parts
        return fold_groups(self.labels, self.groups, min(FOLDS, int(self.groups_per_class().min())), deal)

    def _apart(self, parts: Ints) -> bool:
        count = int(parts.max()) + 1
        full = len(np.unique(parts * len(self.classes) + self.labels)) == count * len(self.classes)
        return count > 1 and full and len(np.unique(self.groups * count + parts)) == int(self.groups.max()) + 1

    def groups_per_class(self) -> Ints:
        """How many groups hold a row of each class, (len(classes),)."""
        k = len(self.classes)
        held = np.bincount(self.groups * k + self.labels, minlength=(int(self.groups.max()) + 1) * k).reshape(-1, k)
        count: Ints = (held > 0).sum(axis=0)
        return count


@dataclass(frozen=True)
class Guess:
    """How well labels were guessed out of fold. `p` is the permutation p value where it was computed."""

    balanced_accuracy: float
    accuracy: float
    auc: float
    ci95: tuple[float, float]
    p: float | None = None


def _deal(groups: Ints) -> Ints:
    """The groups in the order in which they are dealt: largest first, equal ones shuffled."""
    size = np.bincount(groups)
    return np.lexsort((random_of("audit", "folds").random(len(size)), -size))


def fold_groups(labels: Ints, groups: Ints, folds: int, deal: Ints | None = None) -> Ints:
    """A fold in [0, folds) for every row; a group is in one fold, and every class is spread over all of them.

    Groups are dealt like cards, largest first, each kind in turn (one kind for every class, one for groups that hold several).
    The same rows in any order get the same folds. `deal`: the order of the groups where the caller knows it already.
    """
    n_groups, k = int(groups.max()) + 1, int(labels.max()) + 1
    held = np.bincount(groups * k + labels, minlength=n_groups * k).reshape(n_groups, k)
    kind = np.where((held > 0).sum(axis=1) == 1, held.argmax(axis=1) + 1, 0).astype(np.int16)
    deal = _deal(groups) if deal is None else deal
    order = deal[np.argsort(kind[deal], kind="stable")]
    fold = np.empty(n_groups, np.int64)
    starts = np.flatnonzero(np.r_[True, np.diff(kind[order]) != 0])
    rank = np.arange(n_groups) - np.repeat(starts, np.diff(np.r_[starts, n_groups]))
    fold[order] = rank % folds
    return fold[groups]


def permuted(labels: Ints, groups: Ints, times: int) -> Iterator[Ints]:
    """`times` relabelings of the rows that keep groups whole, for a null distribution.

    The unit that is relabeled is a block: the rows of one group and one label. Groups that hold one label only trade labels
    among themselves, so the number of such groups per class stays. A group that holds several labels (a pair: a photograph and
    its reconstruction) shuffles them among its own blocks: pairs stay pairs, as a null of "the label means nothing" demands,
    and a difference *within* pairs still counts against it.
    """
    k = int(labels.max()) + 1
    block, inverse = np.unique(groups * k + labels, return_inverse=True)
    owner, label = block // k, block % k
    mixed = np.flatnonzero(np.bincount(owner)[owner] > 1)
    pure = np.flatnonzero(np.bincount(owner)[owner] == 1)
    random = random_of("audit", "permutations")
    for _ in range(times):
        new = label.copy()
        new[pure] = random.permutation(label[pure])
        new[mixed] = label[mixed[np.lexsort((random.random(mixed.size), owner[mixed]))]]
        yield new[inverse]


def counts_of(
    cells: Ints, labels: npt.NDArray[np.integer], fold: npt.NDArray[np.integer], n_cells: int, n_classes: int
) -> Floats:
    """Rows per cell, class and fold: (n_cells, n_classes, folds)."""
    folds = int(fold.max()) + 1
    flat = np.bincount((cells * n_classes + labels) * folds + fold, minlength=n_cells * n_classes * folds)
    return flat.reshape(n_cells, n_classes, folds).astype(np.float64)


def table_scores(counts: Floats) -> Floats:
    """The rule of one probe: for each value, the class whose share of it is largest in the other folds.

    `counts`: (values, classes, folds). Returns scores of the same shape that sum to 1 over classes; a value unseen in the
    other folds scores all classes alike.
    """
    train = counts.sum(axis=2, keepdims=True) - counts
    seen = train.sum(axis=1, keepdims=True)
    usual = seen / np.maximum(seen.sum(axis=0, keepdims=True), 1)
    rate = (train + _SMOOTHING * usual) / (train.sum(axis=0, keepdims=True) + _SMOOTHING)
    total = rate.sum(axis=1, keepdims=True)
    even = np.full_like(rate, 1 / rate.shape[1])
    scores: Floats = np.round(np.divide(rate, total, out=even, where=total > 0), _DECIMALS)
    return scores


def joint_scores(codes: npt.NDArray[np.uint8], ordered: tuple[bool, ...], counts: Floats) -> Floats:
    """Gradient boosting over all probes together, fitted once per fold on the others.

    `codes`: (cells, probes); `counts`: (cells, classes, folds); returns scores as `table_scores` does. Small trees on
    pre-binned codes (sklearn's HistGradientBoosting, Ke et al. 2017), classes weighing alike, one thread, fixed seed. Leaves
    are kept honest by an L2 penalty and not by a row count, because a cell may stand for many rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    n_classes, folds = counts.shape[1:]
    scores = np.full(counts.shape, 1 / n_classes)
    vary = np.flatnonzero((codes != codes[:1]).any(axis=0))
    with threadpool_limits(1):
        for f in range(folds if vary.size else 0):
            train = counts.sum(axis=2) - counts[:, :, f]
            weight = train * (train.sum() / n_classes / np.maximum(train.sum(axis=0), 1))
            cell, label = np.nonzero(train)
            if np.unique(label).size < 2:
                continue
            x = _encoded(codes[:, vary], np.asarray(ordered, bool)[vary], weight)
            model = HistGradientBoostingClassifier(
                max_iter=20 if n_classes == 2 else 15,
                learning_rate=0.3,
                max_leaf_nodes=8,
                min_samples_leaf=1,
                l2_regularization=5.0,
                max_bins=64,
                early_stopping=False,
                random_state=0,
            ).fit(x[cell], label, sample_weight=weight[cell, label])
            test = np.flatnonzero(counts[:, :, f].sum(axis=1))
            scores[:, :, f] = 0
            scores[test[:, None], model.classes_[None, :], f] = model.predict_proba(x[test])
    return np.round(scores, _DECIMALS)


def _encoded(codes: npt.NDArray[np.uint8], ordered: npt.NDArray[np.bool_], weight: Floats) -> Floats:
    """Ordered probes as they are; each category as its smoothed share of every class but the first, in the training rows.

    sklearn's own treatment of categories counts rows and not weights, so it would not see a cell that stands for thousands.
    """
    columns: list[Floats] = [codes[:, j].astype(np.float64) for j in np.flatnonzero(ordered)]
    n_classes = weight.shape[1]
    for j in np.flatnonzero(~ordered):
        total = np.bincount(codes[:, j], weight.sum(axis=1))
        for c in range(1, n_classes):
            share = (np.bincount(codes[:, j], weight[:, c]) + _CATEGORY_SMOOTHING / n_classes) / (total + _CATEGORY_SMOOTHING)
            columns.append(np.round(share, 6)[codes[:, j]])
    return np.stack(columns, axis=1)


def recalls(counts: Floats, scores: Floats) -> Floats:
    """Share of each class that was guessed right, (classes,); ties go to the first class."""
    hit = scores.argmax(axis=1)[:, None, :] == np.arange(counts.shape[1])[None, :, None]
    per_class: Floats = (counts * hit).sum(axis=(0, 2)) / np.maximum(counts.sum(axis=(0, 2)), 1)
    return per_class


def auc_of(counts: Floats, scores: Floats) -> float:
    """Area under the ROC curve, ties counting half; over more than two classes the mean of one against the rest."""
    columns = [1] if counts.shape[1] == 2 else range(counts.shape[1])
    areas = []
    for c in columns:
        positive = counts[:, c, :].ravel()
        negative = counts.sum(axis=1).ravel() - positive
        _, place = np.unique(scores[:, c, :].ravel(), return_inverse=True)
        pos, neg = np.bincount(place, positive), np.bincount(place, negative)
        if pos.sum() and neg.sum():
            below = np.cumsum(neg) - neg / 2
            areas.append(float(pos @ below / (pos.sum() * neg.sum())))
    return float(np.mean(areas)) if areas else 0.5


def distinct(table: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Where each distinct row of `table` (n, m), whole numbers from 0 on, stands first, and the place of every row among them.

    As `np.unique(axis=0)`, in the same order, many times faster: columns are packed into one number while they fit.
    """
    key, span = np.zeros(len(table), np.int64), 1
    for column in table.T.astype(np.int64):
        width = int(column.max(initial=0)) + 1
        if span > 2**62 // width:
            names, key = np.unique(key, return_inverse=True)
            span = len(names)
        key, span = key * width + column, span * width
    if span <= 4 * len(table) + 64:
        held = np.flatnonzero(np.bincount(key, minlength=span))
        place = np.empty(span, np.int64)
        place[held] = np.arange(held.size)
        first = np.empty(span, np.int64)
        first[key[::-1]] = np.arange(len(key))[::-1]
        return first[held], place[key]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first.astype(np.int64), inverse.astype(np.int64)


def interval(hits: npt.NDArray[np.bool_], cases: Cases) -> tuple[float, float]:
    """95 % interval of the balanced accuracy: a Poisson bootstrap over groups (Chamandy et al. 2012).

    `hits`: (n,) whether each row was guessed right. Groups that contribute the same counts are drawn together, so the cost goes
    with the number of kinds of groups and not with the number of groups.
    """
    k = len(cases.classes)
    n_groups = int(cases.groups.max()) + 1
    key = cases.groups * k + cases.labels
    rows = np.bincount(key, minlength=n_groups * k).reshape(n_groups, k)
    right = np.bincount(key[hits], minlength=n_groups * k).reshape(n_groups, k)
    first, inverse = distinct(np.concatenate([rows, right], axis=1))
    kinds, times = np.concatenate([rows, right], axis=1)[first], np.bincount(inverse)
    drawn = random_of("audit", "bootstrap").poisson(times, (BOOTSTRAPS, len(kinds))) @ kinds
    rows_drawn, right_drawn = drawn[:, :k], drawn[:, k:]
    share = np.where(rows_drawn > 0, right_drawn / np.maximum(rows_drawn, 1), np.nan)
    values = share.mean(axis=1)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return (0.0, 1.0)
    low, high = np.quantile(values, [0.025, 0.975])
    return (float(low), float(high))


def summary(cells: Ints, counts: Floats, scores: Floats, fold: Ints, cases: Cases, chance: Sequence[float]) -> Guess:
    """Counts and scores as figures; `chance` holds the balanced accuracies of relabeled groups, if there are any."""
    recall = recalls(counts, scores)
    p = (sum(c >= float(recall.mean()) for c in chance) + 1) / (len(chance) + 1) if chance else None
    hits = scores.argmax(axis=1)[cells, fold] == cases.labels
    low, high = interval(hits, cases)
    return Guess(float(recall.mean()), float(hits.mean()), auc_of(counts, scores), (low, high), p)


Relabeling = tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]
"""Labels and folds of every row under one relabeling of the groups."""


def relabelings(cases: Cases, times: int) -> list[Relabeling]:
    """`times` draws of `permuted`, each with the folds its labels lead to; one list serves all probes of a table."""
    if not times:
        return []
    deal, drawn = _deal(cases.groups), permuted(cases.labels, cases.groups, times)
    return [(y.astype(np.int8), replace(cases, labels=y).folds(deal).astype(np.int8)) for y in drawn]


def guess_one(cells: Ints, n_cells: int, cases: Cases, fold: Ints, null: Sequence[Relabeling] = ()) -> Guess:
    """How well one probe (codes `cells`) tells the label, and with `null` how often chance does as well."""
    k = len(cases.classes)
    counts = counts_of(cells, cases.labels, fold, n_cells, k)
    scores = table_scores(counts)
    chance = []
    for labels, other in null:
        drawn = counts_of(cells, labels, other, n_cells, k)
        chance.append(float(recalls(drawn, table_scores(drawn)).mean()))
    return summary(cells, counts, scores, fold, cases, chance)


def guess_all(
    codes: npt.NDArray[np.uint8], ordered: tuple[bool, ...], cases: Cases, fold: Ints, null: Sequence[Relabeling] = ()
) -> tuple[Guess, Floats, Floats]:
    """How well all probes together tell the label, the balanced accuracies under the relabelings `null`, and the score of every
    row's own class, out of fold, (n,)."""
    first, cells = distinct(codes)
    unique = codes[first]
    k = len(cases.classes)
    counts = counts_of(cells, cases.labels, fold, len(unique), k)
    # With a hundred rows in each cell there is nothing to interpolate: counting is the best rule, and many times faster.
    fit = table_scores if len(unique) * _DENSE <= len(codes) else partial(joint_scores, unique, ordered)
    scores = fit(counts)
    chance = []
    for labels, other in null:
        drawn = counts_of(cells, labels, other, len(unique), k)
        chance.append(float(recalls(drawn, fit(drawn)).mean()))
    own = scores[cells, cases.labels, fold]
    return summary(cells, counts, scores, fold, cases, chance), np.asarray(chance, np.float64), own
