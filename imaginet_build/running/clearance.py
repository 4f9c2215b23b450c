"""Before a release is made: what may be in it, and a plan that is balanced under that.

A constraint, or an image that is taken down, is handed to the balance as images that are not there, so that both classes stay
equal, cell by cell and split by split, and no group is torn. Dropping rows from a finished plan would keep none of this.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from imaginet_build import balance as balances
from imaginet_build import catalog
from imaginet_build.balancing import planfile
from imaginet_build.errors import BuildError
from imaginet_build.recipe import Balance, Recipe
from imaginet_build.releases import notices, rights
from imaginet_build.releases.notices import Bars
from imaginet_build.releases.release import MANIFEST
from imaginet_build.releases.rights import Clearance, Only, Withhold
from imaginet_build.running.workspace import Session
from imaginet_build.store import Store, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks of rights; the recipe's `[publish]` decides what is None. `public`: everybody will see the release."""

    only: Only | None = None
    withhold: Withhold | None = None
    public: bool = False

    def holding(self, recipe: Recipe, travels: bool) -> Withhold:
        """Whose pixels stay here: in the work folder nobody's; elsewhere those that may not be passed on, and where everybody
        sees them, also those of which nobody knows."""
        usual: Withhold = "nothing" if not travels else "unknown" if self.public else "forbidden"
        return self.withhold or recipe.publish.withhold or usual


LOST = "only.json"
"""The work folder's note of what a constraint costs."""

Cell = tuple[str, str, str]


def cleared(session: Session, only: Only | None = None, earlier: Sequence[Path | None] = ()) -> Clearance:
    """What may be in a release of a work folder. The lists of what was taken down hold on: of the release that lies in it and
    of those in `earlier`, where there are any.

    Raises `UsageError` for a faulty list, and for a card that is not there.
    """
    store = session.store
    places = [place for place in (store.root / "release", *earlier) if place is not None and (place / MANIFEST).is_file()]
    lists = [notices.read(folder) for folder in (*places, store.root)]
    known = notices.merged(*lists)
    for folder in places:
        known = notices.known_in(known, folder)
    taken, known = notices.taken(known, store)
    for line in notices.strangers(store, places):
        log.warning(
            "%s names no image of this work folder or of an earlier release, so nothing is taken down by it: look at its id, "
            "source_key or sha256", line,
        )  # fmt: skip
    terms = rights.claims(store, session.recipe, known.errata, session.trust)
    bars = rights.barred(terms, only, taken)
    return Clearance(terms, "nothing", known, taken, bars, None, session.recipe.seed)


def travelling(kept: Clearance, plan: pa.Table, hold: Withhold, where: str) -> Clearance:
    """The clearance of a release that leaves the work folder, said in words: whose pixels stay, whose go though nothing says
    that they may."""
    out = replace(kept, withhold=hold)
    names = plan.filter(plan["keep"])["id"].to_pylist()
    held = [name for name in names if out.withholds(name)]
    unsaid = [name for name in names if not out.withholds(name) and kept.claims[name].rights.redistribute is None]
    if held:
        log.warning(
            "%d of %d images may not be passed on (%s): %s says where each is to be had, and holds no pixels of them. To have "
            "them back there: build-imaginet rebuild",
            len(held), len(names), _whose(kept, held), where,
        )  # fmt: skip
    if unsaid:
        log.warning(
            "of %d of %d images nothing says that they may be passed on (%s). Name their licence ([[collect]] licence, or a "
            "column of the index), or hold them back: --withhold unknown",
            len(unsaid), len(names), _whose(kept, unsaid),
        )  # fmt: skip
    return out


def _whose(kept: Clearance, names: Sequence[str]) -> str:
    """The licences of images, the commonest first."""
    counts = Counter(kept.claims[name].licence for name in names)
    return ", ".join(f"{count} {licence}" for licence, count in counts.most_common(4)) + ", …" * (len(counts) > 4)


def planned(session: Session, clearance: Clearance) -> Clearance:
    """A plan that keeps to the clearance: the one there is, or one made anew; with what a constraint costs."""
    store, mark = session.store, clearance.bars.mark()
    before = _mark(store)
    if clearance.bars.only is None:
        if before != mark and store.plan_path.is_file():
            log.info("the plan was made under a constraint, or before something was taken down: balancing again")
            _balance(session, clearance.bars)
        return clearance
    note = store.root / LOST
    if before == mark and note.is_file():
        said: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        if said.get("mark") == before:
            return replace(clearance, lost=said["lost"])
    free = rights.barred(clearance.claims, None, clearance.taken)
    if before != free.mark():
        _balance(session, free)
    full = _cells(store)
    log.info("balancing again, with only what is %s", clearance.bars.only)
    _balance(session, clearance.bars)
    lost = _lost(full, _cells(store))
    if not lost["after"] and lost["before"]:
        barred = [name for name, (reason, _) in clearance.bars.why.items() if reason != notices.TAKEN]
        raise BuildError(
            f"nothing can be balanced with only what is {clearance.bars.only}: of the {lost['before']} images of the full "
            f"release one class or the other is left without any. What is barred: {_whose(clearance, barred)}. Name the "
            "licences of images that state none ([[collect]] licence, or a column of the index), or collect others"
        )
    write_text(note, json.dumps({"mark": mark, "lost": lost}, indent=1) + "\n")
    return replace(clearance, lost=lost)


def _balance(session: Session, bars: Bars) -> None:
    """Balance as the last plan was made, under these bars."""
    store, recipe = session.store, session.recipe
    said = (planfile.made_from(store.plan_path) or {}).get("balance") if store.plan_path.is_file() else None
    settings = recipe.balance if said is None else Balance.model_validate(said)
    balances.balance(store, settings, recipe.equalize, recipe.seed, bars)


def _mark(store: Store) -> dict[str, Any] | None:
    """Under what the plan was made; None where there is no plan."""
    if not store.plan_path.is_file():
        return None
    found: dict[str, Any] = (planfile.made_from(store.plan_path) or {}).get("barred", {})
    return found


def _cells(store: Store) -> Counter[Cell]:
    plan = store.plan()
    kept = plan.filter(plan["keep"]).select(["category", "origin", "generator_or_source"]).to_pylist()
    return Counter((row["category"], row["origin"], row["generator_or_source"]) for row in kept)


def _lost(before: Counter[Cell], after: Counter[Cell]) -> dict[str, Any]:
    """Rows before and after, in all and by cell; cells that lose and gain nothing are left out."""
    cells = [
        {"category": c, "origin": o, "generator_or_source": m, "before": before[c, o, m], "after": after[c, o, m]}
        for c, o, m in sorted(before.keys() | after.keys())
        if before[c, o, m] != after[c, o, m]
    ]
    return {"before": before.total(), "after": after.total(), "cells": cells}


def terms(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """What the cards say of everything the recipe uses, for the release's card."""
    sources = {want.source: catalog.card("sources", want.source) for want in recipe.collect}
    generators = {entry.generator: catalog.card("generators", entry.generator) for entry in recipe.generate}
    for card in (*sources.values(), *generators.values()):
        yield {
            "name": card.name,
            "title": card.about.title,
            "url": card.about.url,
            "licence": card.licence,
            "licence_url": card.about.licence_url or "",
            "redistribute": card.about.redistribute,
            "commercial": card.about.commercial,
            "terms": card.about.terms,
            "revision": card.revision,
        }
