"""`collect`: fetch images that exist already, measure them on arrival, keep their bytes as delivered."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from imaginet_build import catalog, engine, images
from imaginet_build.collectors import Collector
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.recipe import Collect
from imaginet_build.records import EXTENSIONS, Found, Record, Refusal, Want, make_id
from imaginet_build.store import Store, StoreError

log = logging.getLogger(__name__)

STAGE = "collect"
SEGMENT_IMAGES = 64
SEGMENT_BYTES = 64 * 2**20

BY_RULE = frozenset({"animated", "linked-folder", "listed-twice", "too-small", "blank", "unsupported"})
"""Reasons that are decisions, not failures: they leave the exit code at 0."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one `collect` did. `new`: images that were not here before; `total`: what the work folder now holds of the stage;
    `rejected`: reason -> how many, all told; `failed`: those of them that could not be read."""

    new: int
    total: int
    rejected: dict[str, int]
    failed: int


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a source's card says of every image it delivers."""

    source: str
    revision: str
    licence: str
    origin: str | None
    category: str | None
    family: str | None
    scope: str

    def id_of(self, source_key: str) -> str:
        return make_id("collect", self.source, self.scope, source_key)


def collect(
    store: Store,
    wants: Sequence[Collect],
    seed: int,
    pool: engine.Pool,
    *,
    trust: bool = False,
    progress: engine.Progress = engine.silent,
) -> Collected:
    """Bring everything `wants` asks for into the work folder, going on where an earlier call stopped.

    The set of images depends on the recipe and its seed alone: a quota takes the first that can be read in the source's seeded
    order, whatever was interrupted. Raises `UsageError` for a source that is not there, `StoreError` for a full disk.
    """
    made = _told_apart([(want, *_build(want, trust, store.root / "cards.lock")) for want in wants])
    new = 0
    for want, terms, collector in made:
        new += _collect_one(store, want, terms, collector, seed, pool, progress)
    counts = Counter(r["reason"] for r in store.rejects().to_pylist() if r["stage"] == STAGE)
    failed = sum(count for reason, count in counts.items() if reason not in BY_RULE)
    total = sum(len(store.names(path)) for path in store.parts(STAGE))
    return Collected(new, total, dict(sorted(counts.items())), failed)


def _build(want: Collect, trust: bool, lock: Path) -> tuple[_Terms, Collector]:
    card = catalog.card("sources", want.source)
    # A copy in a folder is what it is; of a data set on the Hub the first use records the commit, and later ones keep to it.
    revision = None if "root" in want.options else catalog.resolve(card, lock)
    collector: Collector = catalog.build(card, trust=trust, revision=revision, **want.options)
    # Places are left out of the name, so that the same images have the same ids wherever the folder lies.
    options = {key: value for key, value in {**card.options, **want.options}.items() if key not in ("root", "index")}
    terms = _Terms(
        source=card.name,
        revision=revision or card.revision,
        licence=card.licence,
        origin=card.origin,
        category=want.category or card.about.category,
        family=card.family,
        scope=json.dumps(options, sort_keys=True, default=str),
    )
    return terms, collector


Made = tuple[Collect, _Terms, Collector]


def _told_apart(made: list[Made]) -> list[Made]:
    """Entries that differ only in where their folder lies would name equal paths alike: all but the first are numbered."""
    places: dict[tuple[str, str], list[Path]] = {}
    apart = []
    for want, terms, collector in made:
        known = places.setdefault((terms.source, terms.scope), [])
        place = Path(str(want.options.get("root", ""))).resolve()
        if place not in known:
            known.append(place)
        number = known.index(place)
        apart.append((want, replace(terms, scope=f"{terms.scope}#{number}") if number else terms, collector))
    return apart


def _collect_one(
    store: Store, want: Collect, terms: _Terms, collector: Collector, seed: int, pool: engine.Pool, progress: engine.Progress
) -> int:
    """One entry of the recipe; how many images are new."""
    rejected = {r["id"]: r["source_key"] for r in store.rejects().to_pylist() if r["stage"] == STAGE}
    kept = [(r["id"], r["source_key"], r["category"]) for r in store.facts(["id", "source_key", "category"]).to_pylist()]
    here = {key: category for name, key, category in kept if key is not None and terms.id_of(key) == name}
    refused = {key for name, key in rejected.items() if key is not None and terms.id_of(key) == name}
    source = iter(collector.find(Want(terms.source, want.category, seed, frozenset(here.keys() | refused))))
    arrive = _Arrive(store.root, terms)
    held = before = sum(want.category in (None, category) for category in here.values())
    failed = 0
    while want.count is None or held < want.count:
        missing = None if want.count is None else want.count - held
        answered = held + failed
        segments = _segments(_first(source, missing))
        for outcome in engine.run(arrive.worker, segments, pool):
            for arrived in [outcome.value] if outcome.value else _one_by_one(outcome.task, arrive, store, pool):
                if arrived.stopped is not None:
                    raise StoreError(arrived.stopped)
                held, failed = held + arrived.kept, failed + arrived.refused
                progress(held, failed, want.count)
        if missing is None or held + failed == answered:
            break
    if want.count is not None and held < want.count:
        log.warning("%s: asked for %d, the source has %d that can be used", terms.source, want.count, held)
    return held - before


def _one_by_one(segment: list[Found | Refusal], arrive: _Arrive, store: Store, pool: engine.Pool) -> Iterator[_Arrived]:
    """A segment that its worker could not finish, image by image; the guilty one becomes a reject."""
    # The worker may have died when its part was already in place.
    done = store.ids(STAGE) & {arrive.terms.id_of(item.source_key) for item in segment}
    refused = done & set(store.rejects()["id"].to_pylist())
    yield _Arrived(len(done - refused), len(refused))
    rest = [[item] for item in segment if arrive.terms.id_of(item.source_key) not in done]
    for alone in engine.run(arrive.worker, rest, pool):
        reason = "killed-the-worker" if alone.fatal else "failed"
        yield alone.value or arrive.give_up(alone.task, reason, alone.error or "no answer")


def _first(source: Iterator[Found | Refusal], count: int | None) -> Iterator[Found | Refusal]:
    """Refusals pass through; at most `count` images are taken."""
    taken = 0
    while count is None or taken < count:
        found = next(source, None)
        if found is None:
            return
        taken += isinstance(found, Found)
        yield found


def _segments(source: Iterable[Found | Refusal]) -> Iterator[list[Found | Refusal]]:
    segment: list[Found | Refusal] = []
    size = 0
    for found in source:
        segment.append(found)
        size += len(found.data) if isinstance(found, Found) else 0
        if len(segment) >= SEGMENT_IMAGES or size >= SEGMENT_BYTES:
            yield segment
            segment, size = [], 0
    if segment:
        yield segment


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A segment that was written. `stopped`: nothing was, since the work folder cannot be written."""

    kept: int = 0
    refused: int = 0
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class _Arrive:
    """A worker that measures a segment of images and leaves it as a part."""

    root: Path
    terms: _Terms

    def worker(self) -> Callable[[list[Found | Refusal]], _Arrived]:
        return self._arrive

    def give_up(self, segment: list[Found | Refusal], reason: str, error: str) -> _Arrived:
        """Record a segment whose worker could not live through it."""
        return self._write([Refusal(reason, error, item.source_key) for item in segment])

    def _arrive(self, segment: list[Found | Refusal]) -> _Arrived:
        try:
            return self._write(segment)
        except StoreError as error:
            return _Arrived(stopped=str(error))

    def _write(self, segment: list[Found | Refusal]) -> _Arrived:
        store = Store(self.root)
        rows, data, rejects = [], [], []
        for item in segment:
            record = self._record(item) if isinstance(item, Found) else item
            if isinstance(record, Refusal):
                rejects.append(self._reject(record, item))
            elif isinstance(item, Found):
                rows.append(record.row())
                data.append(item.data)
        name = make_id(sorted(self.terms.id_of(item.source_key) for item in segment))
        if rejects:
            store.write_rejects(STAGE, name, rejects)
        if rows:
            store.write_part(STAGE, name, rows, data)
        return _Arrived(len(rows), len(rejects))

    def _record(self, found: Found) -> Record | Refusal:
        """The image with its facts, or why it cannot be one."""
        terms = self.terms
        origin = found.origin or terms.origin
        if origin is None:
            return Refusal("unknown-origin", "neither the source nor its place says whether it is real", found.source_key)
        try:
            facts = images.measure(found.data)
        except BadImage as error:
            return Refusal(error.reason, error.detail, found.source_key)
        name = terms.id_of(found.source_key)
        generator = found.generator or terms.source
        synthetic = origin == "synthetic"
        return Record(
            id=name,
            origin="synthetic" if synthetic else "real",
            category=found.category or terms.category or "uncategorized",
            family=(terms.family or catalog.taxonomy().family_of(generator)) if synthetic else None,
            generator=generator if synthetic else None,
            source=found.source or terms.source,
            source_key=found.source_key,
            licence=found.licence or terms.licence,
            revision=terms.revision,
            prompt=found.prompt,
            negative=None,
            seed=None,
            params="{}",
            pair_id=None if synthetic else name,
            group=name if found.group is None else make_id("group", terms.source, found.group),
            extension=PurePosixPath(found.source_key).suffix.lower().lstrip("."),
            facts=facts,
        )

    def _reject(self, refusal: Refusal, item: Found | Refusal) -> dict[str, object]:
        found = item if isinstance(item, Found) else None
        return {
            "id": self.terms.id_of(item.source_key),
            "stage": STAGE,
            "origin": (found and found.origin) or self.terms.origin,
            "category": (found and found.category) or self.terms.category,
            "generator_or_source": (found and (found.generator or found.source)) or self.terms.source,
            "source_key": item.source_key,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }


def folders(real: Path, fake: Path) -> list[Collect]:
    """The entries of a recipe for two plain folders; the names of folders below `fake` become the generators."""
    for path in (real, fake):
        if not path.is_dir():
            raise UsageError(f"no folder {path}: --real and --fake each name a folder of images")
        if not any(name.suffix.lower().lstrip(".") in EXTENSIONS for name in path.rglob("*")):
            raise UsageError(f"no image in {path}: --real and --fake each name a folder of images")
    if real.resolve() == fake.resolve():
        raise UsageError(f"--real and --fake are the same folder: {real}")
    entry = Collect(source="folder")
    return [
        entry.model_copy(update={"options": {"root": str(path), "origin": origin}})
        for path, origin in ((real, "real"), (fake, "synthetic"))
    ]
