"""What every cell (category x origin) is asked for, who fills it, and in words why it is not full and what would fill it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from imaginet_build.balancing.choice import weight
from imaginet_build.balancing.programme import parts
from imaginet_build.balancing.shortfall import ANY, Maker, Shopping
from imaginet_build.recipe import Balance
from imaginet_build.records import ORIGINS

Reasons = Counter[str]

KEPT = ""
SURPLUS = "surplus"


@dataclass(frozen=True, slots=True)
class Cell:
    """One generator or source within a category and origin.

    `asked`: its share of what the recipe asks of the cell (`per_cell`; with `max`, as many as the richer class of the category
    has after twins and screens): generators share by weight, sources by what they hold unless the recipe gives them weights.
    `reason`: why less was kept, and the cheapest thing that would mend it; empty where nothing is missing.
    """

    category: str
    origin: str
    generator_or_source: str
    asked: int
    kept: int
    reason: str


@dataclass(frozen=True, slots=True)
class Addition:
    """Something to add: `count` images of `category` and `origin` by `generator_or_source` (`any`: whose does not matter),
    none with a shorter side below `min_side` or above `max_side` (None: any), all of one `aspect` (portrait, square,
    landscape; None: any)."""

    category: str
    origin: str
    generator_or_source: str
    count: int
    min_side: int
    max_side: int | None = None
    aspect: str | None = None

    @property
    def looks(self) -> str:
        """` of at least 512 px`: what they must be like, as a part of a sentence."""
        shape = f", {self.aspect}" if self.aspect else ""
        if self.max_side is not None:
            return f" of {self.min_side} to {self.max_side} px{shape}"
        return f" of at least {self.min_side} px{shape}" if self.min_side else shape


@dataclass(frozen=True, slots=True)
class Bucket:
    """The share of one size (`bucket`: `512`, its smallest shorter side) or aspect in a category and origin, where a recipe
    has them."""

    category: str
    origin: str
    bucket: str
    asked: int
    kept: int
    reason: str


def raised(total: int, weights: Mapping[str, float], holds: Mapping[str, int]) -> dict[str, int]:
    """`total` shared so that everyone keeps what it holds and those furthest below their weights get the rest."""
    names = sorted(holds)
    have = np.array([holds[name] for name in names], dtype=np.int64)
    weighs = np.array([weights[name] for name in names])
    given = have.copy()
    open_ = weighs > 0
    while open_.any() and int(given.sum()) < total:
        level = parts(total - int(have[~open_].sum()), np.where(open_, weighs, 0.0))
        rich = open_ & (have > level)
        if not rich.any():
            given = np.where(open_, level, have)
            break
        open_ &= ~rich
    return dict(zip(names, given.tolist(), strict=True))


def asked(usable: Mapping[Maker, int], settings: Balance, totals: Mapping[str, int] | None = None) -> dict[Maker, int]:
    """What each maker is asked for. An origin that nothing of a category has is asked of the maker `any`. `totals`: with
    `max`, categories that are asked for more than their richer class has."""
    found: dict[Maker, int] = {}
    for category in sorted({name[0] for name in usable}):
        holds = {str(o): {m: n for (c, p, m), n in sorted(usable.items()) if (c, p) == (category, o)} for o in ORIGINS}
        weights = {o: {m: weight(settings, o, m, n) for m, n in held.items()} for o, held in holds.items()}
        if not any(weights["real"].values()) and not settings.sources:
            # Nothing of any source can be used: whose is wanted does not matter, and each says what it lost.
            weights["real"] = dict.fromkeys(weights["real"], 1.0)
        wanted = {o: {m: n for m, n in held.items() if weights[o][m] > 0} for o, held in holds.items()}
        total = max(sum(held.values()) for held in wanted.values()) if settings.per_cell == "max" else settings.per_cell
        if settings.per_cell == "max":
            total = (totals or {}).get(category, total)
        for origin in map(str, ORIGINS):
            names = sorted(holds[origin])
            if not wanted[origin]:
                found |= {(category, origin, name): 0 for name in names} | {(category, origin, ANY): total}
            elif settings.per_cell == "max" and (origin == "synthetic" or settings.sources):
                shares = raised(total, weights[origin], wanted[origin])
                found |= {(category, origin, name): shares.get(name, 0) for name in names}
            else:
                even = parts(total, [weights[origin][name] for name in names])
                found |= {(category, origin, name): n for name, n in zip(names, even.tolist(), strict=True)}
    return found


def additions(shopping: Shopping, least: Mapping[str, int], settings: Balance) -> list[Addition]:
    """The shopping list, sorted. A size that no usable image can have is not on it."""
    found = []
    sides, shapes = sorted(int(side) for side in settings.sizes), sorted(settings.aspects)
    for (name, size, shape), count in sorted(shopping.add.items()):
        low = max(least.get(name[0], 0), sides[size] if size >= 0 else 0)
        high = sides[size + 1] - 1 if 0 <= size < len(sides) - 1 else None
        if high is None or low <= high:
            found.append(Addition(*name, count, low, high, shapes[shape] if shape >= 0 else None))
    return found


@dataclass(frozen=True, slots=True)
class Ground:
    """What reasons are told from. `found`: (category, origin, maker) -> how many images were left out for which reason, and how
    many were kept (`KEPT`). `least`: category -> pixels of the shortest side that may stay; `largest`: maker whose images are
    all too small -> the largest of their shorter sides. `tied`: categories with groups of several images. `endless`: those in
    which every addition raises what is asked, without end."""

    found: Mapping[Maker, Reasons]
    asked: Mapping[Maker, int]
    shopping: Shopping
    add: Sequence[Addition]
    least: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[Maker, int] = field(default_factory=dict)
    tied: frozenset[str] = frozenset()
    endless: frozenset[str] = frozenset()

    def usable(self, name: Maker) -> int:
        """Images of a maker that nothing but their number speaks against."""
        reasons = self.found.get(name, Counter())
        return reasons[KEPT] + reasons[SURPLUS]

    def total(self, category: str, origin: str) -> int:
        """What is asked of a cell."""
        return sum(n for name, n in self.asked.items() if name[:2] == (category, origin))

    def kept(self, category: str, origin: str) -> int:
        """What a cell keeps."""
        return sum(reasons[KEPT] for name, reasons in self.found.items() if name[:2] == (category, origin))

    def unfilled(self, category: str) -> str:
        """Why nothing is promised, where nothing was found."""
        if category in self.endless:
            return (
                f"no set of additions fills it: some images of {category} are in none of the sizes or aspects of the recipe, "
                'and with balance.per_cell = "max" every addition raises what is asked; give balance.per_cell a number'
            )
        return "no set of additions was found that fills this and the shares of splits, generators and sources at once"


def account(ground: Ground, settings: Balance) -> Iterator[Cell]:
    """Every generator and source beside what is asked of it, and why it gives less."""
    asked = ground.asked
    for name in sorted(asked, key=lambda name: (name[0], ORIGINS.index(name[1]), name[2])):
        category, _, maker = name
        reasons = ground.found.get(name, Counter())
        lost = {reason: n for reason, n in sorted(reasons.items()) if n and reason not in (KEPT, SURPLUS)}
        out = ", ".join(f"{n} {reason}" for reason, n in lost.items())
        if name in ground.largest and "too-small" in lost:
            out += (
                f" (the largest short side here is {ground.largest[name]:,} px, at least {ground.least.get(category, 0):,} px "
                "is asked)"
            )
        said = ""
        if reasons[KEPT] < asked[name]:
            said = _why(name, ground, settings) + (f"; left out: {out}" if lost else "")
        elif not ground.usable(name) and lost:
            said = f"none of its images can be used; left out: {out}"
        elif maker == ANY and not asked[name]:
            said = _nothing(name, ground, settings)
        yield Cell(*name, asked[name], reasons[KEPT], said)


def _nothing(name: Maker, ground: Ground, settings: Balance) -> str:
    """Why an origin has nothing of a category."""
    category, origin, _ = name
    key = "balance.generators" if origin == "synthetic" else "balance.sources"
    idle = {m: ground.usable((c, o, m)) for c, o, m in ground.asked if (c, o) == (category, origin) and m != ANY}
    idle = {maker: n for maker, n in idle.items() if n and not weight(settings, origin, maker, n)}
    if not idle:
        return f"there is no {origin} image of {category} that can be used"
    held = " and ".join(f"{maker} holds {n:,} image{'s' if n > 1 else ''}" for maker, n in idle.items())
    many = len(idle) > 1
    raise_ = " or ".join(f"{key}.{maker}" for maker in idle)
    return f"{held} but {'their weights are' if many else 'its weight is'} 0: raise {raise_}"


def _why(name: Maker, ground: Ground, settings: Balance) -> str:
    """Why fewer than asked were kept, and the cheapest thing to add."""
    category, origin, maker = name
    shopping, asked = ground.shopping, ground.asked
    if name in shopping.barred:
        return (
            f"it is held out for the test split, which has no room for {shopping.barred[name]:,} of its share: "
            "give balance.splits.test a larger share, or its generator a smaller weight"
        )
    here = [one for one in ground.add if one.category == category]
    own = [one for one in here if (one.origin, one.generator_or_source) == (origin, maker)]
    idle = _nothing(name, ground, settings)
    if maker == ANY:
        if " 0: raise " in idle:
            return idle + (f"; or {_listed(own, '')} by another would fill it" if own else "")
        if not own:
            return f"there is no {origin} image of {category}, and {ground.unfilled(category)}"
        return f"there is no {origin} image of {category}: {_listed(own, '')} would fill it"
    other = next(str(o) for o in ORIGINS if o != origin)
    if (category, other, ANY) in asked:
        facing = _nothing((category, other, ANY), ground, settings)
        if " 0: raise " in facing:
            return f"there is nothing of the other class to match: {facing}"
    has = {str(o): sum(ground.usable(n) for n in asked if n[:2] == (category, o) and asked[n]) for o in ORIGINS}
    if origin == "real" and not settings.sources and ground.kept(category, origin) >= ground.total(category, origin):
        before = "the sizes and aspects of the recipe come" if settings.sizes or settings.aspects else "the splits come"
        return f"the other sources fill the cell: its share is by what it holds ({ground.usable(name):,}), and {before} first"
    short = [o for o in has if any(one.origin == o for one in here)]
    mine = sum(one.count for one in own)
    if not short:
        poor = [o for o in has if has[o] < ground.total(category, o)]
        if poor:
            held = " and ".join(f"{has[o]:,} {o}" for o in poor)
            return f"{held} images of {category} limit it, and {ground.unfilled(category)}"
        whole = ground.kept(category, origin) < ground.total(category, origin) and category not in shopping.unsure
        if whole and category in ground.tied and sum(share > 0 for share in settings.splits.values()) > 1:
            return "whole groups do not divide evenly among the splits"
        return ground.unfilled(category)
    usable = ground.usable(name)
    if mine and short == [origin] and len(own) == len(here) and has[origin] > usable:
        return f"it has {usable:,} usable images: {_listed(own)} would fill its share"
    held = " and ".join(f"{has[o]:,} {o}" for o in short)
    part = f", {mine:,} of them by it" if mine and len(own) < sum(one.origin == origin for one in here) else ""
    return f"{held} images of {category} limit it: {_listed(here, ' more', len(short) > 1)} would fill it{part}"


def _listed(add: Sequence[Addition], more: str = " more", origins: bool = False) -> str:
    """`990 real and 990 synthetic more of at least 64 px`; looks that differ are named one by one."""
    looks = list(dict.fromkeys(one.looks for one in add))
    said: list[str] = []
    for look in looks:
        alike = [one for one in add if one.looks == look]
        counts = {o: sum(one.count for one in alike if one.origin == o) for o in map(str, ORIGINS)}
        counted = " and ".join(f"{n:,}{f' {o}' if origins else ''}" for o, n in counts.items() if n)
        said.append(f"{counted}{more if not said else ''}{look}")
    return " and ".join(said)


def buckets(
    kept: Mapping[tuple[str, str, str], int],
    ground: Ground,
    shares: Mapping[str, float],
    unit: str,
) -> Iterator[Bucket]:
    """Every size (`unit` is ` px`) or aspect beside its share of what each category and origin is asked for.

    `kept`: (category, origin, bucket) -> images. `shares`: of the buckets, sizes from small to large.
    """
    names = sorted(shares, key=int) if unit else sorted(shares)
    for category, origin in sorted({name[:2] for name in ground.asked}, key=lambda cell: (cell[0], ORIGINS.index(cell[1]))):
        total, least = ground.total(category, origin), ground.least.get(category, 0)
        here = [one for one in ground.add if one.category == category]
        for i, (name, share) in enumerate(zip(names, parts(total, [shares[name] for name in names]).tolist(), strict=True)):
            have, said = kept.get((category, origin, name), 0), ""
            if have < share:
                mine = [
                    one
                    for one in here
                    if one.origin == origin and (one.min_side == max(int(name), least) if unit else one.aspect == name)
                ]
                said = f"{share - have:,} are missing"
                if unit and i + 1 < len(names) and int(names[i + 1]) <= least:
                    said += f": no image so small can be used, since {category} begins at {least} px"
                elif mine:
                    said += f": {_listed(mine)} would fill it"
                elif not here:
                    said += f", and {ground.unfilled(category)}"
                elif ground.kept(category, origin) < total:
                    said += ": there are enough, and they wait for what the cells lack"
                else:
                    said += ": there are enough, but the shares of splits, generators or sources stand against them"
            yield Bucket(category, origin, f"{name}{unit}", share, have, said)
