"""`collect`: fetch images that exist already, measure them on arrival, keep their bytes as delivered.

Every entry of a recipe is one stream of answers, or one for each of its strata. A stream takes the first that can be had, in
the source's seeded order; what cannot be had is replaced by the next of the same stream, and the ledger says so.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imaginet_build import catalog, engine, rules
from imaginet_build.collecting import arrival, availability, matching, quotas, subjects
from imaginet_build.collecting.arrival import Terms
from imaginet_build.collecting.availability import Availability
from imaginet_build.collecting.candidates import Candidates
from imaginet_build.collecting.entries import Entry, entries
from imaginet_build.collecting.guards import REASONS
from imaginet_build.collecting.intake import STAGE, Arrive, Arrived, Segment
from imaginet_build.collecting.quotas import Stream
from imaginet_build.collectors import Collector
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.recipe import Collect, Generate
from imaginet_build.records import EXTENSIONS, Found, Refusal, Want
from imaginet_build.store import Store, StoreError

log = logging.getLogger(__name__)

SEGMENT_IMAGES = 64
SEGMENT_BYTES = 64 * 2**20

BY_RULE = REASONS | {
    "animated", "linked-folder", "listed-twice", "too-small", "blank", "unsupported", "aspect", "grayscale", "not-matched",
    "other-category", "opted-out", "robots",
}  # fmt: skip
"""Reasons that are decisions, not failures: they leave the exit code at 0."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one `collect` did. `new`: images that were not here before; `total`: what the work folder now holds of the stage;
    `rejected`: reason -> how many, all told; `failed`: those of them that could not be read, and `broken` sources.

    `broken`: source -> why it stopped half-way, and what to do. `availability`: a line for each quota.
    `matching`: what was chosen for the entries that match, with the distances before and after. `unchecked`: source -> checks
    that its card or the recipe asks for where they can be made, and that could not be made here, each with the reason.
    """

    new: int
    total: int
    rejected: dict[str, int]
    failed: int
    broken: dict[str, str] = field(default_factory=dict)
    availability: list[Availability] = field(default_factory=list)
    matching: list[dict[str, Any]] = field(default_factory=list)
    unchecked: dict[str, dict[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that `collect --json` prints."""
        return asdict(self)


def collect(
    store: Store,
    wants: Sequence[Collect],
    seed: int,
    pool: engine.Pool,
    *,
    generate: Sequence[Generate] = (),
    limit: int | None = None,
    retry: bool = False,
    trust: bool = False,
    progress: engine.Progress = engine.silent,
) -> Collected:
    """Bring everything `wants` asks for into the work folder, going on where an earlier call stopped.

    The set of images depends on the recipe and its seed alone: a quota takes the first that can be read in the source's seeded
    order, whatever was interrupted. Entries that match come last and take what is nearest to what `generate` orders and to the
    synthetic images that are here. `limit`: at most so many of each entry in this call; the set in the end is the same.
    `retry`: ask again for what was refused for a reason that passes (`availability.PASSING`). A source that fails half-way ends
    alone. Raises `UsageError` for a source that is not there or a check that must be made and cannot, `StoreError` for a full
    disk.
    """
    made = [_build(entry, trust, store.root / "cards.lock") for entry in entries(wants, trust)]
    unchecked = {terms.source: missing for _, terms, _ in made if (missing := arrival.unchecked(terms))}
    for source, checks in unchecked.items():
        for check, why in checks.items():
            log.warning("%s: %s is not checked: %s", source, check, why)
    for want in wants:
        subjects.check(want.match.text if want.match else subjects.OFF)
    streams = [stream for entry in made for stream in quotas.streams(*entry, seed, limit)]
    streams.sort(key=lambda stream: stream.want.match is not None)
    run = _Run(store, seed, pool, progress, retry)
    for stream in streams:
        if stream.want.match is None:
            run.take(stream)
        elif limit is not None and (first := run.cut_short(stream, streams)):
            run.waiting.add(stream.name)
            log.warning("%s: it matches what %s gives, and is chosen once that is here without --limit", stream.title, first)
        else:
            run.take_matching(stream, generate, trust)
    return run.end(streams, unchecked)


def _build(entry: Entry, trust: bool, lock: Path) -> Made:
    want, card = entry.want, entry.card
    if "revision" in want.options:
        raise UsageError(
            f"[[collect]] {want.source}: a revision stands in the card, not in options; for one data set of the Hub write "
            'source = "hub" and dataset = "OWNER/NAME@COMMIT"'
        )
    # A copy in a folder is what it is; of a data set on the Hub the first use records the commit, and later ones keep to it.
    revision = None if "root" in want.options else catalog.resolve(card, lock)
    collector: Collector = catalog.build(card, trust=trust, revision=revision, **want.options)
    terms = Terms(
        source=card.name,
        revision=revision or card.revision,
        licence=want.licence or card.licence,
        origin=card.origin,
        category=want.category or card.about.category,
        asked=want.category,
        family=card.family,
        scope=entry.scope,
        released=card.released,
        guard=rules.merged(rules.GUARD, card.about.guard, want.guard),
        screen=rules.merged(rules.SCREENING, card.about.screen, want.screen),
    )
    return want, terms, collector


Made = tuple[Collect, Terms, Collector]


class _Known:
    """What the work folder holds of each source: key -> (category, stratum), and the keys that were refused."""

    def __init__(self, store: Store) -> None:
        rows = store.facts(["id", "source_key", "category", "params"]).to_pylist()
        self.rows = [
            (r["id"], r["source_key"], r["category"], _stratum(r["params"])) for r in rows if r["source_key"] is not None
        ]
        self.rejects = [(r["id"], r["source_key"]) for r in store.rejects().to_pylist() if r["stage"] == STAGE]
        self.lines = availability.lines(store)
        self._made: dict[tuple[str, str], tuple[dict[str, tuple[str, str | None]], set[str]]] = {}

    def of(self, terms: Terms) -> tuple[dict[str, tuple[str, str | None]], set[str]]:
        """The kept and the refused keys of one source, to be kept up to date by whoever takes more."""
        name = (terms.source, terms.scope)
        if name not in self._made:
            kept = {k: (c, s) for i, k, c, s in self.rows if terms.id_of(k) == i}
            self._made[name] = kept, {key for i, key in self.rejects if key is not None and terms.id_of(key) == i}
        return self._made[name]


def _stratum(params: str) -> str | None:
    return json.loads(params).get("stratum") if '"stratum"' in params else None


class _Run:
    """One call of `collect` over one work folder."""

    def __init__(self, store: Store, seed: int, pool: engine.Pool, progress: engine.Progress, retry: bool) -> None:
        self.store, self.seed, self.pool, self.progress, self.retry = store, seed, pool, progress, retry
        self.known = _Known(store)
        self.new = 0
        self.broken: dict[str, str] = {}
        self.places: dict[str, availability.Places] = {}
        self.waiting: set[str] = set()
        self.again: set[str] = set()

    def held(self, stream: Stream) -> int:
        """How many images there are that count for a stream's quota."""
        kept, _ = self.known.of(stream.terms)
        wanted = stream.want.category
        return sum(wanted in (None, c) and stream.stratum in (None, s) for c, s in kept.values())

    def take(self, stream: Stream, count: int | None = None, outer: _Run | None = None) -> None:
        """Fill one stream's quota (or `count`) from its source, without what `outer`'s work folder holds of it already."""
        want, terms = stream.want, stream.terms
        quota, full = (stream.count, stream.full) if count is None else (count, count)
        kept, refused = self.known.of(terms)
        passed = {key for keys in outer.known.of(terms) for key in keys} if outer else set[str]()
        stores = [run.store for run in (self, outer) if run] if self.retry else []
        passing = availability.Passing(stores, terms, STAGE, self.again)
        have = frozenset(kept.keys() | refused | passed) - passing.keys
        done = {terms.id_of(key) for key in kept.keys() | refused}
        places = self.places.setdefault(stream.name, availability.Places(self.known.lines, stream.name, done))
        held = before = self.held(stream)
        now = None if quota is None else max(0, quota - held)
        wanted = Want(terms.source, want.category, self.seed, have, stream.stratum, full, now)
        source = _Answers(stream, wanted, places, passing)
        arrive = Arrive(self.store.root, terms, stream.name, stream.stratum)
        failed = 0
        while quota is None or held < quota or places.behind():
            missing = None if quota is None else quota - held
            answered = held + failed
            for outcome in engine.run(arrive.worker, source.segments(missing), self.pool):
                for arrived in [outcome.value] if outcome.value else self._one_by_one(outcome.task, arrive):
                    if arrived.stopped is not None:
                        raise StoreError(arrived.stopped)
                    kept.update({key: (category, stratum) for key, category, stratum in arrived.kept})
                    refused.update(arrived.refused)
                    held, failed = held + len(arrived.kept), failed + len(arrived.refused)
                    self.progress(held, failed, quota)
            if missing is None or held + failed == answered:
                break
        self.new += held - before
        if source.ended:
            passing.forget_rest(stream.name)
        if source.broken is not None:
            self.broken[stream.title] = source.broken
            log.error("%s: %s", stream.title, source.broken)
        elif stream.count is not None and stream.full is not None and held < stream.count and count is None:
            log.warning("%s: asked for %d, the source has %d that can be used", stream.title, stream.full, held)

    def _one_by_one(self, segment: Segment, arrive: Arrive) -> Iterator[Arrived]:
        """A segment that its worker could not finish, image by image; the guilty one becomes a reject."""
        # The worker may have died when its part was already in place.
        done = self.store.ids(STAGE) & {arrive.terms.id_of(item.source_key) for item in segment}
        rejects = done & set(self.store.rejects()["id"].to_pylist())
        there = [(arrive.terms.id_of(item.source_key), item) for item in segment]
        kept = [(i.source_key, i.category or arrive.terms.category or "uncategorized", i.stratum)
                for name, i in there if name in done - rejects and isinstance(i, Found)]  # fmt: skip
        yield Arrived(tuple(kept), tuple(item.source_key for name, item in there if name in rejects))
        rest = [single for single in segment.alone() if arrive.terms.id_of(single.items[0].source_key) not in done]
        for alone in engine.run(arrive.worker, rest, self.pool):
            reason = "killed-the-worker" if alone.fatal else "failed"
            yield alone.value or arrive.give_up(alone.task, reason, alone.error or "no answer")

    def cut_short(self, stream: Stream, streams: Sequence[Stream]) -> str:
        """The first source of synthetic images that the limit keeps from being whole, and that a matching stream looks at."""
        for other in streams:
            origin = other.want.options.get("origin") or other.terms.origin
            if other.want.match is not None or origin == "real" or other.terms.category not in (None, stream.want.category):
                continue
            if other.count is not None and other.count != other.full and self.held(other) >= other.count:
                return other.title
        return ""

    def take_matching(self, stream: Stream, generate: Sequence[Generate], trust: bool) -> None:
        """Fill a quota with those of several times as many candidates that are nearest to what the generators draw."""
        match, count, category = stream.want.match, stream.count, stream.want.category
        assert match is not None
        assert count is not None
        assert category is not None
        spool, source, full = Candidates(self.store, stream.name), stream.terms.source, stream.full or count
        held = self._moved(spool, stream, count)
        if held < count and not spool.is_chosen():
            reference = matching.reference(self.store, generate, category, match, self.seed, trust)
            inner = _Run(spool.store, self.seed, self.pool, self.progress, self.retry)
            inner.take(stream, (full - held) * match.candidates, self)
            self.broken |= inner.broken
            if inner.broken:
                return
            # The choice is the whole quota's, whatever the limit: so any sequence of limits ends with the same images.
            spool.choose(reference, full - held, match, {"source": source, "category": category})
            held = self._moved(spool, stream, count)
        if held < count:
            log.warning("%s: asked for %d, the source has %d that can be used", stream.title, count, held)

    def _moved(self, spool: Candidates, stream: Stream, count: int) -> int:
        """How many images there are for a stream's quota once those chosen have moved, as far as `count` asks for them."""
        if spool.is_chosen():
            self.new += spool.move(stream.terms.source, count - self.held(stream))
            self.known = _Known(self.store)
        return self.held(stream)

    def end(self, streams: Sequence[Stream], unchecked: dict[str, dict[str, str]]) -> Collected:
        """The ledger, put together, and the sums."""
        rejects = [row for row in self.store.rejects().to_pylist() if row["stage"] == STAGE]
        counts = Counter(row["reason"] for row in rejects)
        failed = sum(count for reason, count in counts.items() if reason not in BY_RULE)
        ids = {name for path in self.store.parts(STAGE) for name in self.store.names(path)}
        asked = {
            s.name: availability.Quota(
                s.name, s.terms.source, s.want.category, s.stratum, s.count, self.held(s),
                s.full * s.want.match.candidates if s.full and s.want.match else None, s.full, s.name in self.waiting,
            )
            for s in streams
        }  # fmt: skip
        reasons = {row["id"]: row["reason"] for row in rejects}
        sums = availability.put_together(self.store, list(asked.values()), reasons, BY_RULE, ids)
        reports = matching.read(self.store.root)
        chosen = [reports[name] for name in asked if name in reports]
        sorted_counts = dict(sorted(counts.items()))
        return Collected(self.new, len(ids), sorted_counts, failed + len(self.broken), self.broken, sums, chosen, unchecked)


class _Answers:
    """What a collector answers, made safe: every answer checked, named once, given a place; an exception ends it, in words."""

    def __init__(self, stream: Stream, want: Want, places: availability.Places, passing: availability.Passing) -> None:
        self.stratum, self.have, self.places, self.passing = stream.stratum, want.have, places, passing
        self.broken: str | None = None
        self.ended = False
        self.seen: Counter[str] = Counter()
        self.answers = self._safe(stream.collector, want)

    def segments(self, count: int | None) -> Iterator[Segment]:
        """Segments of at most `count` images; refusals pass through beside them."""
        items: list[Found | Refusal] = []
        places: list[int] = []
        taken = size = 0
        while count is None or taken < count or self.places.behind():
            item = next(self.answers, None)
            if item is None:
                break
            items.append(item)
            places.append(self.places.take())
            taken += isinstance(item, Found)
            size += len(item.data) if isinstance(item, Found) else 0
            if len(items) >= SEGMENT_IMAGES or size >= SEGMENT_BYTES:
                yield self._segment(items, places)
                items, places, size = [], [], 0
        if items:
            yield self._segment(items, places)

    def _segment(self, items: Sequence[Found | Refusal], places: Sequence[int]) -> Segment:
        self.passing.forget(item.source_key for item in items)
        return Segment(tuple(items), tuple(places))

    def _safe(self, collector: Collector, want: Want) -> Iterator[Found | Refusal]:
        try:
            unnamed = 0
            for answer in collector.find(want):
                item = arrival.checked(answer, unnamed)
                unnamed += item.source_key == arrival.unnamed_key(unnamed)
                # A refusal that does not say whose it is counts here: its picture was never seen.
                unsaid = isinstance(item, Refusal) and item.stratum is None
                if self.stratum is not None and item.stratum != self.stratum and not unsaid:
                    continue
                self.seen[item.source_key] += 1
                if (times := self.seen[item.source_key]) > 1:
                    again = f"{item.source_key}#{times}"
                    item = Refusal("listed-twice", f"the source gave {item.source_key} {times} times", again)
                if item.source_key not in self.have:
                    yield item
            self.ended = True
        except (UsageError, StoreError):
            raise
        except Exception as error:
            # The boundary to any adapter and its vendor: it ends this source, never the others.
            self.broken = _why(error)


def _why(error: Exception) -> str:
    """Why a collector ended, and what to do: a line or a disk that failed may be better another time, a fault will not."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:1000]
    if isinstance(error, BuildError):
        return said
    if isinstance(error, OSError):
        return f"{said}. What was finished is kept; the same command goes on from there"
    return (
        f"its collector failed with {type(error).__name__}: {said}. What was finished is kept, but the same command will "
        "probably fail there again: that is a fault of the collector or of what it reads. Leave this source out, and tell "
        "whoever made it"
    )


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
