"""What every cell (category x origin) is asked for, who fills it, and in words why it is not full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imaginet_build.recipe import Balance
from imaginet_build.records import ORIGINS

Rows = np.typing.NDArray[np.int64]
Names = np.typing.NDArray[np.object_]
Reasons = Counter[str]

KEPT = ""
SURPLUS = "surplus"


@dataclass(frozen=True, slots=True)
class Cell:
    """One generator or source within a category and origin.

    `asked`: its share of what the recipe asks of the cell (`per_cell`; with `max`, as many as the richer class of the category
    has after twins and screens): generators share by weight, sources by what they hold. `reason`: why less was kept, and what
    would mend it; empty where nothing is missing.
    """

    category: str
    origin: str
    generator_or_source: str
    asked: int
    kept: int
    reason: str


def parts(total: int, shares: Mapping[Any, float]) -> dict[Any, int]:
    """`total` in whole numbers by `shares`, by largest remainder, so that they sum to it; all 0 where every share is.

    Where remainders tie, the smaller share comes first.
    """
    whole = sum(shares.values())
    exact = {name: total * share / whole if whole else 0.0 for name, share in shares.items()}
    given = {name: int(value + 1e-9) for name, value in exact.items()}
    order = sorted(given, key=lambda name: (-round(exact[name] - given[name], 9), shares[name], name))
    for name in order[: total - sum(given.values()) if whole else 0]:
        given[name] += 1
    return given


def share(maker: Names, key: Rows, rows: Rows, n: int, weights: Mapping[str, float], taken: Counter[str]) -> Rows:
    """`n` of `rows`, every maker its share by weight (1 where it has none); what one cannot give, the others do.

    `maker`, `key`: of all images, by row; of one maker's rows those with the lowest key are taken. `taken` counts what was
    taken from each before and goes on: it settles who comes first where two have equal claims.
    """
    order = rows[np.lexsort((rows, key[rows]))]
    names, code = np.unique(maker[order].astype(str), return_inverse=True)
    by_maker = np.argsort(code, kind="stable")
    held = np.bincount(code, minlength=len(names))
    nth = np.arange(len(order)) - np.repeat(np.cumsum(held) - held, held)
    weight = np.array([weights.get(str(name), 1.0) for name in names])
    before = np.array([taken[str(name)] for name in names], dtype=np.int64)
    whose = code[by_maker]
    claim = np.round((nth + 1) / weight[whose], 9)
    chosen = order[by_maker[np.lexsort((whose, before[whose], claim))[:n]]]
    taken.update(maker[chosen].tolist())
    return chosen


def account(found: Mapping[tuple[str, str, str], Reasons], settings: Balance) -> Iterator[Cell]:
    """Every generator and source beside its share of what is asked of its cell, and why it gives less.

    `found`: (category, origin, maker) -> how many images were left out for which reason, and how many were kept (`KEPT`). A
    category without any image of one class has a cell of the maker `any` there.
    """
    for category in sorted({category for category, _, _ in found}):
        makers: dict[str, dict[str, Reasons]] = {
            o: {m: found[c, p, m] for c, p, m in sorted(found) if (c, p) == (category, o)} for o in ORIGINS
        }
        shares = {
            origin: {m: settings.generators.get(m, 1.0) if origin == "synthetic" else _usable(r) for m, r in held.items()}
            for origin, held in makers.items()
        }
        usable = {o: sum(_usable(r) for m, r in held.items() if shares[o][m]) for o, held in makers.items()}
        target = max(usable.values()) if settings.per_cell == "max" else settings.per_cell
        for origin, held in makers.items():
            asked = parts(target, shares[origin])
            for maker, reasons in held.items():
                why = _why(reasons, asked[maker], category, usable, target)
                yield Cell(category, origin, maker, asked[maker], reasons[KEPT], why)
            if not held:
                why = f"there is no {origin} image of {category}: {target} would fill it"
                yield Cell(category, origin, "any", target, 0, why)


def _usable(reasons: Reasons) -> int:
    return reasons[KEPT] + reasons[SURPLUS]


def _why(reasons: Reasons, asked: int, category: str, usable: Mapping[str, int], target: int) -> str:
    """Why fewer than `asked` were kept, and the cheapest thing to add."""
    if reasons[KEPT] >= asked:
        return ""
    scarce = {origin: have for origin, have in usable.items() if have < target}
    if scarce:
        held = " and ".join(f"{have} {origin}" for origin, have in scarce.items())
        more = " and ".join(f"{target - have}{f' {o}' if len(scarce) > 1 else ''}" for o, have in scarce.items())
        said = f"{held} images of {category} limit it: {more} more would fill it"
    elif (short := asked - _usable(reasons)) > 0:
        said = f"it has {_usable(reasons)} usable images: {short} more would fill its share"
    else:
        said = "whole groups do not divide evenly among the splits"
    lost = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()) if n and reason not in (KEPT, SURPLUS))
    return f"{said}; left out: {lost}" if lost else said
