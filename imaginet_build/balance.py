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

from imaginet_build.balancing import cells, choice, equalize, heldout, laws, likeness, planfile, shortfall, strata
from imaginet_build.balancing.cells import SURPLUS, Addition, Bucket, Cell
from imaginet_build.balancing.choice import Candidates, Solved
from imaginet_build.balancing.pool import COLUMNS, Flags, Pool, Rows, screen
from imaginet_build.balancing.shortfall import Shopping
from imaginet_build.duplicates import contamination, resemblance, twins
from imaginet_build.errors import UsageError, suggest
from imaginet_build.images import MAX_PIXELS
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import FACT_SCHEMA, ORIGINS, SPLITS
from imaginet_build.releases import frozen
from imaginet_build.releases.living import Previous
from imaginet_build.releases.notices import NOTHING_BARRED, Bars
from imaginet_build.store import Store, write_text

log = logging.getLogger(__name__)

LARGE = 0.1
"""The part of all images from which on one group is worth a warning."""

_RANK = {None: 1, "blank": -1}
"""Of twins the one that was published stays, then one that may enter. Blank images resemble everything: nobody's twins."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Balanced:
    """What `balance` decided. `splits`: split -> origin -> images. `duplicates`: twins, label conflicts and groups found.
    `add`: the cheapest additions that would fill every cell. `programmes`: how each integer programme went. `law`:
    Kolmogorov-Smirnov distances between the classes among the kept images, as born (`native`) and in the view (`equalized`).
    `bytes_per_pixel`: as born, by class. `contamination`: what each sketch holds of the images.
    `buckets`: sizes and aspects beside their shares, where the recipe has any."""

    cells: tuple[Cell, ...]
    splits: dict[str, dict[str, int]]
    duplicates: dict[str, Any]
    kept: int
    rejected: dict[str, int]
    add: tuple[Addition, ...] = ()
    programmes: tuple[Solved, ...] = ()
    law: Mapping[str, Any] | None = None
    bytes_per_pixel: Mapping[str, float | None] | None = None
    contamination: tuple[dict[str, Any], ...] = ()
    buckets: tuple[Bucket, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document that `balance --json` prints."""
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "splits": self.splits,
            "duplicates": self.duplicates,
            "kept": self.kept,
            "rejected": self.rejected,
            "add": [asdict(addition) for addition in self.add],
            "programmes": [asdict(solved) for solved in self.programmes],
            "law": self.law,
            "bytes_per_pixel": self.bytes_per_pixel,
            "contamination": list(self.contamination),
            "buckets": [asdict(bucket) for bucket in self.buckets],
        }


def balance(
    store: Store,
    settings: Balance,
    law: Equalize,
    seed: int,
    bars: Bars = NOTHING_BARRED,
    previous: Previous | None = None,
) -> Balanced:
    """Write the plan: which images stay, in which split, and how each becomes its row of the `equalized` view.

    The plan depends on the facts, the settings and the seed alone; the seed decides who of too many stays and who goes to which
    split. Images of one category do not move those of another, unless they resemble each other, share a group, or too few JPEGs
    make a law of their own. What `bars` names stays out, whatever would balance better; what `previous` holds stays as it is
    there, and what is new is balanced beside it. Raises `UsageError` where there is nothing to balance, and for settings that
    contradict each other.
    """
    table = store.facts(COLUMNS)
    _refuse_impossible(table)
    _refuse_nothing(store, table, settings)
    _vanished(store, table)
    held = heldout.flags(table, settings)
    radius, why = resemblance.radius_of(table.num_rows, settings)
    pool = Pool(table)
    made_from = planfile.provenance(pool, settings, law, seed, bars.mark())
    if previous is not None:
        frozen.hold(pool, previous)
    pool.bar(bars.why)
    older = previous.laws if previous is not None else {}
    sides = laws.sides(law, pool, older)
    least = screen(pool, settings.screen, sides)
    foreign = resemblance.contaminated(store, table, settings.sketches, radius, settings.memory_mb * 2**20)
    if settings.contaminated == "reject":
        _drop_contaminated(pool, foreign)
    rank = np.array([_RANK.get(reason, 2) for reason in pool.reason.tolist()], dtype=np.int64)
    rank[pool.frozen] = 0
    found, seen = resemblance.find(store, table, settings, radius, rank)
    pool.bar(bars.copies(pool.ids, found.near.tolist()))
    _drop_twins(pool, found)
    bound = None if previous is None else frozen.follow(pool, found, previous, held)
    candidates, solved = _choose(pool, found, settings, held, seed, bound)
    fitted = laws.fit(law, pool, sides, older)
    views = laws.draw(pool, fitted) + ([] if previous is None else frozen.views(pool, previous))
    laws.check(law, pool, views)
    made_from |= {"laws": {category: one.to_json() for category, one in sorted(fitted.items())}}
    planfile.write(store, pool, views, made_from)
    events = list(_events(pool, found))
    write_text(store.root / "twins.json", json.dumps(events, indent=1) + "\n")
    accounted = _account(pool, candidates, settings, least, seed)
    likes = {"radius": radius, "radius_reason": why} | seen
    result = _summary(pool, events, likes, accounted, solved, views, tuple(one.to_json() for one in foreign))
    write_text(store.root / "balance.json", json.dumps(result.to_json(), indent=1) + "\n")
    if not result.kept:
        log.warning("nothing is kept: no category has usable images of both classes in one split; see the cells")
    return result


def _drop_contaminated(pool: Pool, foreign: list[contamination.Contamination]) -> None:
    for one in foreign:
        said = {
            match.row: f"{path} of {one.name} is {'the same' if match.kind == 'equal' else 'a near-duplicate'}"
            for match, path in zip(one.matches, one.paths, strict=True)
            if pool.reason[match.row] is None
        }
        pool.reject(np.array(list(said), dtype=np.int64), "contaminated", said.values())


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
    for key, column, listed in (("generators", "generator", settings.generators), ("sources", "source", settings.sources)):
        known = {name for name in table[column].unique().to_pylist() if name}
        for name in listed:
            if name not in known:
                log.warning("balance.%s names '%s', and no image is by it%s", key, name, suggest(name, known))


def _refuse_impossible(table: pa.Table) -> None:
    """Facts that no image can have: the part that holds them was not written by collect or generate, or is damaged."""
    wide, high = (pc.cast(table[side], pa.int64()) for side in ("width", "height"))
    for name in (name for name in COLUMNS if not FACT_SCHEMA.field(name).nullable):
        column = table[name]
        if name in ("width", "height", "nbytes"):
            wrong = pc.less_equal(column, 0)
            if name == "width":
                wrong = pc.or_(wrong, pc.greater(pc.multiply(wide, high), MAX_PIXELS))
        elif name == "origin":
            wrong = pc.invert(pc.is_in(column, pa.array(ORIGINS)))
        elif name == "sha256":
            wrong = pc.invert(pc.match_substring_regex(column, "^[0-9a-f]{64}$"))
        elif pa.types.is_string(column.type):
            wrong = pc.equal(column, "")
        else:
            continue
        rows = table.filter(wrong)
        if rows.num_rows:
            value = rows[name][0].as_py()
            raise UsageError(
                f"the facts of image {rows['id'][0].as_py()} are impossible: its {name} is "
                f"{value if value != '' else 'missing'}"
                f"{f' (and {rows.num_rows - 1:,} images more)' if rows.num_rows > 1 else ''}; remove the part that holds "
                "it and run build-imaginet collect or generate again"
            )


def _vanished(store: Store, table: pa.Table) -> None:
    """Say that images of the last plan are gone: a part that vanished leaves no other trace."""
    if not store.plan_path.is_file():
        return
    known = store.plan()["id"].combine_chunks()
    gone = known.filter(pc.invert(pc.is_in(known, value_set=table["id"].combine_chunks())))
    if len(gone):
        log.warning(
            "%d images of the last plan are in no part of %s any more, such as %s: a part has vanished. To have them back, run "
            "build-imaginet collect and generate again",
            len(gone),
            store.root / "parts",
            gone[0],
        )


def _drop_twins(pool: Pool, found: twins.Twins) -> None:
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


def _choose(
    pool: Pool, found: twins.Twins, settings: Balance, held: Flags, seed: int, bound: Rows | None
) -> tuple[Candidates, list[Solved]]:
    """Settle who stays and in which split; what there is to choose from, frozen images too, and how the programmes went.

    `bound`: the split of older images of each image's group, where there is an earlier version.
    """
    rows = np.flatnonzero(pool.stays)
    origin, maker = pool.origin[rows].tolist(), pool.maker[rows].tolist()
    nothing = {(o, m): choice.weight(settings, o, m, 1.0) <= 0 for o, m in set(zip(origin, maker, strict=True))}
    unwanted = np.array([nothing[one] for one in zip(origin, maker, strict=True)], dtype=bool)
    pool.reject(rows[unwanted], SURPLUS, ("the recipe gives its generator or source no weight" for _ in rows[unwanted]))
    rows = rows[~unwanted]
    candidates = Candidates(
        [pool.ids[row] for row in rows.tolist()], pool.category[rows], pool.synthetic[rows], pool.maker[rows],
        found.group[rows], pool.pair[rows], pool.width[rows], pool.height[rows], pool.quality[rows], pool.jpeg[rows],
        held[rows],
    )  # fmt: skip
    new = ~pool.frozen[rows]
    before = None if bound is None else frozen.before(pool, rows[new], bound)
    pool.split[rows[new]], solved = choice.choose(candidates.take(np.flatnonzero(new)), settings, seed, before)
    kept = np.array([split is not None for split in pool.split[rows].tolist()], dtype=bool)
    size = Counter(zip(pool.category[rows[kept]].tolist(), pool.origin[rows[kept]].tolist(), strict=True))
    many = {category: size[category, "real"] for category in np.unique(pool.category[rows].astype(str)).tolist()}
    left = rows[~kept]
    pool.reject(left, SURPLUS, (f"{name} holds {many[name]} of each class without it" for name in pool.category[left].tolist()))
    return candidates, solved


def _events(pool: Pool, found: twins.Twins) -> Iterator[Event]:
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


Accounted = tuple[tuple[Cell, ...], tuple[Addition, ...], tuple[Bucket, ...]]


def _account(pool: Pool, candidates: Candidates, settings: Balance, least: Mapping[str, int], seed: int) -> Accounted:
    """Every cell beside what it was asked for, the cheapest things to add, and the sizes and aspects the recipe has shares
    for."""
    everyone = pool.by(np.arange(len(pool.ids)), pool.category, pool.origin, pool.maker)
    found = {
        (c, o, m): Counter(reason or cells.KEPT for reason in pool.reason[rows].tolist())
        for (c, o, m), rows in everyone.items()
    }
    usable = {name: reasons[cells.KEPT] + reasons[SURPLUS] for name, reasons in found.items()}
    asked = cells.asked(usable, settings)
    missing = {name[0] for name, n in asked.items() if found.get(name, Counter())[cells.KEPT] < n}
    if settings.sizes or settings.aspects:
        missing = {name[0] for name in asked}
    some = candidates.take(np.flatnonzero(np.isin(candidates.category, sorted(missing))))
    totals = shortfall.totals(some, settings, least) if settings.per_cell == "max" else {}
    wanted = cells.asked(usable, settings, {category: n for category, n in totals.items() if n is not None})
    short = {name: n for name, n in wanted.items() if name[0] in missing}
    endless = {category for category, n in totals.items() if n is None}
    shopping = shortfall.cheapest(some, settings, short, seed, least, endless) if missing else Shopping({}, {})
    add = tuple(cells.additions(shopping, least, settings))
    largest = {
        (c, o, m): int(pool.short[rows].max())
        for (c, o, m), rows in everyone.items()
        if not usable[c, o, m] and found[c, o, m]["too-small"]
    }
    tied = candidates.category[np.isin(candidates.group, _several(candidates.group))]
    ground = cells.Ground(found, asked, shopping, add, least, largest, frozenset(tied.tolist()), frozenset(endless))
    return tuple(cells.account(ground, settings)), add, tuple(_buckets(pool, settings, ground))


def _several(group: Rows) -> Rows:
    """Groups of more than one image."""
    known, count = np.unique(group, return_counts=True)
    return known[count > 1]


def _buckets(pool: Pool, settings: Balance, ground: cells.Ground) -> Iterator[Bucket]:
    kept = np.flatnonzero(pool.stays)
    shape = strata.shapes(pool.width[kept], pool.height[kept])
    places = strata.wished(pool.short[kept], shape, settings.sizes, settings.aspects)
    wanted: list[tuple[Mapping[Any, float], str]] = [(settings.sizes, " px"), (settings.aspects, "")]
    for place, (shares, unit) in zip(places, wanted, strict=True):
        names = sorted(shares, key=int) if unit else sorted(shares)
        rows = zip(pool.category[kept].tolist(), pool.origin[kept].tolist(), place.tolist(), strict=True)
        counts = Counter((category, origin, names[at]) for category, origin, at in rows if at >= 0)
        yield from cells.buckets(counts, ground, shares, unit)


def _summary(
    pool: Pool,
    events: list[Event],
    likes: dict[str, Any],
    accounted: Accounted,
    solved: list[Solved],
    views: list[tuple[Rows, equalize.Views]],
    foreign: tuple[dict[str, Any], ...],
) -> Balanced:
    kept = np.flatnonzero(pool.stays)
    by_split: dict[str, dict[str, int]] = {split: dict.fromkeys(map(str, ORIGINS), 0) for split in SPLITS}
    for (split, origin), rows in pool.by(kept, pool.split, pool.origin).items():
        by_split[split][origin] = len(rows)
    kinds = Counter(event["kind"] for event in events)
    reasons = Counter(reason for reason in pool.reason.tolist() if reason)
    duplicates = {
        **likes,
        "groups": kinds["twin"] + kinds["label-conflict"],
        "twin_groups": kinds["twin"],
        "label_conflict_groups": kinds["label-conflict"],
        "twins_removed": reasons["twin"],
        "label_conflicts_removed": reasons["label-conflict"],
    }
    rows, synthetic, quality = kept, pool.synthetic[kept], np.where(pool.jpeg, pool.quality, np.nan)[kept]
    native = likeness.distances(synthetic, pool.width[rows], pool.height[rows], quality)
    order = np.concatenate([part for part, _ in views]) if views else kept
    side, drawn = (
        np.concatenate([getattr(view.looks, name) for _, view in views]) if views else kept for name in ("side", "quality")
    )
    equalized = likeness.distances(pool.synthetic[order], side, side, drawn.astype(float))
    per_pixel = likeness.bytes_per_pixel(synthetic, pool.table["nbytes"].to_numpy()[kept], (pool.width * pool.height)[kept])
    law = {"native": native, "equalized": equalized}
    return Balanced(
        accounted[0],
        by_split,
        duplicates,
        len(kept),
        dict(sorted(reasons.items())),
        accounted[1],
        tuple(solved),
        law,
        per_pixel,
        foreign,
        accounted[2],
    )


def composition(plan: pa.Table) -> Any:
    """The kept images as a pandas table: category, origin, generator or source by split."""
    import pandas as pd

    frame = plan.to_pandas()
    frame = frame[frame["keep"]]
    counts = frame.groupby(["category", "origin", "generator_or_source", "split"]).size().unstack("split", fill_value=0)
    return pd.DataFrame(counts.reindex(columns=list(SPLITS), fill_value=0))
