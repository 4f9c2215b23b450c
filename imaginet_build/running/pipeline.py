"""`run`: every stage in turn, each skipping what is done, and what a run would do before it does it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imaginet_build import catalog, engine, orders
from imaginet_build import recipe as recipes
from imaginet_build.collect import folders
from imaginet_build.collecting.quotas import limited
from imaginet_build.errors import MissingExtra
from imaginet_build.paying import dues
from imaginet_build.records import make_id
from imaginet_build.running import stages, summaries
from imaginet_build.running.composition import composition
from imaginet_build.running.workspace import Session, session_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run ended with: the five figures that matter, where to look, and the exit code."""

    images: int
    twins_removed: int
    cells_filled: str
    audit_value: float | None
    audit_verdict: str
    baseline_auc: float | None
    release: str
    report: str
    rejected: int
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """The document that `run --json` prints."""
        return asdict(self)

    def text(self) -> str:
        """The same for people."""
        return summaries.run_text(self.to_json())


def of_folders(real: Path, fake: Path, work: Path | None, sets: Sequence[str], progress: engine.Progress) -> Session:
    """A session for two plain folders: the shipped `folders` recipe with these two in place of its own."""
    wants = folders(real, fake)
    template = recipes.load(catalog.pipeline("folders.toml")).written()
    # Two other folders are another data set: the name of the work folder keeps them apart, ids and digests know no place.
    place = make_id(str(real.resolve()), str(fake.resolve()))[:8]
    template |= {"name": f"{real.resolve().name}-{fake.resolve().name}-{place}", "collect": [w.model_dump() for w in wants]}
    template.pop("variables", None)
    recipe = recipes.parse(template, sets, catalog.check, name="--real and --fake")
    return session_of(recipe, work, progress=progress)


def run(session: Session, say: Callable[[str], None]) -> Summary:
    """All stages. A refusal by the gate ends nothing, since nothing leaves this machine, but it is the exit code."""
    recipe, store = session.recipe, session.store
    say(f"{recipe.name}: {session.pool.size} workers of {session.pool.threads_per_worker} thread(s), in {store.root}")
    failed = 0
    if recipe.collect:
        collected = stages.collect(session)
        failed += collected.failed
        say(f"collect: {collected.new} new images, {collected.total} in all{summaries.reasons(collected.rejected)}")
        if again := summaries.may_come_back(collected.to_json()):
            say(f"collect: {again}")
    if recipe.generate:
        generated = stages.generate(session)
        failed += generated.failed
        say(f"generate: {generated.new} new images, {generated.total} in all{summaries.reasons(generated.rejected)}")
    balanced = stages.balance(session)
    say(f"balance: {balanced.kept} kept{summaries.reasons(balanced.rejected)}")
    published, audited = stages.publish(session)
    gate = audited["gate"]
    value = summaries.number(gate["value"])
    say(f"publish: {published.rows} images, digest {published.digest[:12]}; audit {gate['verdict']} at {value}")
    auc = _baseline(session, say)
    page = stages.report(session)
    filled = sum(1 for cell in balanced.cells if cell.kept >= cell.asked)
    return Summary(
        images=published.rows,
        twins_removed=balanced.duplicates["twins_removed"] + balanced.duplicates["label_conflicts_removed"],
        cells_filled=f"{filled} of {len(balanced.cells)}",
        audit_value=gate["value"],
        audit_verdict=gate["verdict"],
        baseline_auc=auc,
        release=str(published.path),
        report=str(page),
        rejected=published.rejected,
        exit_code=3 if gate["verdict"] == "refused" else int(failed > 0),
    )


def _baseline(session: Session, say: Callable[[str], None]) -> float | None:
    """The origin AUC; None, said aloud, where the packages that train are not installed: a release is worth having without."""
    try:
        auc: float | None = stages.baseline(session)["tracks"]["origin"]["auc"]
    except MissingExtra as missing:
        say(f"baseline: left out. {missing}; then run again")
        return None
    say(f"baseline: origin AUC {summaries.number(auc)}")
    return auc


def forecast(
    session: Session,
    which: Sequence[str] = ("collect", "generate"),
    generator: str | None = None,
    *,
    source: str | None = None,
    limit: int | None = None,
    most: int | None = None,
) -> dict[str, Any]:
    """What a command would do: how many images of each entry, and how many of them are here. Loads and fetches nothing.

    `source`, `limit`: of one source alone, and at most so many of each entry, as `collect` takes them; `most`: at most so many
    drawn in all, as `generate` takes it.
    """
    recipe, store = session.recipe, session.store
    if source is not None or limit is not None:
        wants = [limited(want, limit) for want in stages.wanted(recipe, source)]
        recipe = recipe.model_copy(update={"collect": wants})
    document: dict[str, Any] = {"recipe": recipe.name, "work": str(store.root)}
    document["composition"] = composition(recipe, which, generator)
    if "collect" in which:
        document["collect"] = [
            {
                "source": want.source,
                "category": want.category,
                "images": want.quota or "all",
                "options": want.options,
                "missing": catalog.missing(catalog.card("sources", want.source), want.options),
            }
            for want in recipe.collect
        ]
        document["collected"] = sum(len(store.names(part)) for part in store.parts("collect"))
    if "generate" in which:
        drawn = [entry for entry in recipe.generate if generator in (None, entry.generator)]
        bills = dues.bills(store, drawn, most, session.trust)
        document["generate"] = [
            {
                "generator": entry.generator,
                "category": entry.category,
                "images": entry.count,
                "batches": -(-entry.count // entry.batch),
                "needs": orders.needed(catalog.card("generators", entry.generator), session.trust),
                "missing": catalog.missing(catalog.card("generators", entry.generator)),
            }
            | ({"paid": bill} if bill else {})
            for entry, bill in zip(drawn, bills, strict=True)
        ]
        document["generated"] = len(store.ids("generate"))
    return document
