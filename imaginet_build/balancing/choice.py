"""Which images stay and in which split: the programme counts, a seeded draw names.

Images are told apart by kind and groups by composition (`programme`); among images of one kind, and among groups of one
composition, a hash of seed and id decides. Categories that share no group are balanced apart, so that one does not move
another. Where there are too many kinds or compositions for a programme of bounded size, strata are made coarser and groups of
rare composition are placed by their shares (`splits`); both are said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imaginet_build.balancing import programme, splits, strata
from imaginet_build.balancing.programme import Counts, Groups, Kinds, Wishes
from imaginet_build.duplicates.connect import components
from imaginet_build.errors import BuildError
from imaginet_build.recipe import Balance
from imaginet_build.records import ORIGINS, SPLITS, Split, seed_of

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Names = NDArray[np.object_]

KINDS = 4_000
"""Kinds of images in one programme; with more, strata are made coarser."""

COMPOSITIONS = 1_200
"""Compositions of groups in one programme; groups of rarer ones are placed by their shares."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Images that may stay, (n,) each, sorted by id. `maker`: generator or source. `group`: a number for each group. `pair`:
    None for no pair. `quality`: nan where it is not known. `held`: for the test split alone."""

    ids: Sequence[str]
    category: Names
    synthetic: Flags
    maker: Names
    group: Rows
    pair: Names
    width: Rows
    height: Rows
    quality: NDArray[np.float64]
    jpeg: Flags
    held: Flags

    def take(self, rows: Rows) -> Candidates:
        """Some of them."""
        arrays = (getattr(self, name)[rows] for name in self.__slots__[1:])
        return Candidates([self.ids[row] for row in rows.tolist()], *arrays)


@dataclass(frozen=True, slots=True)
class Before:
    """What an earlier version settled. `bound`: (n,) the split, as its place in `SPLITS`, in which a candidate's group stands
    already, -1 for none. `kept`: category and split -> images that are in already, of one origin."""

    bound: Rows
    kept: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Solved:
    """How one programme went: `categories` it is for, `detail` of its strata (0-3), `placed` groups that were not in it, the
    `distance` of the laws of both classes before anything is equalized (0-1), and the `gap` to the best answer there may be."""

    categories: list[str]
    images: int
    kinds: int
    compositions: int
    detail: int
    placed: int
    distance: float
    gap: float


def choose(images: Candidates, settings: Balance, seed: int, before: Before | None = None) -> tuple[Names, list[Solved]]:
    """The split of every image, None for one too many; and how the programmes went."""
    split = np.full(len(images.ids), None, dtype=object)
    solved = []
    for rows in apart(images):
        part = images.take(rows)
        placed, how = _choose(part, settings, seed, Before(before.bound[rows], before.kept) if before else None)
        split[rows] = placed
        solved.append(how)
        if how.gap > programme.FAIR:
            log.warning(
                "%s: the best plan found may be up to %.1f %% from the best there is", ", ".join(how.categories), 100 * how.gap
            )
    return split, solved


def apart(images: Candidates) -> list[Rows]:
    """The rows of categories that share groups, sorted by the first of their names."""
    category, names = splits.numbered(images.category.tolist())
    order = np.argsort(images.group, kind="stable")
    group, of = images.group[order], category[order]
    same = np.flatnonzero((group[1:] == group[:-1]) & (of[1:] != of[:-1]))
    tied = np.unique(np.stack([of[same], of[same + 1]], axis=1), axis=0) if len(same) else np.zeros((0, 2), dtype=np.int64)
    label = components(len(names), tied)
    return [np.flatnonzero(label[category] == one) for one in np.unique(label)]


def _choose(images: Candidates, settings: Balance, seed: int, before: Before | None) -> tuple[Names, Solved]:
    names = [split for split in SPLITS if settings.splits.get(split, 0) > 0]
    for detail, loose in ladder(images, settings):
        problem = Problem(images, settings, names, detail, seed, COMPOSITIONS if loose else 0, before=before)
        counts = None
        coarse = Problem(images, settings, names, 0, seed, placed=problem.placed, before=before) if detail else problem
        settled = programme.settle(coarse.kinds, coarse.groups, coarse.wishes)
        if settled is not None:
            counts = programme.solve(problem.kinds, problem.groups, problem.wishes, settled)
        if counts is not None:
            number = problem.name(counts, seed)
            how = Solved(
                problem.categories, len(images.ids), len(problem.kinds), len(problem.groups.number), detail, problem.few,
                round(counts.distance, 4), round(counts.gap, 4),
            )  # fmt: skip
            return np.array([*names, None], dtype=object)[number], how
        log.warning(
            "%s: no plan within the limits of the search; once more, with coarser strata", ", ".join(problem.categories)
        )
    raise BuildError(
        f"no plan for {', '.join(sorted(set(images.category.tolist())))} was found: give balance.per_cell a smaller number, "
        "or fewer weights, sizes and aspects"
    )


def ladder(images: Candidates, settings: Balance) -> list[tuple[int, bool]]:
    """(detail of the strata, whether groups are in the programme) in the order in which they are tried."""
    fits = [detail for detail in range(strata.DETAIL, -1, -1) if len(np.unique(_kind_keys(images, settings, detail))) <= KINDS]
    return [(detail, True) for detail in fits or [0]] + [(0, False)]


class Problem:
    """Images as kinds, groups as compositions, and the way back. `placed`: groups whose split is settled beside the programme
    (-1: not settled); without it, those of a composition that is not among the `compositions` most common ones."""

    def __init__(
        self,
        images: Candidates,
        settings: Balance,
        names: Sequence[Split],
        detail: int,
        seed: int,
        compositions: int = COMPOSITIONS,
        placed: Rows | None = None,
        before: Before | None = None,
    ) -> None:
        self.images, self.splits = images, len(names)
        category, self.categories = splits.numbered(images.category.tolist())
        maker, self.makers = makers(images)
        key = _kind_keys(images, settings, detail)
        _, first, kind = np.unique(key, return_index=True, return_inverse=True)
        self.kind = kind = kind.ravel().astype(np.int64)
        count = len(first)
        _, group = np.unique(images.group, return_inverse=True)
        self.group = group = group.ravel().astype(np.int64)
        size = np.bincount(group)
        sure = np.full(len(size), -1, dtype=np.int64)
        if before is not None:
            # Older images of its group are not among these: even a group of one is settled.
            at = np.array([names.index(split) if split in names else -1 for split in SPLITS])
            sure[group[before.bound >= 0]] = at[before.bound[before.bound >= 0]]
        self.alone = (size[group] == 1) & (sure[group] < 0)

        wanted = [int(side) for side in settings.sizes]
        levels = strata.levels(
            images.width[first], images.height[first], images.quality[first], images.jpeg[first], detail, wanted
        )
        place, shape = _wished(images, settings, first)
        free, held = (
            np.bincount(kind[self.alone & (images.held == flag)], minlength=count).astype(np.int64) for flag in (False, True)
        )
        self.kinds = Kinds(
            category[first], images.synthetic[first].astype(np.int64), maker[first], _paired(images)[first].astype(np.int64),
            levels, place, shape, free, held,
        )  # fmt: skip
        self.placed = sure if placed is None else placed
        self._compose(settings, names, compositions if placed is None else None, seed)
        self.wishes = wishes_of(images, settings, names, maker, self.makers)
        if self.wishes.limits is not None and before is not None:
            held = np.array([[before.kept.get((category, split), 0) for split in names] for category in self.categories])
            self.wishes = replace(self.wishes, limits=np.maximum(self.wishes.limits - held, 0))

    def _compose(self, settings: Balance, names: Sequence[Split], compositions: int | None, seed: int) -> None:
        """Groups of several images by composition. What a group holds is told by the sum of its images' random numbers.

        `compositions`: how many there may be; None for all.
        """
        count, size = len(self.kinds), len(self.placed)
        given = np.zeros((count, self.splits), dtype=np.int64)
        rows = np.flatnonzero(~self.alone & (self.placed[self.group] < 0))
        number, code = np.unique(self.group[rows], return_inverse=True)
        code = code.ravel()
        chance = np.random.Generator(np.random.PCG64(0)).integers(0, 2**64, (2, count), dtype=np.uint64)
        held = np.zeros(len(number), dtype=bool)
        held[code[self.images.held[rows]]] = True
        sums = np.zeros((2, len(number)), dtype=np.uint64)
        for total, random in zip(sums, chance, strict=True):
            np.add.at(total, code, random[self.kind[rows]])
        _, example, which, members = np.unique(
            np.stack([held.astype(np.uint64), *sums], axis=1),
            axis=0,
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        which = which.ravel()
        # The common ones are in the programme, the rare ones are not, where there are too many.
        rank = np.lexsort((example, -members))
        inside = np.zeros(len(members), dtype=bool)
        inside[rank[:compositions]] = True
        at = np.cumsum(inside) - 1
        self.few = int(members[~inside].sum())
        if self.few:
            self._place(rows[~inside[which[code]]], settings, names, seed)
        sure = np.flatnonzero(self.placed[self.group] >= 0)
        np.add.at(given, (self.kind[sure], self.placed[self.group[sure]]), 1)

        shown = rows[np.isin(code, example[inside])]
        composition = at[which[np.searchsorted(number, self.group[shown])]]
        entry, times = np.unique(composition * count + self.kind[shown], return_counts=True)
        self.groups = Groups(
            entry // max(count, 1), entry % max(count, 1), times.astype(np.int64), members[inside], held[example[inside]], given
        )
        self.composition = np.full(size, -1, dtype=np.int64)
        self.composition[number] = np.where(inside[which], at[which], -1)

    def _place(self, rows: Rows, settings: Balance, names: Sequence[Split], seed: int) -> None:
        log.info(
            "%s: %d groups of rare composition are placed by their shares, beside the programme",
            ", ".join(self.categories),
            self.few,
        )
        images, first = self.images, np.unique(self.group, return_index=True)[1]
        origin = np.where(images.synthetic[rows], "synthetic", "real").tolist()
        cells = [f"{category}\n{name}" for category, name in zip(images.category[rows].tolist(), origin, strict=True)]
        found = splits.assign(
            [images.ids[row] for row in first[self.group[rows]].tolist()],
            [f"{cell}\n{maker}" for cell, maker in zip(cells, images.maker[rows].tolist(), strict=True)],
            settings.splits,
            seed,
            images.held[rows].tolist(),
            cells,
        )
        self.placed[self.group[rows]] = [names.index(split) for split in found]

    def name(self, counts: Counts, seed: int) -> Rows:
        """The split of every image by number; the number of splits for one too many."""
        images, none = self.images, self.splits
        split = np.full(len(images.ids), none, dtype=np.int64)
        key = np.array([seed_of(name, f"fill {seed}") for name in images.ids], dtype=np.int64)
        alone = np.flatnonzero(self.alone)
        split[alone] = _dealt(self.kind[alone], key[alone], counts.alone)

        first = np.unique(self.group, return_index=True)[1]
        loose = np.flatnonzero(self.composition >= 0)
        names = np.array([seed_of(images.ids[row], f"split {seed}") for row in first[loose].tolist()], dtype=np.int64)
        goes = self.placed.copy()
        goes[loose] = _dealt(self.composition[loose], names, counts.groups)
        goes[goes < 0] = none
        # The synthetic ones first, so that a real whose fake is in comes before the others: the pair shows one content in both.
        shown: set[str] = set()
        for synthetic in (True, False):
            rows = np.flatnonzero(~self.alone & (images.synthetic == synthetic) & (goes[self.group] < none))
            late = np.array(
                [pair is None or (not synthetic and pair not in shown) for pair in images.pair[rows].tolist()], dtype=bool
            )
            at = self.kind[rows] * none + goes[self.group[rows]]
            chosen = rows[_dealt(at, key[rows], counts.grouped.reshape(-1, 1), late) == 0]
            split[chosen] = goes[self.group[chosen]]
            shown = {pair for pair in images.pair[chosen].tolist() if pair is not None}
        return split


def makers(images: Candidates) -> tuple[Rows, list[tuple[str, str, str]]]:
    """A number for the category, origin and maker of every image, and what each number means."""
    category, categories = splits.numbered(images.category.tolist())
    maker, names = splits.numbered(images.maker.tolist())
    keys, code = np.unique((category * 2 + images.synthetic) * max(len(names), 1) + maker, return_inverse=True)
    cell, last = np.divmod(keys, max(len(names), 1))
    known = [(categories[c // 2], str(ORIGINS[c % 2]), names[m]) for c, m in zip(cell.tolist(), last.tolist(), strict=True)]
    return code.ravel().astype(np.int64), known


def wishes_of(
    images: Candidates, settings: Balance, names: Sequence[Split], maker: Rows, known: Sequence[tuple[str, str, str]]
) -> Wishes:
    """What the recipe asks of these images."""
    share = np.array([settings.splits[split] for split in names])
    holds = np.bincount(maker, minlength=len(known)).astype(float)
    return Wishes(
        share,
        list(names).index("test") if "test" in names else 0,
        None if settings.per_cell == "max" else programme.parts(settings.per_cell, share),
        np.array([weight(settings, o, m, held) for (_, o, m), held in zip(known, holds.tolist(), strict=True)]),
        np.bincount(maker[images.held], minlength=len(known)).astype(np.int64),
        np.array([settings.sizes[side] for side in sorted(settings.sizes, key=int)]),
        np.array([settings.aspects[shape] for shape in sorted(settings.aspects)]),
        np.array([origin == "real" and not settings.sources for _, origin, _ in known], dtype=bool),
    )


def weight(settings: Balance, origin: str, maker: str, holds: float) -> float:
    """What a maker counts for in its cell: generators share alike, sources by what they hold, unless the recipe says
    otherwise."""
    if origin == "synthetic":
        return settings.generators.get(maker, 1.0)
    return settings.sources.get(maker, 1.0) if settings.sources else holds


def _kind_keys(images: Candidates, settings: Balance, detail: int) -> Rows:
    maker, _ = makers(images)
    wanted = [int(side) for side in settings.sizes]
    level = strata.levels(images.width, images.height, images.quality, images.jpeg, detail, wanted)[:, 2]
    key = maker
    place, shape = _wished(images, settings, np.arange(len(maker)))
    for part, size in ((level, 1 << 11), (place + 1, 1 << 10), (shape + 1, 4), (_paired(images), 2), (images.held, 2)):
        key = key * size + part.astype(np.int64)
    return key


def _wished(images: Candidates, settings: Balance, rows: Rows) -> tuple[Rows, Rows]:
    width, height = images.width[rows], images.height[rows]
    return strata.wished(np.minimum(width, height), strata.shapes(width, height), settings.sizes, settings.aspects)


def _paired(images: Candidates) -> Flags:
    """Images whose pair has images of both origins here."""
    has: Flags = np.array([pair is not None for pair in images.pair.tolist()], dtype=bool)
    rows = np.flatnonzero(has)
    code, known = splits.numbered(images.pair[rows].tolist())
    both = np.zeros((2, len(known)), dtype=bool)
    both[images.synthetic[rows].astype(np.int64), code] = True
    has[rows] = (both[0] & both[1])[code]
    return has


def _dealt(kind: Rows, key: Rows, counts: Rows, late: Flags | None = None) -> Rows:
    """Where each of n items goes, (n,): the first `counts[kind, 0]` of its kind to 0, and so on; the number of columns for
    the rest.

    By `key` within a kind, those marked `late` after the others."""
    last = np.zeros(len(kind), dtype=bool) if late is None else late
    order = np.lexsort((key, last, kind))
    start = np.r_[0, np.cumsum(np.bincount(kind, minlength=len(counts)))]
    nth = np.arange(len(order)) - start[kind[order]]
    goes = np.empty(len(kind), dtype=np.int64)
    goes[order] = (nth[:, None] >= np.cumsum(counts, axis=1)[kind[order]]).sum(axis=1)
    return goes
