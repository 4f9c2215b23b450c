"""The cheapest thing to add: the fewest new images, and whose, that would fill every cell of the categories that are not full.

The same programme as `programme`, with new images that belong to no group among its unknowns, and every target an equation.
What comes out is tried: the programme of the plan is solved once more as if the new images were there, and what it then does
not fill is not promised.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from imaginet_build.balancing import choice, strata
from imaginet_build.balancing.choice import Candidates, Problem
from imaginet_build.balancing.programme import Kinds, More, Programme, Rows, parts, settle
from imaginet_build.recipe import Balance
from imaginet_build.records import ORIGINS, SPLITS

Flags = np.typing.NDArray[np.bool_]
Shares = np.typing.NDArray[np.float64]
Maker = tuple[str, str, str]

ANY = "any"
SHORT = 1_000.0
"""The price of an image by which a maker misses its share whatever is added; of a new image it is 1."""


@dataclass(frozen=True, slots=True)
class Shopping:
    """`add`: (category, origin, maker or `any`), the place among the recipe's sizes and among its aspects (-1: any) -> new
    images. `barred`: makers, and how many images short of their share
    they stay whatever is added, because they are held out and the test split has no more room. `unsure`: categories for which
    nothing was found that fills every cell and bucket."""

    add: dict[tuple[Maker, int, int], int]
    barred: dict[Maker, int]
    unsure: set[str] = field(default_factory=set)

    def of(self, *name: str) -> int:
        """All new images of a category, of an origin in it, or of one maker there."""
        return sum(n for (maker, _, _), n in self.add.items() if maker[: len(name)] == name)


def totals(images: Candidates, settings: Balance, least: Mapping[str, int]) -> dict[str, int | None]:
    """With `per_cell = "max"`: category -> the images of one origin in it once everything is filled.

    Every image that is added to fill a size or an aspect counts for its origin too, so the total is the smallest at which all
    that there is and all that is added are exactly the shares: every size, and every aspect, together with what is in none of
    them. None where no total is (images in none of the recipe's sizes ask for more in them, and so on without end).
    """
    place, shape = strata.wished(
        np.minimum(images.width, images.height), strata.shapes(images.width, images.height), settings.sizes, settings.aspects
    )
    wanted = (
        (place, [settings.sizes[side] for side in sorted(settings.sizes, key=int)]),
        (shape, [settings.aspects[name] for name in sorted(settings.aspects)]),
    )
    found: dict[str, int | None] = {}
    for category in sorted(set(images.category.tolist())):
        mine = images.category == category
        cells = [np.flatnonzero(mine & (images.synthetic == synthetic)) for synthetic in (False, True)]
        families = []
        for i, (at, shares) in enumerate(wanted):
            can = np.ones(len(shares), dtype=bool)
            if i == 0:
                can[:] = np.isin(np.arange(len(shares)), _sizes(settings, least.get(category, 0)))
            held = [np.bincount(at[rows][at[rows] >= 0], minlength=len(shares)) for rows in cells]
            families += [(np.array(shares), can, have, len(rows)) for have, rows in zip(held, cells, strict=True) if shares]
        found[category] = _fixed(max(len(rows) for rows in cells), families)
    return found


STEPS = 1_000
"""Totals that are tried one by one."""


def _fixed(least: int, families: Sequence[tuple[Shares, Flags, Rows, int]]) -> int | None:
    """The smallest total of at least `least` at which all fit: (shares, buckets that can be filled, images in each, images)."""

    def fits(total: int) -> bool:
        return all(
            int(np.maximum(have, parts(total, shares))[can].sum()) + count - int(have[can].sum()) <= total
            for shares, can, have, count in families
        )

    if fits(least):
        return least
    high = least
    for shares, can, have, count in families:
        share = shares / shares.sum()
        full = can & (share > 0)
        high = max([high, *np.ceil(have[full] / share[full]).astype(np.int64).tolist()])
        loose, room = count - int(have[full].sum()), float(share[~can].sum())
        if loose and room:
            high = max(high, int(np.ceil((loose + len(shares)) / room)))
    tried = range(max(least, high - STEPS), high + len(families) + 2)
    return next((total for total in tried if fits(total)), None)


def _sizes(settings: Balance, least: int) -> list[int]:
    """The places of the recipe's sizes that an image of at least `least` pixels can have; -1 where there are none."""
    sides = sorted(int(side) for side in settings.sizes)
    return [i for i in range(len(sides)) if i + 1 == len(sides) or sides[i + 1] > least] or [-1]


def cheapest(
    images: Candidates, settings: Balance, asked: Mapping[Maker, int], seed: int, least: Mapping[str, int], endless: set[str]
) -> Shopping:
    """What would fill `asked`: (category, origin, maker) -> images, for every maker there is, and for the maker `any` of an
    origin that has none in its category. `least`: category -> pixels of the shortest side that may stay. `endless`: categories
    that have no total (`totals`)."""
    found = Shopping({}, {})
    missing = {category for category, _, _ in asked} - set(images.category.tolist())
    for rows in choice.apart(images):
        part = images.take(rows)
        here = set(part.category.tolist())
        own = {name: n for name, n in asked.items() if name[0] in here}
        bought = Shopping({}, {})
        if (
            not here & endless
            and _shop(part, settings, own, seed, bought, least)
            and _filled(part, settings, own, seed, bought, least)
        ):
            found.add.update(bought.add)
        else:
            found.unsure.update(here)
        found.barred.update(bought.barred)
    for category in sorted(missing):
        for origin in map(str, ORIGINS):
            # A category whose images are all left out has no programme.
            _spread({name: n for name, n in asked.items() if name[:2] == (category, origin) and n}, settings, least, found)
    return found


def _spread(asked: Mapping[Maker, int], settings: Balance, least: Mapping[str, int], found: Shopping) -> None:
    """All of an empty cell, maker by maker, with the shares of sizes and aspects."""
    total = sum(asked.values())
    if not total:
        return
    names = list(asked)
    can = _sizes(settings, least.get(names[0][0], 0))
    sizes = parts(total, [settings.sizes[side] for side in sorted(settings.sizes, key=int)])
    sizes = np.array([n if i in can else 0 for i, n in enumerate(sizes.tolist())] or [total], dtype=np.int64)
    sizes[-1] += total - int(sizes.sum())
    aspects = parts(total, [settings.aspects[name] for name in sorted(settings.aspects)] or [1.0])
    ends = [np.cumsum(counts) for counts in ([asked[name] for name in names], sizes, aspects)]
    begin = 0
    for end in np.unique(np.concatenate(ends)).tolist():
        if end > begin:
            maker, size, shape = (int(np.searchsorted(last, end)) for last in ends)
            label = names[maker], size if settings.sizes else -1, shape if settings.aspects else -1
            found.add[label] = found.add.get(label, 0) + end - begin
        begin = end


def _filled(
    images: Candidates,
    settings: Balance,
    asked: Mapping[Maker, int],
    seed: int,
    shopping: Shopping,
    least: Mapping[str, int],
) -> bool:
    """Whether the plan fills every cell and bucket once the new images are there."""
    names = [split for split in SPLITS if settings.splits.get(split, 0) > 0]
    problem = Problem(images, settings, names, 0, seed)
    kinds, wishes = problem.kinds, problem.wishes
    makers, weights, held = list(problem.makers), wishes.weights.tolist(), wishes.held.tolist()
    columns = []
    for (name, size, shape), count in shopping.add.items():
        if name not in makers:
            makers.append(name)
            weights.append(0.0 if name[1] == "real" and not settings.sources else choice.weight(settings, *name[1:], 1.0))
            held.append(0)
        m = makers.index(name)
        barred = held[m] > 0
        held[m] += count if barred else 0
        if name[1] == "real" and not settings.sources:
            weights[m] += count
        cell = problem.categories.index(name[0]), ORIGINS.index(name[1])
        columns.append((*cell, m, 0, 0, 0, 0, size, shape, 0 if barred else count, count if barred else 0))
    new = np.array(columns, dtype=np.int64).reshape(-1, 11)
    old = np.column_stack(
        [kinds.category, kinds.origin, kinds.maker, kinds.paired, kinds.levels, kinds.size, kinds.shape, kinds.free, kinds.held]
    )
    every = np.concatenate([old, new])
    category, origin, maker, paired = every[:, :4].T
    size, shape, free, out = every[:, 7:].T
    more = Kinds(category, origin, maker, paired, every[:, 4:7], size, shape, free, out)
    placed = np.concatenate([problem.groups.placed, np.zeros((len(new), len(names)), dtype=np.int64)])
    settled = settle(
        more,
        replace(problem.groups, placed=placed),
        replace(
            wishes,
            weights=np.array(weights, dtype=float),
            held=np.array(held, dtype=np.int64),
            loose=np.array([name[1] == "real" and not settings.sources for name in makers]),
        ),
    )
    if settled is None:
        return False
    kept = dict(zip(makers, settled.kept.reshape(len(makers), -1).sum(axis=1).tolist(), strict=True))
    cells = list(itertools.product(problem.categories, map(str, ORIGINS)))
    each = [sum(n for name, n in asked.items() if name[:2] == cell) for cell in cells]
    if any(sum(n for name, n in kept.items() if name[:2] == cell) < total for cell, total in zip(cells, each, strict=True)):
        return False
    for name, n in asked.items():
        # Sources without weights share by what they hold, and give way to sizes and aspects.
        asks = name[2] != ANY and (name[1] == "synthetic" or bool(settings.sources))
        if asks and kept.get(name, 0) < n - shopping.barred.get(name, 0):
            return False
    for family, (found, shares) in enumerate(zip(settled.buckets, (wishes.sizes, wishes.aspects), strict=True)):
        if not len(shares):
            continue
        for have, n, named in zip(found.reshape(-1, len(shares)), each, cells, strict=True):
            can = list(range(len(shares))) if family else _sizes(settings, least.get(named[0], 0))
            if (have[can] < parts(n, shares)[can]).any():
                return False
    return True


def _shop(
    images: Candidates, settings: Balance, asked: Mapping[Maker, int], seed: int, found: Shopping, least: Mapping[str, int]
) -> bool:
    """Put what is missing on the list; whether that could be found."""
    names = [split for split in SPLITS if settings.splits.get(split, 0) > 0]
    problem = Problem(images, settings, names, 0, seed)
    wishes, count = problem.wishes, len(names)
    # Makers with a share of their own; sources without weights share by what they hold, so any source will do.
    own = [(name, n) for name, n in asked.items() if (name[1] == "synthetic" or settings.sources) and name[2] != ANY]
    number = {name: i for i, name in enumerate(problem.makers)}
    columns: list[tuple[int, int, int, int]] = []
    labels: list[tuple[Maker, int, int]] = []
    own = [(name, n) for name, n in own if n or name in number]
    aspects = list(range(len(wishes.aspects))) or [-1]
    shares = {(category, origin) for (category, origin, _), _ in own}
    for c, category in enumerate(problem.categories):
        for o, origin in enumerate(ORIGINS):
            mine = [name for name, _ in own if name[:2] == (category, origin)]
            sizes = _sizes(settings, least.get(category, 0))
            for name in mine if (category, origin) in shares else [(category, origin, ANY)]:
                held = name in number and wishes.held[number[name]] > 0
                for split, size, shape in itertools.product([wishes.test] if held else range(count), sizes, aspects):
                    columns.append((c, o, split, number.get(name, -1)))
                    labels.append((name, size, shape))
    more = More(*np.array(columns, dtype=np.int64).reshape(-1, 4).T)
    programme = Programme(problem.kinds, problem.groups, wishes, more)
    model = programme.model

    totals = np.array([sum(n for name, n in asked.items() if name[:2] == (c, "real")) for c in problem.categories], dtype=float)
    each = np.arange(len(programme.size))
    if wishes.limits is None:
        model.rows([(each // count, programme.size, 1.0)], totals, totals, len(totals))
    else:
        full = np.tile(wishes.limits, len(totals))
        model.rows([(each, programme.size, 1.0)], full, full, len(each))
    if own:
        place = {name: i for i, (name, _) in enumerate(own)}
        at = np.array([place.get(name, -1) for name in problem.makers], dtype=np.int64)[problem.kinds.maker[programme.kind]]
        new = np.array([place.get(name, -1) for name, _, _ in labels], dtype=np.int64)
        short = model.columns(0.0, np.inf, len(own))
        model.rows(
            [
                (at[at >= 0], programme.column[at >= 0], 1.0),
                (new[new >= 0], programme.more[new >= 0], 1.0),
                (np.arange(len(own)), short, 1.0),
            ],
            np.array([float(n) for _, n in own]),
            np.inf,
            len(own),
        )
        model.price(short, SHORT)
    _buckets(programme, more, np.array([label[1:] for label in labels], dtype=np.int64).reshape(-1, 2), totals)
    model.price(programme.more, 1.0)
    answer = model.solve(gap=0.0)
    if answer is None:
        return False
    for label, value in zip(labels, answer.values[programme.more].tolist(), strict=True):
        if value:
            found.add[label] = found.add.get(label, 0) + value
    if own:
        for (name, _), value in zip(own, answer.values[short].tolist(), strict=True):
            if value:
                found.barred[name] = value
    return True


def _buckets(programme: Programme, more: More, places: Rows, totals: np.typing.NDArray[np.float64]) -> None:
    """Every size and aspect its share of every cell, as far as that can be."""
    kinds, wishes, model = programme.kinds, programme.wishes, programme.model
    cell, new_cell = (one.category * len(ORIGINS) + one.origin for one in (kinds, more))
    for own, new, shares in ((kinds.size, places[:, 0], wishes.sizes), (kinds.shape, places[:, 1], wishes.aspects)):
        if not len(shares):
            continue
        asked = np.concatenate([np.tile(parts(int(total), shares), len(ORIGINS)) for total in totals])
        known = own[programme.kind] >= 0
        row = (cell * len(shares) + own)[programme.kind[known]]
        short = model.columns(0.0, np.inf, len(asked))
        model.rows(
            [
                (row, programme.column[known], 1.0),
                (new_cell * len(shares) + new, programme.more, 1.0),
                (np.arange(len(asked)), short, 1.0),
            ],
            asked,
            np.inf,
            len(asked),
        )
        model.price(short, SHORT)
