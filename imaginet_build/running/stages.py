"""The stages of a run, each tied to a recipe and a work folder, each skipping what is done.

Commands call one of them; `run` calls them all. Verbs do not know each other: what one needs of another passes through here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from imaginet_build import audit as audits
from imaginet_build import balance as balances
from imaginet_build import catalog, engine
from imaginet_build import collect as collects
from imaginet_build import generate as generates
from imaginet_build import publish as publishes
from imaginet_build import recipe as recipes
from imaginet_build import report as reports
from imaginet_build import sketch as sketches
from imaginet_build.duplicates import resemblance
from imaginet_build.errors import GateRefused, UsageError, suggest
from imaginet_build.recipe import Collect, Generate, Recipe
from imaginet_build.releases import living, releasefolder, releaseprovenance
from imaginet_build.releases.datasetcard import About
from imaginet_build.releases.living import Previous
from imaginet_build.releases.release import read_manifest
from imaginet_build.releases.releasewriter import OrderedMap
from imaginet_build.releases.rights import Clearance
from imaginet_build.releases.robustness import Wanted as Perturbed
from imaginet_build.running import clearance, evaluation, growing
from imaginet_build.running.clearance import Asked
from imaginet_build.running.workspace import Session, begun
from imaginet_build.store import Store, write_text

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
Entry = TypeVar("Entry", Collect, Generate)


def collect(session: Session, source: str | None = None, limit: int | None = None, retry: bool = False) -> collects.Collected:
    """The recipe's `[[collect]]` entries, or those of one source; `retry` asks again for what failed and may come back."""
    wants = wanted(session.recipe, source)
    with begun(session):
        return collects.collect(
            session.store, wants, session.recipe.seed, session.pool, limit=limit, retry=retry,
            generate=session.recipe.generate, trust=session.trust, progress=session.progress,
        )  # fmt: skip


def wanted(recipe: Recipe, source: str | None = None) -> list[Collect]:
    """The recipe's `[[collect]]` entries, or those of one source. Raises `UsageError` where there is none."""
    if source is not None:
        catalog.card("sources", source)
    return _entries(recipe.collect, "source", source, "collect")


def generate(
    session: Session, generator: str | None = None, limit: int | None = None, shard: tuple[int, int] = (1, 1),
    prompts: str | None = None,
) -> generates.Generated:  # fmt: skip
    """The recipe's `[[generate]]` entries, or those of one generator; `prompts` takes the place of theirs."""
    if generator is not None:
        catalog.card("generators", generator)
    entries = _entries(session.recipe.generate, "generator", generator, "generate")
    if prompts is not None:
        entries = [entry.model_copy(update={"prompts": prompts}) for entry in entries]
    with begun(session):
        return generates.generate(
            session.store, entries, session.recipe.seed, session.pool,
            limit=limit, shard=shard, trust=session.trust, progress=session.progress,
        )  # fmt: skip


def balance(
    session: Session,
    sketched: Sequence[Path] = (),
    reject: bool = False,
    verify: bool = False,
    grow: Path | None = None,
) -> balances.Balanced:
    """The plan, made anew from the facts: it is cheap, and the facts may have grown.

    `sketched`: sketches besides the recipe's; with `reject` what they hold is left out. `verify` measures every image first and
    raises `StoreError` where facts contradict the bytes. `grow`: a release around which everything else is balanced.
    """
    recipe, settings = session.recipe, session.recipe.balance
    if sketched or reject:
        settings = settings.model_copy(
            update={
                "sketches": [*settings.sketches, *map(str, sketched)],
                "contaminated": "reject" if reject else settings.contaminated,
            }
        )
    if reject and not settings.sketches:
        raise UsageError("--reject-contaminated needs something to compare with: add --sketch FILE")
    if verify:
        count = resemblance.verify(session.store, partial(_ordered, session.pool))
        log.info("the facts of all %d images are those of their bytes", count)
    grown = growing.begin(session, grow) if grow is not None else None
    bars = clearance.cleared(session, recipe.publish.only, growing.earlier(grown)).bars
    before = grown.here if grown else None
    return balances.balance(session.store, settings, recipe.equalize, recipe.seed, bars, before)


def sketch(target: str, out: Path, name: str | None, version: str, session: Session) -> sketches.Sketched:
    """Write the hashes of `target` into one file; images are measured on every core."""
    return sketches.sketch(target, out, name, version, partial(_ordered, session.pool))


def contamination(targets: Sequence[str | Path], sketched: Sequence[Path], session: Session) -> list[dict[str, Any]]:
    """What the sketches, the recipe's and these, hold of the images of `targets`, as `audit --json` prints it."""
    every: list[str | Path] = [*session.recipe.audit.sketches, *sketched]
    built = session.store.root / "release"
    places = list(targets)
    if not places:
        places.append(built if built.is_dir() else session.store.root)
    found = sketches.contaminated(places, every, map=partial(_ordered, session.pool))
    return [one.to_json() for one in found]


def publish(
    session: Session,
    out: Path | None = None,
    force: bool = False,
    to: str = "",
    asked: Asked = Asked(),  # noqa: B008 - frozen
    grow: Path | None = None,
    version: str | None = None,
) -> tuple[publishes.Published, dict[str, Any]]:
    """Write the release, audit it, and write what the audit said into its card; the audit's document is the second value.

    An audit of the same data is not made again: its answer lies in the work folder. Raises `GateRefused` where the release
    should leave the work folder (`out`; `to` names a data set of the Hub, or an address, where it is brought next) and the gate
    refuses, unless `force`, which writes the refusal into the card. `asked`: a constraint, under which the plan is balanced
    anew, and whose pixels stay in the work folder. `grow`: the release that this one is the next version of, around which the
    plan is balanced anew, without it the one that the release there was grown from; `version`: its number.
    """
    recipe, store, travels = session.recipe, session.store, out is not None or bool(to)
    for place in (store.root / "release", out):
        if place is not None:
            releasefolder.recover(place)
    if grow is None:
        grow, made = growing.again(session, out)
        version = version or made
    grown = growing.begin(session, grow) if grow is not None else None
    living.next_version(grown.here if grown else None, True, version)
    clear = clearance.cleared(session, asked.only or recipe.publish.only, growing.earlier(grown, out))
    if grown is None:
        clear = clearance.planned(session, clear)
    else:
        grown = growing.planned(session, grown, clear)
        growing.refuse_leak(grown, replace(clear, withhold=asked.holding(recipe, travels)))
    texts = releaseprovenance.texts(recipe, store, grown.here if grown else None)
    if not travels:
        clear = replace(clear, withhold=asked.holding(recipe, False))
    repo = to if to and "://" not in to else recipe.publish.repo or ""
    title, stated = recipe.publish.title or recipe.name, recipe.publish.about.said()
    about = About(title=title, repo=repo, sources=tuple(clearance.terms(recipe)), **stated)

    def write(
        said: dict[str, Any],
        folder: Path = store.root / "release",
        terms: Clearance = clear,
        previous: Previous | None = grown.here if grown else None,
        number: str | None = version,
    ) -> publishes.Published:
        return publishes.publish(
            store, folder, views=recipe.publish.views, rows_per_file=recipe.publish.rows_per_file,
            told=publishes.Told(about, said, recipes.digest(recipe), texts), perturbed=_perturbed(recipe), cleared=terms,
            previous=previous, version=number, beside=store.root / "release", map=partial(_ordered, session.pool),
        )  # fmt: skip

    said = audited(store)
    published = write(said)
    if said.get("digest") != published.digest or said["gate"]["limit"] != recipe.audit.limit:
        result = audits.audit(
            published.path,
            map=partial(_ordered, session.pool),
            pixels=recipe.audit.pixels,
            limit=recipe.audit.limit,
            permutations=recipe.audit.permutations,
        )
        said = _remember(store, result, recipe.audit.permutations, recipe.audit.pixels)
        published = write(said)
    if not travels:
        return published, said
    if said["gate"]["verdict"] == "refused" and not force:
        raise GateRefused(
            f"the audit refuses: {said['gate']['reason']}. {out or to} was not written. "
            f"See: build-imaginet audit {published.path}"
        )
    if said["gate"]["verdict"] == "refused":
        said = said | {"gate": said["gate"] | {"forced": True}}
    terms = clearance.travelling(clear, store.plan(), asked.holding(recipe, True), str(out or to))
    if out is None and any(map(terms.withholds, store.plan()["id"].to_pylist())):
        out = store.root / "outgoing"
    if out is None:
        return write(said), said
    number = version if grown else published.version
    return write(said, out, terms, grown.out if grown else None, number), said


def _perturbed(recipe: Recipe) -> Perturbed:
    asked = recipe.publish
    return Perturbed(asked.robustness, asked.social_images, asked.sweep_images, recipe.seed)


def check(session: Session, folder: Path) -> dict[str, Any]:
    """Prove a release from its own files: hashes, the numbers of its card, the audit's answer (`releasecheck.check`)."""
    from imaginet_build.releases.releasecheck import check as prove

    return prove(folder, partial(_ordered, session.pool))


def published_json(published: publishes.Published, said: dict[str, Any]) -> dict[str, Any]:
    """The document that `publish --json` prints."""
    document = {"release": str(published.path), "digest": published.digest, "rows": published.rows, "views": published.views}
    document |= {"likeness": published.likeness, "withheld": published.withheld, "only": published.only, "lost": published.lost}
    document |= {name: getattr(published, name) for name in ("version", "added", "withdrawn", "rewritten")}
    return document | {"rejected": published.rejected, "unchanged": published.unchanged, "gate": said["gate"]}


def audit(target: str | None, session: Session, pixels: bool | None = None) -> audits.AuditResult:
    """Audit any target, or without one the session's work folder, by the recipe's limit; images are measured on every core.

    The answer about the work folder is written there, for the report and for `publish`. `pixels`: the recipe's without it.
    """
    settings, root = session.recipe.audit, session.store.root
    if target is None and not (root / "release").is_dir() and not (root / "parts").is_dir():
        raise UsageError(
            f"there is nothing to audit in {root}. Name a target (a release, a folder with index.csv, an annotation list, a "
            "Hub id): build-imaginet audit TARGET, or audit --real DIR --fake DIR; or build one: build-imaginet run"
        )
    result = audits.audit(
        str(root) if target is None else target, map=partial(_ordered, session.pool),
        pixels=settings.pixels if pixels is None else pixels, limit=settings.limit, permutations=settings.permutations,
    )  # fmt: skip
    if target is None:
        _remember(session.store, result, settings.permutations, settings.pixels if pixels is None else pixels)
    return result


def _remember(store: Store, result: audits.AuditResult, permutations: int, pixels: bool) -> dict[str, Any]:
    """The audit of a work folder as its `audit.json` and `audit.csv`, bound to the data it looked at."""
    audits.write(result, store.root)
    # The target is named by its place in the work folder, so that the card is the same wherever that lies.
    said = result.to_json() | {"target": result.kind, "settings": {"permutations": permutations, "pixels": pixels}}
    if result.kind == "release":
        said["digest"] = read_manifest(store.root / "release")["digest"]
    write_text(store.root / "audit.json", json.dumps(said, indent=1) + "\n")
    return said


def audit_pair(real: Path, fake: Path, session: Session, pixels: bool | None = None) -> audits.AuditResult:
    """Audit two plain folders by the recipe's limit."""
    settings = session.recipe.audit
    return audits.audit_folders(
        real, fake, map=partial(_ordered, session.pool), pixels=settings.pixels if pixels is None else pixels,
        limit=settings.limit, permutations=settings.permutations,
    )  # fmt: skip


def report(session: Session) -> Path:
    """The work folder as one HTML page."""
    settings = session.recipe.report
    return reports.report(session.store.root, samples=settings.thumbnails, side=settings.side)


def audited(store: Store) -> dict[str, Any]:
    """What the last audit of a work folder said; nothing where there was none, or what it wrote was damaged."""
    path = store.root / "audit.json"
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(said["gate"]["limit"], float) and isinstance(said["gate"]["verdict"], str):
            return dict(said)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    log.warning("%s is not what an audit writes and is passed over: publish audits anew", path)
    return {}


def several(session: Session) -> OrderedMap:
    """`map` on the session's engine."""
    return partial(_ordered, session.pool)


def _ordered(pool: engine.Pool, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """`map` on the engine; a handful of tasks is not worth a process."""
    source = iter(tasks)
    first = list(islice(source, 32))
    return map(function, first) if len(first) < 32 else engine.ordered(function, chain(first, source), pool)


def _entries(entries: Sequence[Entry], key: str, name: str | None, command: str) -> list[Entry]:
    """The recipe's entries of one stage, or those that name one card."""
    chosen = [entry for entry in entries if name in (None, getattr(entry, key))]
    if chosen or (name is None and command == "generate"):
        return chosen
    if not entries:
        raise UsageError(f"the recipe has no [[{command}]] entry: add one, or choose another with --recipe")
    known = list(dict.fromkeys(getattr(entry, key) for entry in entries))
    raise UsageError(
        f"the recipe asks nothing of '{name}'{suggest(str(name), known) or '.'} It names {', '.join(known)}. "
        f"Add a [[{command}]] entry to it, or choose another with --recipe"
    )


def train(session: Session, detector: str | None = None) -> list[Path]:
    """A checkpoint for each seed of the recipe, in `<work>/baseline`; finished ones are left as they are."""
    from imaginet_build.baseline.settings import Settings
    from imaginet_build.baseline.train import train as learn

    wanted, release = session.recipe.baseline, evaluation.release_of(session)
    card = catalog.card("detectors", detector or wanted.detector)
    if "preset" not in card.options:
        raise UsageError(f"the detector '{card.name}' is not trained here; judge it: build-imaginet baseline evaluate")
    changes = dict(wanted.options) | ({"steps": wanted.steps} if wanted.steps else {})
    checkpoints = []
    for number in range(wanted.seeds):
        settings = Settings.of(card.options["preset"], seed=session.recipe.seed + number, **changes)
        folder = session.store.root / "baseline" / card.name / f"seed-{settings.seed}"
        done = learn(release, folder, settings)
        log.info("baseline: seed %d trained on %d images, loss %.3f", settings.seed, done.images, done.loss)
        checkpoints.append(folder)
    return checkpoints


def baseline(session: Session, detector: str | None = None) -> dict[str, Any]:
    """Train if needed, then judge."""
    name = detector or session.recipe.baseline.detector
    if "preset" in catalog.card("detectors", name).options:
        train(session, name)
    return evaluation.evaluate(session, evaluation.Asked((name,)))


def doctor(work: Path | None, online: bool, generator: str | None = None, trust: bool = False) -> list[dict[str, Any]]:
    """What works here; or, with a `generator`, whether that one keeps what every generator must."""
    if generator is not None:
        from imaginet_build.running import adapterproof

        return [asdict(check) for check in adapterproof.prove(generator, trust)]
    from imaginet_build.doctor import checks

    return [asdict(check) for check in checks(work or Path("work"), online=online)]
