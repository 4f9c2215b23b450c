"""The cheapest thing to add: the fewest new images, and whose, that would fill every cell of the categories that are not full.

The same programme as `programme`, with new images that belong to no group among its unknowns, and every target an equation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from imaginet_build import choice
from imaginet_build.choice import Candidates, Problem
from imaginet_build.programme import More, Programme, Rows, parts
from imaginet_build.recipe import Balance
from imaginet_build.records import ORIGINS, SPLITS

Maker = tuple[str, str, str]

ANY = "any"
SHORT = 1_000.0
"""The price of an image by which a maker misses its share whatever is added; of a new image it is 1."""


@dataclass(frozen=True, slots=True)
class Shopping:
    """`add`: (category, origin, maker or `any`), the place among the recipe's sizes and among its aspects (-1: any) -> new
    images. `barred`: makers, and how many images short of their share
    they stay whatever is added, because they are held out and the test split has no more room."""

    add: dict[tuple[Maker, int, int], int]
    barred: dict[Maker, int]

    def of(self, *name: str) -> int:
        """All new images of a category, of an origin in it, or of one maker there."""
        return sum(n for (maker, _, _), n in self.add.items() if maker[: len(name)] == name)


def cheapest(images: Candidates, settings: Balance, asked: Mapping[Maker, int], seed: int) -> Shopping:
    """What would fill `asked`: (category, origin, maker) -> images, for every maker there is, and for the maker `any` of an
    origin that has none in its category."""
    found = Shopping({}, {})
    missing = {category for category, _, _ in asked} - set(images.category.tolist())
    for rows in choice.apart(images):
        part = images.take(rows)
        _shop(part, settings, {name: n for name, n in asked.items() if name[0] in set(part.category.tolist())}, seed, found)
    for name, count in asked.items():
        # A category whose images are all left out has no programme.
        if name[0] in missing and count:
            found.add[name, -1, -1] = count
    return found


def _shop(images: Candidates, settings: Balance, asked: Mapping[Maker, int], seed: int, found: Shopping) -> None:
    names = [split for split in SPLITS if settings.splits.get(split, 0) > 0]
    problem = Problem(images, settings, names, 0, seed)
    wishes, count = problem.wishes, len(names)
    # Makers with a share of their own; sources without weights share by what they hold, so any source will do.
    own = [(name, n) for name, n in asked.items() if (name[1] == "synthetic" or settings.sources) and name[2] != ANY]
    number = {name: i for i, name in enumerate(problem.makers)}
    columns: list[tuple[int, int, int, int]] = []
    labels: list[tuple[Maker, int, int]] = []
    sizes, aspects = (list(range(len(shares))) or [-1] for shares in (wishes.sizes, wishes.aspects))
    shares = {(category, origin) for (category, origin, _), _ in own}
    for c, category in enumerate(problem.categories):
        for o, origin in enumerate(ORIGINS):
            mine = [name for name, n in own if name[:2] == (category, origin) and (n or name in number)]
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
        return
    for label, value in zip(labels, answer.values[programme.more].tolist(), strict=True):
        if value:
            found.add[label] = found.add.get(label, 0) + value
    if own:
        for (name, _), value in zip(own, answer.values[short].tolist(), strict=True):
            if value:
                found.barred[name] = value


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
