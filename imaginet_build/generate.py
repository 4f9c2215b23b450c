"""`generate`: draw what was ordered, each image exactly once, and leave it as it was born."""

from __future__ import annotations

import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from imaginet_build import catalog, engine
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.finishing import STAGE, Answer, Done, Drawn, Finish, carried
from imaginet_build.orders import Batch, manifest, still_wanted
from imaginet_build.paying import dues
from imaginet_build.paying.ledger import Ledger, Stopped
from imaginet_build.recipe import Generate
from imaginet_build.store import Store, StoreError

log = logging.getLogger(__name__)

_Outcome = engine.Outcome[Batch, Drawn | Done]

BY_RULE = frozenset({"flagged", "moderation", "blank", "named-person"})
"""Reasons that are a model's or a rule's decision, not failures: they leave the exit code at 0."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What one `generate` did. `new`: images drawn now; `total`: drawn altogether; `rejected`: reason -> how many, all told;
    `failed`: those of them that could not be drawn."""

    new: int
    total: int
    rejected: dict[str, int]
    failed: int


def generate(
    store: Store,
    entries: Sequence[Generate],
    seed: int,
    pool: engine.Pool,
    *,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    trust: bool = False,
    progress: engine.Progress = engine.silent,
) -> Generated:
    """Draw every ordered image that is not here yet.

    `limit`: at most so many images now. `shard`: `(i, n)`, the i-th of n equal shares (from 1), for several processes or
    machines over one work folder. Raises `UsageError` when a card cannot be used here (a missing extra, weights, or key),
    `StoreError` for a full disk, and `Stopped` where a paid service, an account or a budget gives no more for now.
    """
    lock = store.root / "cards.lock"
    revisions = {name: catalog.resolve(catalog.card("generators", name), lock) for name in {e.generator for e in entries}}
    batches = manifest(entries, seed, store, revisions, trust)
    forgiven = dues.forgivable(store, entries)
    due, halted = dues.begin(store, list(still_wanted(batches, store.ids(STAGE) - forgiven, shard, limit)), forgiven, trust)
    stops: list[BuildError] = [Stopped(halted)] if halted else []
    wanted = _Wanted(due)
    # What others have under way for money is waited for, where one of them has to stop.
    patient = any(dues.is_paid(name, trust) for name in {batch.card for batch in due})
    total = sum(len(batch.keep) for batch in wanted.batches)
    new = refused = 0
    told: set[tuple[str, str]] = set()
    finish = Finish(store.root)
    draw = _Draw(finish, trust)
    while wanted.batches:
        # While one process draws a batch, another encodes, measures and writes the one before. A process and not a thread:
        # two threads would wait for one interpreter lock. It is started with nothing to do, so that it need not be waited for,
        # but after the drawing ones, which take longest to be ready.
        with (
            closing(engine.run(draw.worker, wanted, pool, ahead=True)) as drawn,
            closing(engine.run(finish.worker, _halved(drawn, wanted), pool)) as finished,
        ):
            for outcome in finished:
                if outcome.task is None:
                    continue
                batch, error = outcome.task.task, outcome.task.error or outcome.error or "no answer"
                if outcome.value is None and len(batch.orders) > 1:
                    # It died while it wrote; what is in place already needs no more.
                    if not finish.has_written(batch):
                        wanted.again(batch, error)
                    continue
                done = outcome.value or finish.give_up(batch, error)
                if done.unusable is not None or done.stopped is not None:
                    if not patient:
                        raise UsageError(done.unusable) if done.unusable is not None else StoreError(done.stopped)
                    stops.append(UsageError(done.unusable) if done.unusable is not None else Stopped(done.stopped))
                    wanted.batches.clear()
                if done.how and (batch.card, done.how) not in told:
                    told.add((batch.card, done.how))
                    log.info("%s: %s", batch.card, done.how)
                new, refused = new + done.drawn, refused + done.refused
                progress(new, refused, total)
    if stops:
        raise stops[0]
    counts = Counter(r["reason"] for r in store.rejects().to_pylist() if r["stage"] == STAGE)
    failed = sum(count for reason, count in counts.items() if reason not in BY_RULE)
    held = sum(len(store.names(path)) for path in store.parts(STAGE))
    return Generated(new, held, dict(sorted(counts.items())), failed)


class _Wanted(Iterator[Batch]):
    """Batches that wait to be drawn; more may come while they are taken."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = deque(batches)

    def __next__(self) -> Batch:
        if not self.batches:
            raise StopIteration
        return self.batches.popleft()

    def again(self, batch: Batch, error: str) -> None:
        """Draw a batch in halves, to find the order that cannot be drawn."""
        log.warning("%s: %s; drawing the batch again in halves", batch.card, error)
        self.batches.extend(batch.halves())


def _halved(drawn: Iterable[_Outcome | None], wanted: _Wanted) -> Iterator[_Outcome | None]:
    """What was drawn; a batch that could not be waits to be drawn in halves, by the processes that are there already."""
    for outcome in drawn:
        if outcome is not None and outcome.value is None and len(outcome.task.orders) > 1:
            wanted.again(outcome.task, outcome.error or "no answer")
        else:
            yield outcome


@dataclass(slots=True)
class _Draw:
    """A worker that draws batches, keeping the last card's adapter."""

    finish: Finish
    trust: bool
    made: tuple[object, Any] | None = field(default=None)
    sources: Store | None = field(default=None)

    def worker(self) -> Callable[[Batch], Drawn | Done]:
        return self.draw

    def draw(self, batch: Batch) -> Drawn | Done:
        """Draw one whole batch; what was paid for is written at once, before anything else can happen to it."""
        try:
            drawn = self._draw(batch)
            return self._kept(batch, drawn) if getattr(self._adapter(batch), "paid", False) else drawn
        except UsageError as error:
            return Done(unusable=str(error))
        except (StoreError, Stopped) as error:
            return Done(stopped=str(error))

    def _kept(self, batch: Batch, drawn: Drawn) -> Done:
        """Write what was paid for; what lies in a part need not lie beside the ledger."""
        done = self.finish.write(batch, drawn)
        if isinstance(book := getattr(self._adapter(batch), "ledger", None), Ledger):
            book.answers.clear(batch.keep)
        return done

    def _draw(self, batch: Batch) -> Drawn:
        adapter = self._adapter(batch)
        # What costs money is drawn once: an API's image does not depend on its neighbours, as a local batch's bytes do.
        asked = [o for o in batch.orders if o.id in batch.keep or not getattr(adapter, "paid", False)]
        # One store for all batches: it remembers where the real images lie.
        self.sources = self.sources or Store(self.finish.root)
        data = dict(self.sources.images(o.source.id for o in asked if o.source))
        orders = [replace(o, source=replace(o.source, data=data[o.source.id])) if o.source else o for o in asked]
        answers: dict[str, Answer] = {}
        try:
            for order, answer in zip(orders, adapter.draw(orders), strict=True):
                answers[order.id] = carried(answer, batch.card)
        except (UsageError, Stopped):
            # A card that cannot go on (a quota, a budget) keeps what it has given so far.
            if part := batch.keep & answers.keys():
                self._kept(replace(batch, keep=part), Drawn(answers, _params(adapter)))
            raise
        return Drawn(answers, _params(adapter))

    def _adapter(self, batch: Batch) -> Any:
        key = (batch.card, json.dumps(batch.options, sort_keys=True, default=str), batch.revision)
        if self.made is None or self.made[0] != key:
            # Two big models do not fit beside each other: the old one goes before the new one comes.
            self.made = None
            card = catalog.card("generators", batch.card)
            made = catalog.build(card, trust=self.trust, revision=batch.revision, **batch.options)
            if isinstance(getattr(made, "ledger", None), Ledger):
                made.ledger = dues.ledger(self.finish.root, batch.card)
            if hasattr(made, "remember"):
                made.remember(self.finish.root / "memory.json")
            self.made = (key, made)
        return self.made[1]


def _params(adapter: Any) -> dict[str, Any]:
    return dict(adapter.params()) if hasattr(adapter, "params") else {}
