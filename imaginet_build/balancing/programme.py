"""The integer programme behind `balance`: how many images of each kind stay in which split.

Images are told apart by their kind alone (category, origin, generator or source, stratum, whether a pair), and groups by their
composition: groups of one composition are interchangeable, so the programme counts them and a seeded draw names them
afterwards.

Unknown are the images kept of each kind in each split, and the groups of each composition given to each split. What must
hold: no more than there are, groups whole, what is held out in the test split alone, both origins of a category equally many
in every split, no cell above its target. What is wanted comes in three orders, each settled before the next: the fewest
images missing; the shares of splits, generators, sources, sizes and aspects; the smallest distance between both classes'
joint law of size, aspect and quality (earth mover's distance on the tree of `strata`), pairs first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imaginet_build.balancing.highs import Answer, Model
from imaginet_build.records import ORIGINS

Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]

SPLIT, MAKER, BUCKET, EVEN, EMPTY = 4.0, 2.0, 2.0, 0.5, 6.0
"""Prices of one image too many or too few in a split, of a maker, in a bucket of sizes or aspects, of a maker in a split; and
of a split that a category does not reach."""

LOOSE = 0.25
"""Price of one image too many or too few of a source that shares by what it holds: it gives way to sizes and aspects, which
the recipe does ask for."""

FAIR = 0.02
"""A gap from which on it is worth a warning."""

PAIR = 8.0
"""How much nearer the laws of the classes would have to come for one image of a pair to be left out."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """K kinds of images, column by column: (K,) `category`, `origin` (0 real, 1 synthetic), `maker` (a number for each
    category, origin and generator or source), `paired`; (K, 3) `levels` of the tree of strata; (K,) `size`, `shape`: the
    place among the recipe's own sizes and aspects, -1 for none. `free`, `held`: images that are groups of their own, and of
    these the held out."""

    category: Rows
    origin: Rows
    maker: Rows
    paired: Rows
    levels: Rows
    size: Rows
    shape: Rows
    free: Rows
    held: Rows

    def __len__(self) -> int:
        return len(self.category)


@dataclass(frozen=True, slots=True)
class Groups:
    """Compositions of groups: (E,) entries `composition`, `kind`, `count`: how many images of a kind; (C,) `number` of groups
    of each composition and whether they are `held` out. `placed`, (K, S): images of groups whose split is settled already."""

    composition: Rows
    kind: Rows
    count: Rows
    number: Rows
    held: NDArray[np.bool_]
    placed: Rows


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the recipe asks. `shares`: of the splits, which have a share each; `test`: the place of the test split. `limits`:
    (S,) images of one origin of a category in each split, or (C, S) for each category; None for as many as there are.
    `weights`: (M,) of each maker in its cell. `held`: (M,) held out images of each maker. `sizes`, `aspects`: shares, by the
    places of `Kinds.size` and `Kinds.shape`. `loose`: (M,) makers whose shares the recipe does not ask for."""

    shares: Numbers
    test: int
    limits: Rows | None
    weights: Numbers
    held: Rows
    sizes: Numbers
    aspects: Numbers
    loose: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class More:
    """Images that there are not, B of them to choose from: (B,) category, origin, split and maker (-1: any)."""

    category: Rows
    origin: Rows
    split: Rows
    maker: Rows


@dataclass(frozen=True, slots=True)
class Counts:
    """The answer: (K, S) images kept of those that are groups of their own, and of those in groups; (C, S) groups given to each
    split. `distance`: between the laws of both classes, from 0 (alike) to 1 (no bucket shared). `gap`: the largest of the
    three orders: how much better another answer could be at the most."""

    alone: Rows
    grouped: Rows
    groups: Rows
    distance: float
    gap: float


def parts(total: int, weights: NDArray[np.generic] | Sequence[float]) -> Rows:
    """`total` in whole numbers by `weights`, by largest remainder, so that they sum to it; all 0 where every weight is. Where
    remainders tie, the smaller weight comes first."""
    weight = np.asarray(weights, dtype=float)
    whole = weight.sum()
    if not whole:
        return np.zeros(len(weight), dtype=np.int64)
    exact = total * weight / whole
    given: Rows = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((np.arange(len(weight)), weight, -np.round(exact - given, 9)))
    given[order[: total - int(given.sum())]] += 1
    return given


def quotas(total: int, weights: Numbers, holds: Rows) -> Rows:
    """`total` by `weights`, no one more than it holds: what one cannot give, the others do."""
    given = np.zeros(len(weights), dtype=np.int64)
    open_ = (weights > 0) & (holds > 0)
    left = min(total, int(holds[open_].sum()))
    while left:
        ask: Rows = parts(left, np.where(open_, weights, 0.0))
        full = open_ & (ask >= holds)
        if not full.any():
            given += ask
            break
        given[full] = holds[full]
        left -= int(holds[full].sum())
        open_ &= ~full
    return given


@dataclass(frozen=True, slots=True)
class Settled:
    """What the first two orders settled: (M, S) images that each maker gives to each split; `buckets`: for sizes and aspects,
    (G * 2, B) images of each bucket in each cell, empty where the recipe has no shares for them. `gap` as in `Counts`."""

    kept: Rows
    buckets: tuple[Rows, Rows]
    gap: float


def settle(kinds: Kinds, groups: Groups, wishes: Wishes) -> Settled | None:
    """The first two orders. Strata do not matter to them, so `kinds` may be coarse. None where the search found no answer
    within its bounds."""
    model = Programme(kinds, groups, wishes)
    most = model.most()
    shared = model.shared() if most is not None else None
    if most is None or shared is None:
        return None
    return model.settled(shared, max(most.gap, shared.gap))


def solve(kinds: Kinds, groups: Groups, wishes: Wishes, settled: Settled) -> Counts | None:
    """The third order, within what is settled: how many of each kind and composition. None as in `settle`."""
    model = Programme(kinds, groups, wishes)
    model.hold(settled)
    alike = model.alike()
    return None if alike is None else model.counts(alike, max(settled.gap, alike.gap))


class Programme:
    """The programme's columns and rows, and its three orders."""

    def __init__(self, kinds: Kinds, groups: Groups, wishes: Wishes, more: More | None = None) -> None:
        self.kinds, self.groups, self.wishes = kinds, groups, wishes
        self.model = model = Model()
        splits = len(wishes.shares)
        self.splits = splits
        every, test = np.arange(splits), np.array([wishes.test])

        free, held = np.flatnonzero(kinds.free > 0), np.flatnonzero(kinds.held > 0)
        inside = np.zeros((len(kinds), splits), dtype=bool)
        some = np.unique(groups.kind)
        inside[some] = True
        inside |= groups.placed > 0
        most: list[Rows | None] = [kinds.free, kinds.held, None]
        blocks = [
            (np.repeat(free, splits), np.tile(every, len(free))),
            (held, np.repeat(test, len(held))),
            np.nonzero(inside),
        ]
        columns: list[Rows] = []
        for (k, _), there in zip(blocks, most, strict=True):
            column = model.columns(0.0, np.inf if there is None else there[k], len(k))
            if not columns and len(k):
                where = np.searchsorted(free, k)
                model.rows([(where, column, 1.0)], -np.inf, kinds.free[free], len(free))
            columns.append(column)
        self.first = len(columns[0]) + len(columns[1])
        self.kind, self.split = (np.concatenate([block[i] for block in blocks]).astype(np.int64) for i in range(2))
        self.column: Rows = np.concatenate(columns)

        loose = np.flatnonzero(~groups.held)
        self.group = np.concatenate([np.repeat(loose, splits), np.flatnonzero(groups.held)])
        self.goes = np.concatenate([np.tile(every, len(loose)), np.full(int(groups.held.sum()), wishes.test)])
        self.given = model.columns(0.0, groups.number[self.group], len(self.group))
        if len(loose):
            here = np.searchsorted(loose, self.group[: len(loose) * splits])
            model.rows([(here, self.given[: len(here)], 1.0)], -np.inf, groups.number[loose], len(loose))
        self._whole()

        # Both origins of a category, equally many in every split.
        category = kinds.category[self.kind]
        self.categories = int(kinds.category.max(initial=-1)) + 1
        self.more = model.columns(0.0, np.inf, 0 if more is None else len(more.category))
        cap = np.inf if wishes.limits is None else np.broadcast_to(wishes.limits, (self.categories, splits)).ravel()
        self.size = model.columns(0.0, cap, self.categories * splits)
        each = np.arange(self.categories * splits)
        for origin in range(len(ORIGINS)):
            mine = kinds.origin[self.kind] == origin
            row = category[mine] * splits + self.split[mine]
            parts: list[tuple[ArrayLike, ArrayLike, ArrayLike]] = [(row, self.column[mine], 1.0), (each, self.size, -1.0)]
            if more is not None:
                new = more.origin == origin
                parts.append((more.category[new] * splits + more.split[new], self.more[new], 1.0))
            model.rows(parts, 0.0, 0.0, len(each))

    def _whole(self) -> None:
        """No image of a group stays in a split that the group is not given to."""
        groups, splits, model = self.groups, self.splits, self.model
        kind, split, column = (part[self.first :] for part in (self.kind, self.split, self.column))
        place = np.full((len(self.kinds), splits), -1, dtype=np.int64)
        place[kind, split] = np.arange(len(kind))
        entry = np.argsort(groups.composition, kind="stable")
        ends = np.searchsorted(groups.composition[entry], np.arange(len(groups.number) + 1))
        many = np.diff(ends)[self.group]
        which = np.repeat(np.arange(len(self.group)), many)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(many) - many, many)
        found = entry[ends[self.group[which]] + offset]
        row = place[groups.kind[found], self.goes[which]]
        model.rows(
            [(np.arange(len(kind)), column, 1.0), (row, self.given[which], -groups.count[found])],
            -np.inf,
            groups.placed[kind, split],
            len(kind),
        )

    def most(self) -> Answer | None:
        """First: as many images as can be."""
        self.model.price(self.size, -1.0)
        found = self.model.solve(gap=1e-9)
        if found is not None:
            total = found.values[self.size].reshape(-1, self.splits).sum(axis=1)
            self.total = total
            row = np.repeat(np.arange(self.categories), self.splits)
            self.model.rows([(row, self.size, 1.0)], total, total, self.categories)
        return found

    def shared(self) -> Answer | None:
        """Second: every split, maker and bucket its share."""
        model, kinds, wishes, splits = self.model, self.kinds, self.wishes, self.splits
        model.settle()
        makers, category, origin = self._makers()
        ask = np.zeros(len(makers), dtype=np.int64)
        target = np.zeros((self.categories, splits))
        for c in range(self.categories):
            asked_held = [0, 0]
            for o in range(len(ORIGINS)):
                mine = (category == c) & (origin == o)
                ask[mine] = quotas(int(self.total[c]), wishes.weights[mine], makers[mine])
                asked_held[o] = int(np.minimum(ask[mine], wishes.held[mine]).sum())
            # What is held out comes on top of the test's share: the class with more of it decides.
            out = min(max(asked_held), int(self.total[c]))
            target[c] = parts(int(self.total[c]) - out, wishes.shares)
            target[c, wishes.test] += out
        each = np.arange(self.categories * splits)
        model.near(each, self.size, target.ravel(), SPLIT)
        reach = model.columns(0.0, 1.0, len(each), whole=False)
        wanted = np.where(target.ravel() > 0, 1.0, 0.0)
        model.rows([(each, self.size, 1.0), (each, reach, 1.0)], wanted, np.inf, len(each))
        model.price(reach, EMPTY)

        by_split, *buckets = self._given()
        light = wishes.loose if len(wishes.sizes) or len(wishes.aspects) else np.zeros(len(makers), dtype=bool)
        for chosen, price in ((~light, MAKER), (light, LOOSE)):
            mine = chosen[kinds.maker[self.kind]]
            place = np.cumsum(chosen) - 1
            model.near(place[kinds.maker[self.kind[mine]]], self.column[mine], ask[chosen], price)
        loose = (
            np.maximum(ask - wishes.held, 0)[:, None] * (target / np.maximum(target.sum(axis=1, keepdims=True), 1))[category]
        )
        loose[:, wishes.test] += np.minimum(ask, wishes.held)
        model.near(by_split[0][0], self.column, loose.ravel(), EVEN)
        for ((row, place), count), shares in zip(buckets, (wishes.sizes, wishes.aspects), strict=True):
            if count:
                asked = np.concatenate([np.tile(parts(int(n), shares), (len(ORIGINS), 1)) for n in self.total]).ravel()
                model.near(row, self.column[place], asked, BUCKET)
        return model.solve()

    def settled(self, answer: Answer, gap: float) -> Settled:
        """The answer to the second order as numbers."""
        values = answer.values[self.column]
        found = []
        for row, count in self._given():
            found.append(np.bincount(row[0], weights=values[row[1]], minlength=count).astype(np.int64))
        return Settled(found[0], (found[1], found[2]), gap)

    def hold(self, settled: Settled) -> None:
        """What every maker gives to every split, and every bucket, is settled; the images behind it are not."""
        for (row, count), given in zip(self._given(), (settled.kept, *settled.buckets), strict=True):
            if count:
                self.model.rows([(row[0], self.column[row[1]], 1.0)], given, given, count)

    def _given(self) -> list[tuple[tuple[Rows, Rows], int]]:
        """(row, place of the column), and how many rows: makers by split, sizes by cell, aspects by cell."""
        kinds, wishes = self.kinds, self.wishes
        found = [
            ((kinds.maker[self.kind] * self.splits + self.split, np.arange(len(self.kind))), len(wishes.weights) * self.splits)
        ]
        cell = kinds.category * len(ORIGINS) + kinds.origin
        for place, shares in ((kinds.size, wishes.sizes), (kinds.shape, wishes.aspects)):
            known = np.flatnonzero(place[self.kind] >= 0) if len(shares) else np.zeros(0, dtype=np.int64)
            row = cell[self.kind[known]] * len(shares) + place[self.kind[known]]
            found.append(((row, known), self.categories * len(ORIGINS) * len(shares)))
        return found

    def alike(self) -> Answer | None:
        """Third: both classes alike in size, aspect and quality, in every category and split; and pairs before others."""
        model, kinds = self.model, self.kinds
        model.settle()
        sign = np.where(kinds.origin[self.kind] == 0, 1.0, -1.0)
        self.nodes: list[tuple[Rows, int]] = []
        for level in kinds.levels.T:
            named = np.stack([kinds.category[self.kind], self.split, level[self.kind]], axis=1)
            node, row = np.unique(named, axis=0, return_inverse=True)
            row = row.ravel().astype(np.int64)
            each = np.arange(len(node))
            more, fewer = (model.columns(0.0, np.inf, len(node), whole=False) for _ in range(2))
            model.rows([(row, self.column, sign), (each, more, -1.0), (each, fewer, 1.0)], 0.0, 0.0, len(node))
            model.price(more, 1.0)
            model.price(fewer, 1.0)
            self.nodes.append((row, len(node)))
        self.sign = sign
        model.price(self.column, np.where(kinds.paired[self.kind] > 0, -PAIR, 0.0))
        return model.solve()

    def counts(self, answer: Answer, gap: float) -> Counts:
        """The answer to the third order as numbers."""
        kept = np.zeros((2, len(self.kinds), self.splits), dtype=np.int64)
        values = answer.values[self.column]
        late = (np.arange(len(values)) >= self.first).astype(np.int64)
        np.add.at(kept, (late, self.kind, self.split), values)
        given = np.zeros((len(self.groups.number), self.splits), dtype=np.int64)
        np.add.at(given, (self.group, self.goes), answer.values[self.given])
        apart = sum(
            float(np.abs(np.bincount(row, weights=self.sign * values, minlength=count)).sum()) for row, count in self.nodes
        )
        return Counts(kept[0], kept[1], given, apart / max(len(self.nodes) * int(values.sum()), 1), gap)

    def _makers(self) -> tuple[Rows, Rows, Rows]:
        """How many images each maker has, and its category and origin."""
        kinds, groups = self.kinds, self.groups
        held = kinds.free + kinds.held + groups.placed.sum(axis=1)
        held = held + np.bincount(
            groups.kind, weights=groups.count * groups.number[groups.composition], minlength=len(kinds)
        ).astype(np.int64)
        count = len(self.wishes.weights)
        makers = np.bincount(kinds.maker, weights=held, minlength=count).astype(np.int64)
        category, origin = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        category[kinds.maker], origin[kinds.maker] = kinds.category, kinds.origin
        return makers, category, origin
