"""`balance`: facts in, a plan out. No twin, no group across splits, cells of equal size, one law for both classes."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build import cells, dedup, equalize, images, splits, twins
from imaginet_build.cells import SURPLUS, Cell
from imaginet_build.errors import BadImage, UsageError, suggest
from imaginet_build.recipe import Balance, Equalize, Screen
from imaginet_build.records import ORIGINS, PLAN_SCHEMA, SPLITS, random_of, seed_of
from imaginet_build.store import Store, write_text, written

log = logging.getLogger(__name__)

COLUMNS = (
    *("id", "origin", "category", "generator", "source", "prompt", "pair_id", "group", "width", "height", "mode", "contrast"),
    *("codec", "quality", "subsampling", "pixel_hash", "phash", "phash_mirror"),
)
LARGE = 0.1
"""The part of all images from which on one group is worth a warning."""

_RANK = {None: 0, "blank": -1}
"""Of twins the one that may enter stays, and blank images resemble everything: they are nobody's twin."""

Rows = np.typing.NDArray[np.int64]
Flags = np.typing.NDArray[np.bool_]
Names = np.typing.NDArray[np.object_]
Event = dict[str, Any]


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


class _Images:
    """All images column by column, and what has been decided of them so far: `reason` is None for what may stay."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.ids: list[str] = table["id"].to_pylist()
        self.id = _names(table["id"])
        self.category, self.origin = _names(table["category"]), _names(table["origin"])
        self.generator, self.pair = _names(table["generator"]), _names(table["pair_id"])
        self.maker = _names(pc.coalesce(table["generator"], table["source"], pa.scalar("unknown")))
        self.width, self.height = (table[side].to_numpy().astype(np.int64) for side in ("width", "height"))
        self.short = np.minimum(self.width, self.height)
        self.jpeg = np.asarray(pc.equal(table["codec"], "jpeg").to_numpy(), dtype=bool)
        n = len(self.ids)
        self.reason, self.detail, self.split, self.group = (np.full(n, None, dtype=object) for _ in range(4))

    @property
    def stays(self) -> Flags:
        """Rows that nothing speaks against so far."""
        return np.array([reason is None for reason in self.reason.tolist()], dtype=bool)

    def reject(self, rows: Rows, reason: str, details: Iterator[str]) -> None:
        self.reason[rows] = reason
        for row, detail in zip(rows.tolist(), details, strict=True):
            self.detail[row] = detail

    def by(self, rows: Rows, *columns: Names) -> dict[tuple[str, ...], Rows]:
        """`rows` by their values in `columns`, sorted by these values."""
        found: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row, *key in zip(rows.tolist(), *(column[rows].tolist() for column in columns), strict=True):
            found[tuple(key)].append(row)
        return {key: np.array(found[key], dtype=np.int64) for key in sorted(found)}


def balance(store: Store, settings: Balance, law: Equalize, seed: int) -> Balanced:
    """Write the plan: which images stay, in which split, and how each becomes its row of the `equalized` view.

    The plan depends on the facts, the settings and the seed alone; the seed decides who of too many stays and who goes to which
    split. Images of one category do not move those of another, unless they resemble each other, share a group, or too few JPEGs
    make a law of their own. Raises `UsageError` where there is nothing to balance.
    """
    table = store.facts(COLUMNS)
    _refuse_nothing(store, table, settings)
    radius = dedup.default_radius(table.num_rows) if settings.radius == "auto" else settings.radius
    all_images = _Images(table)
    sides = _sides(law, all_images)
    _screen(all_images, settings.screen, sides)
    rank = np.array([_RANK.get(reason, 1) for reason in all_images.reason.tolist()], dtype=np.int64)
    found = twins.find(table, radius, _closer(store, all_images.ids), rank)
    _drop_twins(all_images, found)
    _split(all_images, settings, seed)
    _fill_cells(all_images, settings, seed)
    _write_plan(store, all_images, _views(all_images, law, sides))
    events = list(_events(all_images, found))
    write_text(store.root / "twins.json", json.dumps(events, indent=1) + "\n")
    result = _summary(all_images, events, radius, settings)
    write_text(store.root / "balance.json", json.dumps(result.to_json(), indent=1) + "\n")
    if not result.kept:
        log.warning("nothing is kept: no category has usable images of both classes in one split; see the cells")
    return result


def _refuse_nothing(store: Store, table: pa.Table, settings: Balance) -> None:
    if not table.num_rows:
        raise UsageError(f"there are no images in {store.root}: run build-imaginet collect and build-imaginet generate first")
    present = set(table["origin"].unique().to_pylist())
    missing = [origin for origin in ORIGINS if origin not in present]
    if missing:
        command = "collect" if missing == ["real"] else "generate"
        raise UsageError(
            f"{store.root} holds no {missing[0]} image, and a label needs both classes: run build-imaginet {command}"
        )
    known = {name for name in table["generator"].unique().to_pylist() if name}
    for key, names in (("generators", settings.generators), ("hold_out", settings.hold_out)):
        for name in names:
            if name not in known:
                log.warning("balance.%s names '%s', and no image is by it%s", key, name, suggest(name, known))


def _closer(store: Store, ids: list[str]) -> twins.Closer:
    """Near by 64 bits must also be near by 256: flat and alike pictures meet by chance in the shorter hash."""

    def closer(rows: Rows, mirrored: bool) -> np.typing.NDArray[np.uint64]:
        log.info("a closer look at %d images that resemble others", len(rows))
        place = {ids[row]: i for i, row in enumerate(rows.tolist())}
        hashes = np.zeros((len(rows), 4), dtype=np.uint64)
        for name, data in store.images(store.in_part_order(place)):
            try:
                hashes[place[name]] = images.confirm_hash(data, mirrored)
            except BadImage as error:
                # It resembles nothing then; publishing, which decodes everything, rejects it with its reason.
                log.warning("%s cannot be read, though its facts were: %s", name, error)
                hashes[place[name]] = random_of(name, "unreadable").integers(0, 2**64, 4, dtype=np.uint64)
        return hashes

    return closer


def _sides(law: Equalize, pool: _Images) -> dict[str, tuple[int, int]]:
    """The smallest and largest side of a crop, by category."""
    shorts: dict[str, dict[str, Rows]] = defaultdict(dict)
    for (category, origin), rows in pool.by(np.arange(len(pool.ids)), pool.category, pool.origin).items():
        shorts[category][origin] = pool.short[rows]
    return {category: equalize.sides_of(law, by_origin) for category, by_origin in shorts.items()}


def _screen(pool: _Images, screen: Screen, sides: Mapping[str, tuple[int, int]]) -> None:
    """Reject what is too poor whatever else there is."""
    least = np.array([max(sides[category][0], screen.min_side) for category in pool.category.tolist()])
    long = np.maximum(pool.width, pool.height)
    contrast = pool.table["contrast"].to_numpy()
    grey = np.isin(_names(pool.table["mode"]), ["L", "LA", "1", "I;16"])

    def rows(fault: Flags) -> Rows:
        return np.flatnonzero(fault & pool.stays)

    small = rows(pool.short < least)
    pool.reject(small, "too-small", (f"its short side is {pool.short[i]} pixels, the smallest crop {least[i]}" for i in small))
    lengthy = rows((long > screen.max_aspect * pool.short) & (screen.max_aspect > 0))
    size = (f"{pool.width[i]} x {pool.height[i]} is longer than {screen.max_aspect:g} to 1" for i in lengthy)
    pool.reject(lengthy, "too-long", size)
    blank = rows(contrast < screen.min_contrast)
    pool.reject(blank, "blank", (f"its grey values deviate by {contrast[i]:.2f} only" for i in blank))
    if not screen.grayscale:
        pool.reject(rows(grey), "grayscale", ("grey images are not welcome in this recipe" for _ in rows(grey)))


def _drop_twins(pool: _Images, found: twins.Twins) -> None:
    pool.group = pool.id[found.group]
    for reason, other, said in (
        ("twin", found.twin_of, "a near-duplicate of {}"),
        ("label-conflict", found.conflict, "it, or a twin of it, resembles {} of the other class"),
    ):
        rows = np.flatnonzero(other >= 0)
        pool.reject(rows, reason, (said.format(pool.ids[k]) for k in other[rows]))
    name, count = Counter(pool.group.tolist()).most_common(1)[0]
    if count > max(LARGE * len(pool.ids), 20):
        log.warning(
            "%d of %d images are one group (%s: one prompt, photograph or pair), in one split", count, len(pool.ids), name
        )


def _split(pool: _Images, settings: Balance, seed: int) -> None:
    rows = np.flatnonzero(pool.stays)
    columns = (column[rows].tolist() for column in (pool.category, pool.origin, pool.maker))
    places = list(zip(*columns, strict=True))
    pool.split[rows] = splits.assign(
        pool.group[rows].tolist(),
        ["\n".join(place) for place in places],
        settings.splits,
        seed,
        np.isin(pool.generator[rows], settings.hold_out).tolist(),
        ["\n".join(place[:2]) for place in places],
    )


def _fill_cells(pool: _Images, settings: Balance, seed: int) -> None:
    """Reject what is too much: afterwards both origins of a category are equally many in every split."""
    rows = np.flatnonzero(pool.stays)
    unwanted = np.array([settings.generators.get(maker, 1.0) <= 0 for maker in pool.maker[rows].tolist()], dtype=bool)
    unwanted &= pool.origin[rows] == "synthetic"
    pool.reject(rows[unwanted], SURPLUS, ("the recipe gives its generator no weight" for _ in rows[unwanted]))
    rows = rows[~unwanted]
    key = np.zeros(len(pool.ids), dtype=np.int64)
    key[rows] = [seed_of(pool.ids[row], f"fill {seed}") for row in rows.tolist()]
    limits = cells.parts(settings.per_cell, settings.splits) if settings.per_cell != "max" else {}
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    for (category, split), cell in pool.by(rows, pool.category, pool.split).items():
        real, synthetic = (cell[pool.origin[cell] == origin] for origin in ORIGINS)
        n = min(len(real), len(synthetic), limits.get(split, len(cell)))
        chosen = cells.share(pool.maker, key, synthetic, n, settings.generators, taken[category])
        # A real whose fake is in comes first: the pair shows the same content in both classes.
        shown = {pair for pair in pool.pair[chosen].tolist() if pair is not None}
        paired = np.array([pair in shown for pair in pool.pair[real].tolist()], dtype=bool)
        first = real[paired][np.argsort(key[real[paired]])][:n]
        holds = Counter(pool.maker[real].tolist())
        rest = cells.share(pool.maker, key, real[~paired], n - len(first), holds, Counter(pool.maker[first].tolist()))
        left = np.setdiff1d(cell, np.concatenate([chosen, first, rest]))
        pool.reject(left, SURPLUS, (f"{split} of {category} holds {n} of each class" for _ in left))


def _views(pool: _Images, settings: Equalize, sides: Mapping[str, tuple[int, int]]) -> list[tuple[Rows, equalize.Views]]:
    """How each kept image becomes its row of the `equalized` view."""
    kept = pool.stays
    quality, chroma = pool.table["quality"].to_numpy(), _names(pool.table["subsampling"])
    jpegs = np.flatnonzero(kept & pool.jpeg & (pool.origin == "real") & pc.is_valid(pool.table["quality"]).to_numpy())
    laws: dict[str, equalize.Law] = {}
    for category in np.unique(pool.category[kept].astype(str)).tolist():
        own = jpegs[pool.category[jpegs] == category]
        own = own if len(own) >= equalize.ENOUGH else jpegs
        laws[category] = equalize.fit(settings, sides[category], quality[own].astype(np.int64), chroma[own].tolist())
    drawn = []
    for (category, _), cell in pool.by(np.flatnonzero(kept), pool.category, pool.split).items():
        halves = [cell[pool.origin[cell] == origin] for origin in ORIGINS]
        seen = [_seen(pool, rows) for rows in halves]
        looks = equalize.match(laws[category], seen[0], seen[1])
        drawn += [(rows, equalize.views(laws[category], s, look)) for rows, s, look in zip(halves, seen, looks, strict=True)]
    return drawn


def _seen(pool: _Images, rows: Rows) -> equalize.Images:
    ids = [pool.ids[row] for row in rows.tolist()]
    return equalize.Images(ids, pool.width[rows], pool.height[rows], pool.jpeg[rows], pool.pair[rows].tolist())


def _write_plan(store: Store, pool: _Images, views: list[tuple[Rows, equalize.Views]]) -> None:
    n, keep = len(pool.ids), pool.stays
    numbers = {name: np.zeros(n, dtype=np.int32) for name in ("left", "top", "width", "height", "quality", "first_quality")}
    words = {name: np.full(n, None, dtype=object) for name in ("codec", "subsampling", "first_subsampling")}
    for rows, view in views:
        looks = view.looks
        for name, value in (("left", view.left), ("top", view.top), ("width", looks.side), ("height", looks.side)):
            numbers[name][rows] = value
        numbers["quality"][rows], numbers["first_quality"][rows] = looks.quality, view.first_quality
        words["codec"][rows], words["subsampling"][rows] = looks.codec, looks.subsampling
        first = view.first_quality > 0
        words["first_subsampling"][rows[first]] = view.first_subsampling[first]
    pool.split[~keep] = None
    plain = {"keep": keep, "generator_or_source": pool.maker}
    columns = {
        name: pa.array(numbers[name], mask=~keep if name != "first_quality" else numbers[name] == 0)
        if name in numbers
        else pa.array(words[name] if name in words else plain[name] if name in plain else getattr(pool, name))
        for name in PLAN_SCHEMA.names
    }
    with written(store.plan_path, replace=True) as temporary:
        pq.write_table(pa.table(columns).cast(PLAN_SCHEMA), temporary)


def _events(pool: _Images, found: twins.Twins) -> Iterator[Event]:
    """Every group of near-duplicates of different pictures: what it is, its ids, and which of them stays."""
    clean = (found.conflict < 0) & (found.twin_of < 0)
    told = np.unique(found.near[~clean])
    members: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.isin(found.near, told)).tolist():
        members[int(found.near[row])].append(row)
    for rows in members.values():
        kind = "label-conflict" if (found.conflict[rows] >= 0).any() else "twin"
        # The one that was not a twin, whether or not a quota had room for it afterwards.
        kept = [pool.ids[row] for row in rows if clean[row]]
        yield {"kind": kind, "ids": [pool.ids[row] for row in rows], "kept": kept[0] if kept else None}


def _summary(pool: _Images, events: list[Event], radius: int, settings: Balance) -> Balanced:
    kept = np.flatnonzero(pool.stays)
    by_split: dict[str, dict[str, int]] = {split: dict.fromkeys(map(str, ORIGINS), 0) for split in SPLITS}
    for (split, origin), rows in pool.by(kept, pool.split, pool.origin).items():
        by_split[split][origin] = len(rows)
    kinds = Counter(event["kind"] for event in events)
    reasons = Counter(reason for reason in pool.reason.tolist() if reason)
    duplicates = {
        "radius": radius,
        "groups": kinds["twin"] + kinds["label-conflict"],
        "twin_groups": kinds["twin"],
        "label_conflict_groups": kinds["label-conflict"],
        "twins_removed": reasons["twin"],
        "label_conflicts_removed": reasons["label-conflict"],
    }
    found = {
        (category, origin, maker): Counter(reason or cells.KEPT for reason in pool.reason[rows].tolist())
        for (category, origin, maker), rows in pool.by(np.arange(len(pool.ids)), pool.category, pool.origin, pool.maker).items()
    }
    return Balanced(tuple(cells.account(found, settings)), by_split, duplicates, len(kept), dict(sorted(reasons.items())))


def composition(plan: pa.Table) -> Any:
    """The kept images as a pandas table: category, origin, generator or source by split."""
    import pandas as pd

    frame = plan.to_pandas()
    frame = frame[frame["keep"]]
    counts = frame.groupby(["category", "origin", "generator_or_source", "split"]).size().unstack("split", fill_value=0)
    return pd.DataFrame(counts.reindex(columns=list(SPLITS), fill_value=0))


def _names(column: pa.ChunkedArray) -> Names:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)
