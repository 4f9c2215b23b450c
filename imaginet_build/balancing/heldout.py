"""Which images are for the test split alone: generators, sources and windows of release dates that a recipe holds out."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build import catalog
from imaginet_build.errors import UsageError, suggest
from imaginet_build.recipe import Balance
from imaginet_build.records import ORIGINS

log = logging.getLogger(__name__)

Flags = NDArray[np.bool_]


def flags(table: pa.Table, settings: Balance) -> Flags:
    """(n,) which rows of a facts table (columns origin, category, generator, source) are held out.

    A row is held out by its generator's name, its source's, or the day their card says either was released. Raises
    `UsageError` for settings that contradict each other: no test split, a generator that is held out and has no weight, or a
    class of which nothing is left for the other splits.
    """
    asked = settings.held_out
    names = {"generator": [*dict.fromkeys([*settings.hold_out, *asked.generators])], "source": list(asked.sources)}
    _known(table, "generator", names["generator"], "held_out.generators")
    _known(table, "source", names["source"], "held_out.sources")
    if asked.released_after is not None:
        found = _released(table)
        late = [n for n, day in found.items() if asked.released_after <= day < (asked.released_before or datetime.date.max)]
        said = ", ".join(f"{name} ({found[name]})" for name in late) or "nothing"
        log.info("held out by release date: %s", said)
        names = {column: [*listed, *late] for column, listed in names.items()}
    held = np.zeros(table.num_rows, dtype=bool)
    for column, listed in names.items():
        held |= np.asarray(pc.is_in(table[column], value_set=pa.array(listed, pa.string())), dtype=bool) & (
            pc.is_valid(table[column]).to_numpy()
        )
    _possible(table, held, settings, names["generator"])
    return held


def _known(table: pa.Table, column: str, names: Sequence[str], key: str) -> None:
    known = {name for name in table[column].unique().to_pylist() if name}
    for name in names:
        if name not in known:
            log.warning("balance.%s names '%s', and no image is by it%s", key, name, suggest(name, known))


def _released(table: pa.Table) -> Mapping[str, datetime.date]:
    """The day that the card of a generator or source gives; who has none is said."""
    found: dict[str, datetime.date] = {}
    silent = []
    for column in ("generator", "source"):
        cards = catalog.cards("generators" if column == "generator" else "sources")
        for name in sorted(name for name in table[column].unique().to_pylist() if name):
            day = cards[name].released if name in cards else None
            if day is not None:
                found[name] = day
            else:
                silent.append(name)
    if silent:
        log.warning(
            "balance.held_out.released_after: nothing says when these were released, so they are not held out: %s. A card's "
            "`released` in manifests/ says it, and held_out.generators and held_out.sources hold out by name",
            ", ".join(silent[:10]) + (f" and {len(silent) - 10} more" if len(silent) > 10 else ""),
        )
    return found


def _possible(table: pa.Table, held: Flags, settings: Balance, generators: Sequence[str]) -> None:
    if held.any() and not settings.splits.get("test", 0):
        raise UsageError("held_out needs a test split: give balance.splits.test a share, or take held_out (hold_out) away")
    both = [name for name in generators if settings.generators.get(name, 1.0) <= 0]
    if both:
        raise UsageError(
            f"balance.held_out keeps '{both[0]}' for the test split, and balance.generators gives it no weight: "
            "take one of them away"
        )
    others = [split for split, share in settings.splits.items() if share > 0 and split != "test"]
    for origin in ORIGINS:
        mine = np.asarray(pc.equal(table["origin"], origin).to_numpy(zero_copy_only=False), dtype=bool)
        if others and held.any() and held[mine].all():
            raise UsageError(
                f"balance.held_out takes every {origin} image for the test split, and nothing {origin} is left for "
                f"{' and '.join(others)}: hold out fewer, or give balance.splits nothing but test = 1.0"
            )
        for category in sorted(set(table["category"].unique().to_pylist())) if others and held.any() else ():
            here = mine & np.asarray(pc.equal(table["category"], category).to_numpy(zero_copy_only=False), dtype=bool)
            if here.any() and held[here].all():
                log.warning(
                    "every %s image of %s is held out: %s will have none of this category",
                    origin,
                    category,
                    " and ".join(others),
                )
