"""`balance`: facts in, a plan out. No twin, no group across splits, cells of equal size, one law for both classes."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from imaginet_build import dedup, equalize, images, splits, twins
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import ORIGINS, SPLITS, Split, make_id
from imaginet_build.store import Store, write_text

log = logging.getLogger(__name__)

COLUMNS = (
    *("id", "origin", "category", "generator", "source", "prompt", "pair_id", "group", "width", "height", "mode", "contrast"),
    *("codec", "quality", "subsampling", "pixel_hash", "phash", "phash_mirror"),
)
CONFIRM_RADIUS = dedup.CONFIRM_RADIUS

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One generator or source within a category and origin. `asked`: its share of the cell; `reason`: why less was kept."""

    category: str
    origin: str
    generator_or_source: str
    asked: int
    kept: int
    reason: str


@dataclass(frozen=True, slots=True)
class Balanced:
    """What `balance` decided. `splits`: split -> origin -> images. `duplicates`: twins, label conflicts and groups found."""

    cells: tuple[Cell, ...]
    splits: dict[str, dict[str, int]]
    duplicates: dict[str, int]
    kept: int
    rejected: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The document that `balance --json` prints."""
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "splits": self.splits,
            "duplicates": self.duplicates,
            "kept": self.kept,
            "rejected": self.rejected,
        }


def balance(store: Store, settings: Balance, law: Equalize, seed: int) -> Balanced:
    """Write the plan: which images stay, in which split, and how each becomes its row of the `equalized` view.

    The plan depends on the facts, the settings and the seed alone. Raises `UsageError` where there is nothing to balance.
    """
    table = store.facts(COLUMNS)
    if not table.num_rows:
        raise UsageError(f"there are no images in {store.root}: run build-imaginet collect and build-imaginet generate first")
    counts = Counter(table["origin"].to_pylist())
    missing = [origin for origin in ORIGINS if not counts[origin]]
    if missing:
        command = "collect" if missing == ["real"] else "generate"
        raise UsageError(
            f"{store.root} holds no {missing[0]} image, and a label needs both classes: run build-imaginet {command}"
        )
    radius = dedup.default_radius(table.num_rows) if settings.radius == "auto" else settings.radius
    found = twins.find(table, radius, _confirm(store, table["id"].to_pylist()))
    rows: list[Row] = table.to_pylist()
    sides = _sides(law, rows)
    groups = [rows[first]["id"] for first in found.group]
    for number, row in enumerate(rows):
        row["maker"] = row["generator"] or row["source"] or "unknown"
        row["group"] = groups[number]
        row["reason"], row["detail"] = _fault(row, number, found, rows, settings, sides[row["category"]][0])
    usable = [row for row in rows if row["reason"] is None]
    for row, split in zip(usable, _split(usable, settings, seed), strict=True):
        row["split"] = split
    _fill_cells(usable, settings)
    _draw_views(rows, law, sides)
    store.write_plan([_plan_row(row) for row in rows])
    write_text(store.root / "twins.json", json.dumps(_events(rows, found), indent=1) + "\n")
    result = _summary(rows, found, radius, settings)
    write_text(store.root / "balance.json", json.dumps(result.to_json(), indent=1) + "\n")
    return result


def _confirm(store: Store, ids: Sequence[str]) -> twins.Confirm:
    """Near by 64 bits must also be near by 256: flat and alike pictures meet by chance in the shorter hash."""

    @lru_cache(maxsize=65536)
    def long_hash(row: int, mirrored: bool) -> np.typing.NDArray[np.uint64]:
        return images.confirm_hash(next(store.images([ids[row]]))[1], mirrored)

    def confirm(i: int, j: int, mirrored: bool) -> bool:
        distance = np.bitwise_count(long_hash(i, False) ^ long_hash(j, mirrored)).sum()
        return bool(distance <= CONFIRM_RADIUS)

    return confirm


def _fault(
    row: Row, number: int, found: twins.Twins, rows: Sequence[Row], settings: Balance, low: int
) -> tuple[str | None, str | None]:
    """Why a row may not enter at all, before any question of numbers."""
    screen = settings.screen
    if found.twin_of[number] >= 0:
        return "twin", f"a near-duplicate of {rows[found.twin_of[number]]['id']}"
    if found.conflict[number] >= 0:
        return "label-conflict", f"resembles {rows[found.conflict[number]]['id']} of the other class"
    least = max(low, screen.min_side)
    if row["short"] < least:
        return "too-small", f"its short side is {row['short']} pixels, the smallest crop {least}"
    long = max(row["width"], row["height"])
    if screen.max_aspect and long > screen.max_aspect * row["short"]:
        return "too-long", f"{row['width']} x {row['height']} is longer than {screen.max_aspect:g} to 1"
    if row["contrast"] < screen.min_contrast:
        return "blank", f"its grey values deviate by {row['contrast']:.2f} only"
    if not screen.grayscale and row["mode"] in ("L", "LA", "1", "I;16"):
        return "grayscale", "grey images are not welcome in this recipe"
    return None, None


def _split(usable: Sequence[Row], settings: Balance, seed: int) -> list[Split]:
    strata = ["/".join((row["category"], row["origin"], row["maker"])) for row in usable]
    held = [row["generator"] in settings.hold_out for row in usable]
    return splits.assign([row["group"] for row in usable], strata, settings.splits, seed, held)


def _fill_cells(usable: Sequence[Row], settings: Balance) -> None:
    """Mark with a reason what is too much: afterwards both origins of a category are equally many in every split."""
    places: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: {origin: [] for origin in ORIGINS})
    for row in usable:
        places[row["category"], row["split"]][row["origin"]].append(row)
    for (category, split), cell in sorted(places.items()):
        n = min(len(cell["real"]), len(cell["synthetic"]))
        if settings.per_cell != "max":
            n = min(n, round(settings.per_cell * settings.splits.get(split, 0)))  # type: ignore[call-overload]
        chosen = _choose_synthetic(cell["synthetic"], n, settings.generators)
        partners = {row["pair_id"] for row in chosen if row["pair_id"]}
        # A real whose fake is in comes first: the pair shows the same content in both classes.
        reals = sorted(cell["real"], key=lambda row: (row["pair_id"] not in partners, make_id("fill", row["id"])))
        keep = {row["id"] for row in [*chosen, *reals[:n]]}
        for row in [*cell["synthetic"], *cell["real"]]:
            if row["id"] not in keep:
                row["reason"] = "surplus"
                row["detail"] = f"{split} of {category} holds {n} of each class"


def _choose_synthetic(rows: Sequence[Row], n: int, weights: Mapping[str, float]) -> list[Row]:
    """`n` rows, every generator its share (weight 1 where the recipe gives none); what one cannot give, the others do."""
    by_maker: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: make_id("fill", row["id"])):
        by_maker[row["maker"]].append(row)
    taken = dict.fromkeys(sorted(by_maker), 0)
    weight = {maker: weights.get(maker, 1.0) for maker in taken}
    for _ in range(n):
        open_to = [m for m in taken if taken[m] < len(by_maker[m]) and weight[m] > 0]
        if not open_to:
            break
        taken[min(open_to, key=lambda m: ((taken[m] + 1) / weight[m], m))] += 1
    return [row for maker, count in taken.items() for row in by_maker[maker][:count]]


def _sides(law: Equalize, rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """The smallest and largest side of a crop, by category."""
    shorts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        row["short"] = min(row["width"], row["height"])
        shorts[row["category"]][row["origin"]].append(row["short"])
    return {category: equalize.sides_of(law, by_origin) for category, by_origin in shorts.items()}


def _draw_views(rows: Sequence[Row], law: Equalize, sides: Mapping[str, tuple[int, int]]) -> None:
    kept = [row for row in rows if row["reason"] is None]
    reals = [row for row in kept if row["origin"] == "real"]
    laws = {category: equalize.fit(law, category, sides[category], reals) for category in {row["category"] for row in kept}}
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: {origin: [] for origin in ORIGINS})
    for row in kept:
        cells[row["category"], row["split"]][row["origin"]].append(row)
    for (category, _), cell in cells.items():
        looks = equalize.match(laws[category], cell["real"], cell["synthetic"])
        for row in (*cell["real"], *cell["synthetic"]):
            row["view"] = equalize.view(laws[category], row, looks[row["id"]])


def _plan_row(row: Row) -> Row:
    keep = row["reason"] is None
    made = {
        "id": row["id"],
        "keep": keep,
        "reason": row["reason"],
        "detail": row["detail"],
        "category": row["category"],
        "origin": row["origin"],
        "generator_or_source": row["maker"],
        "split": row["split"] if keep else None,
        "group": row["group"],
    }
    return made | (asdict(row["view"]) if keep else {})


def _events(rows: Sequence[Row], found: twins.Twins) -> list[Row]:
    """Every group of near-duplicates of different pictures: what it is, its ids, and which of them stay."""
    members: dict[int, list[int]] = defaultdict(list)
    for number, name in enumerate(found.near):
        members[int(name)].append(number)
    events = []
    for numbers in members.values():
        if any(found.conflict[n] >= 0 for n in numbers):
            kind = "label-conflict"
        elif any(found.twin_of[n] >= 0 for n in numbers):
            kind = "twin"
        else:
            continue
        # The one that was not a twin, whether or not a quota had room for it afterwards.
        kept = [rows[n]["id"] for n in numbers if found.conflict[n] < 0 and found.twin_of[n] < 0]
        events.append({"kind": kind, "ids": [rows[n]["id"] for n in numbers], "kept": kept[0] if kept else None})
    return events


def _summary(rows: Sequence[Row], found: twins.Twins, radius: int, settings: Balance) -> Balanced:
    kept = [row for row in rows if row["reason"] is None]
    by_split: dict[str, dict[str, int]] = {split: dict.fromkeys(map(str, ORIGINS), 0) for split in SPLITS}
    for row in kept:
        by_split[row["split"]][row["origin"]] += 1
    events = Counter(event["kind"] for event in _events(rows, found))
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    duplicates = {
        "radius": radius,
        "groups": events["twin"] + events["label-conflict"],
        "twin_groups": events["twin"],
        "label_conflict_groups": events["label-conflict"],
        "twins_removed": reasons["twin"],
        "label_conflicts_removed": reasons["label-conflict"],
    }
    return Balanced(tuple(_cells(rows, settings)), by_split, duplicates, len(kept), dict(sorted(reasons.items())))


def _cells(rows: Sequence[Row], settings: Balance) -> Iterator[Cell]:
    """Every generator and source beside its share of what is asked of its cell, and why it gives less.

    A cell (category x origin) is asked for `per_cell` images; with `max`, for as many as the richer class of the category has.
    A synthetic cell is shared among its generators by weight, a real one among its sources by what they hold.
    """
    made: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        made[row["category"], row["origin"]][row["maker"]].append(row)
    usable = {key: sum(_usable(row) for held in makers.values() for row in held) for key, makers in made.items()}
    for (category, origin), makers in sorted(made.items()):
        richest = max(usable.get((category, one), 0) for one in ORIGINS)
        target = richest if settings.per_cell == "max" else settings.per_cell
        synthetic = origin == "synthetic"
        shares = {m: settings.generators.get(m, 1.0) if synthetic else sum(map(_usable, held)) for m, held in makers.items()}
        for maker, held in sorted(makers.items()):
            asked = round(target * shares[maker] / (sum(shares.values()) or 1))
            count = sum(row["reason"] is None for row in held)
            short = min(ORIGINS, key=lambda one: usable.get((category, one), 0))
            lack = target - usable.get((category, short), 0)
            yield Cell(category, origin, maker, asked, count, _why(held, asked - count, category, short, lack))


def _usable(row: Row) -> bool:
    return row["reason"] in (None, "surplus")


def _why(held: Sequence[Row], missing: int, category: str, short: str, lack: int) -> str:
    """What became of the images that are not in, and the cheapest thing to add where the cell is not full."""
    reasons = Counter(row["reason"] for row in held if row["reason"])
    said = [f"{count} {reason}" for reason, count in sorted(reasons.items())]
    if missing > 0 and lack > 0:
        said.append(f"{lack} more {short} images of {category} would fill the cell")
    return ", ".join(said)


def composition(plan: pa.Table) -> Any:
    """The kept images as a pandas table: category, origin, generator or source by split."""
    import pandas as pd

    frame = plan.to_pandas()
    frame = frame[frame["keep"]]
    counts = frame.groupby(["category", "origin", "generator_or_source", "split"]).size().unstack("split", fill_value=0)
    return pd.DataFrame(counts.reindex(columns=list(SPLITS), fill_value=0))
