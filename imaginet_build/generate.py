"""`generate`: draw what was ordered, each image exactly once, and leave it as it was born."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imaginet_build import catalog, engine, images
from imaginet_build.errors import BadImage, BuildError, UsageError
from imaginet_build.orders import Batch, manifest, still_wanted
from imaginet_build.recipe import Generate
from imaginet_build.records import Order, Record, Refusal
from imaginet_build.store import Store, StoreError

log = logging.getLogger(__name__)

STAGE = "generate"
BLANK = 1.0
"""An image whose grey values deviate by less than this from their mean is blank: a flagged or a failed one."""

BY_RULE = frozenset({"flagged", "moderation", "blank"})
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
    machines over one work folder. Raises `UsageError` when a card cannot be used here (a missing extra, weights, or key), and
    `StoreError` for a full disk.
    """
    lock = store.root / "cards.lock"
    revisions = {name: catalog.resolve(catalog.card("generators", name), lock) for name in {e.generator for e in entries}}
    batches = manifest(entries, seed, store, revisions, trust)
    wanted = list(still_wanted(batches, store.ids(STAGE), shard, limit))
    total = sum(len(batch.keep) for batch in wanted)
    new = refused = 0
    draw = _Draw(store.root, trust)
    while wanted:
        smaller: list[Batch] = []
        for outcome in engine.run(draw.worker, wanted, pool):
            batch = outcome.task
            if outcome.value is None and len(batch.orders) > 1:
                log.warning("%s: %s; drawing the batch again in halves", batch.card, outcome.error)
                smaller += batch.halves()
                continue
            done = outcome.value or draw.give_up(batch, outcome.error or "no answer")
            if done.unusable is not None:
                raise UsageError(done.unusable)
            if done.stopped is not None:
                raise StoreError(done.stopped)
            new, refused = new + done.drawn, refused + done.refused
            progress(new, refused, total)
        # A worker may have died when its part was already in place.
        here = store.ids(STAGE) if smaller else set()
        wanted = [replace(half, keep=half.keep - here) for half in smaller if half.keep - here]
    counts = Counter(r["reason"] for r in store.rejects().to_pylist() if r["stage"] == STAGE)
    failed = sum(count for reason, count in counts.items() if reason not in BY_RULE)
    held = sum(len(store.names(path)) for path in store.parts(STAGE))
    return Generated(new, held, dict(sorted(counts.items())), failed)


@dataclass(frozen=True, slots=True)
class _Done:
    """A batch that was written. Nothing was where the card cannot be used here (`unusable`), or where the work folder cannot be
    read or written (`stopped`)."""

    drawn: int = 0
    refused: int = 0
    unusable: str | None = None
    stopped: str | None = None


@dataclass(slots=True)
class _Draw:
    """A worker that draws batches, keeping the last card's adapter, and leaves each batch as a part."""

    root: Path
    trust: bool
    made: tuple[object, Any] | None = field(default=None)

    def worker(self) -> Callable[[Batch], _Done]:
        return self.draw

    def give_up(self, batch: Batch, error: str) -> _Done:
        """Record orders that no worker could live through."""
        batch = replace(batch, keep=batch.keep - Store(self.root).ids(STAGE))
        reason = "killed-the-worker" if "process died" in error or "no answer" in error else "failed"
        return self._write(batch, {order.id: Refusal(reason, error) for order in batch.orders}, {})

    def draw(self, batch: Batch) -> _Done:
        """Draw one whole batch and write what is wanted of it."""
        try:
            return self._draw(batch)
        except UsageError as error:
            return _Done(unusable=str(error))
        except StoreError as error:
            return _Done(stopped=str(error))

    def _draw(self, batch: Batch) -> _Done:
        store = Store(self.root)
        adapter = self._adapter(batch)
        # What costs money is drawn once: an API's image does not depend on its neighbours, as a local batch's bytes do.
        asked = [o for o in batch.orders if o.id in batch.keep or not getattr(adapter, "paid", False)]
        data = dict(store.images(o.source.id for o in asked if o.source))
        orders = [replace(o, source=replace(o.source, data=data[o.source.id])) if o.source else o for o in asked]
        answers: dict[str, object] = {}
        try:
            for order, answer in zip(orders, adapter.draw(orders), strict=True):
                answers[order.id] = answer
        except UsageError:
            # A card that cannot go on (a quota, a budget) keeps what it has given so far.
            if part := batch.keep & answers.keys():
                self._write(replace(batch, keep=part), answers, _params(adapter))
            raise
        return self._write(batch, answers, _params(adapter))

    def _adapter(self, batch: Batch) -> Any:
        key = (batch.card, json.dumps(batch.options, sort_keys=True, default=str), batch.revision)
        if self.made is None or self.made[0] != key:
            # Two big models do not fit beside each other: the old one goes before the new one comes.
            self.made = None
            card = catalog.card("generators", batch.card)
            self.made = (key, catalog.build(card, trust=self.trust, revision=batch.revision, **batch.options))
        return self.made[1]

    def _write(self, batch: Batch, answers: dict[str, object], params: dict[str, Any]) -> _Done:
        store = Store(self.root)
        rows, data, rejects = [], [], []
        card = catalog.card("generators", batch.card)
        for order in batch.orders:
            if order.id not in batch.keep:
                continue
            made = _finish(order, answers[order.id], card, batch, params)
            if isinstance(made, Refusal):
                rejects.append(_reject(order, made))
            else:
                rows.append(made[0].row())
                data.append(made[1])
        if rejects:
            store.write_rejects(STAGE, batch.name, rejects)
        if rows:
            store.write_part(STAGE, batch.name, rows, data)
        return _Done(len(rows), len(rejects))


def _params(adapter: Any) -> dict[str, Any]:
    return dict(adapter.params()) if hasattr(adapter, "params") else {}


def _finish(
    order: Order, answer: object, card: catalog.Card, batch: Batch, params: dict[str, Any]
) -> tuple[Record, bytes] | Refusal:
    """The finished image as a record and its bytes, or why it may not enter."""
    from PIL.Image import Image

    if isinstance(answer, Refusal):
        return answer
    own = answer.info.get("params", {}) if isinstance(answer, Image) else {}
    try:
        if isinstance(answer, Image):
            data = images.encode(answer.convert("RGB"), "png")
        elif isinstance(answer, bytes):
            data = answer
        else:
            raise BuildError(f"{card.name} answered with {type(answer).__name__}; an image, bytes or a refusal is expected")
        facts = images.measure(data)
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    if (facts.width, facts.height) != (order.width, order.height):
        return Refusal("wrong-size", f"{order.width} x {order.height} ordered, {facts.width} x {facts.height} drawn")
    if facts.contrast < BLANK:
        return Refusal("blank", f"the grey values deviate by {facts.contrast:.2f} only")
    recorded = {**params, **own, "batch": len(batch.orders)} | ({"cut": True} if batch.cut else {})
    record = Record(
        id=order.id,
        origin="synthetic",
        category=order.category,
        family=card.family,
        generator=card.name,
        source=None,
        source_key=None,
        licence=card.licence,
        revision=batch.revision or card.revision,
        prompt=order.prompt.text if order.prompt else None,
        negative=order.prompt.negative if order.prompt else None,
        seed=order.seed,
        params=json.dumps(recorded, sort_keys=True, default=str),
        pair_id=order.source.id if order.source else None,
        group=order.source.group if order.source else order.id,
        extension={"jpeg": "jpg"}.get(facts.codec, facts.codec),
        facts=facts,
    )
    return record, data


def _reject(order: Order, refusal: Refusal) -> dict[str, object]:
    return {
        "id": order.id,
        "stage": STAGE,
        "origin": "synthetic",
        "category": order.category,
        "generator_or_source": order.generator,
        "source_key": order.source.id if order.source else None,
        "reason": refusal.reason,
        "detail": refusal.detail,
    }
