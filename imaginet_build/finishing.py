"""What was drawn becomes rows: encoded without loss, measured, and left as a part; or a reject with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imaginet_build import catalog, images
from imaginet_build.engine import Outcome
from imaginet_build.errors import BadImage, BuildError
from imaginet_build.orders import Batch
from imaginet_build.people import people_rule
from imaginet_build.records import Order, Record, Refusal
from imaginet_build.store import Store, StoreError

STAGE = "generate"
BLANK = 1.0
"""An image whose grey values deviate by less than this from their mean is blank: a flagged or a failed one."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """A drawn image on its way to another process: (width, height), RGB bytes, and the facts that are its own."""

    size: tuple[int, int]
    data: bytes
    own: Mapping[str, Any]


Answer = Pixels | bytes | Refusal


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a generator answered to the orders of a batch, by id, and with what settings it drew."""

    answers: Mapping[str, Answer]
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A batch that was written, and how it was drawn (device, number format, offload; empty where its adapter does not say).
    Nothing was where the card cannot be used here (`unusable`), or the work folder cannot be read or written (`stopped`)."""

    drawn: int = 0
    refused: int = 0
    unusable: str | None = None
    stopped: str | None = None
    how: str = ""


def carried(answer: object, who: str) -> Answer:
    """An adapter's answer as it can go to another process. Raises `BuildError` for what is no answer."""
    from PIL.Image import Image

    if isinstance(answer, Image):
        own = dict(answer.info.get("params", {}))
        return Pixels(answer.size, answer.convert("RGB").tobytes(), own)
    if isinstance(answer, bytes | Refusal):
        return answer
    raise BuildError(f"{who} answered with {type(answer).__name__}; an image, bytes or a refusal is expected")


@dataclass(frozen=True, slots=True)
class Finish:
    """A worker that takes what another process drew and writes it, while that one draws on."""

    root: Path

    def worker(self) -> Callable[[Outcome[Batch, Drawn | Done] | None], Done | None]:
        """What the engine calls in each process."""
        return self.finish

    def finish(self, drawn: Outcome[Batch, Drawn | Done] | None) -> Done | None:
        """Write a drawn batch; what is written already, or could not be drawn, is passed on."""
        if drawn is None:
            return None
        if not isinstance(drawn.value, Drawn):
            return drawn.value
        try:
            return self.write(drawn.task, drawn.value)
        except StoreError as error:
            return Done(stopped=str(error))

    def write(self, batch: Batch, drawn: Drawn) -> Done:
        """Leave what is wanted of a batch as a part, and what may not enter as rejects. Raises `StoreError`."""
        store = Store(self.root)
        rows, data, rejects = [], [], []
        card = catalog.card("generators", batch.card)
        for order in batch.orders:
            if order.id not in batch.keep:
                continue
            made = _finished(order, drawn.answers[order.id], card, batch, drawn.params)
            if isinstance(made, Refusal):
                rejects.append(_reject(order, made))
            else:
                rows.append(made[0].row())
                data.append(made[1])
        if rejects:
            store.write_rejects(STAGE, batch.name, rejects)
        if rows:
            store.write_part(STAGE, batch.name, rows, data)
        return Done(len(rows), len(rejects), how=_how(drawn.params))

    def has_written(self, batch: Batch) -> bool:
        """Whether the part of a batch is in place. Its rejects came before it."""
        return (self.root / "parts" / STAGE / f"{batch.name}.parquet").exists()

    def give_up(self, batch: Batch, error: str) -> Done:
        """Record orders that no worker could live through. Raises `StoreError`."""
        batch = replace(batch, keep=batch.keep - Store(self.root).ids(STAGE))
        reason = "killed-the-worker" if "process died" in error or "no answer" in error else "failed"
        return self.write(batch, Drawn({order.id: Refusal(reason, error) for order in batch.orders}, {}))


def _finished(
    order: Order, answer: Answer, card: catalog.Card, batch: Batch, params: Mapping[str, Any]
) -> tuple[Record, bytes] | Refusal:
    """The finished image as a record and its bytes, or why it may not enter."""
    if isinstance(answer, Refusal):
        return answer
    try:
        data = answer if isinstance(answer, bytes) else _encoded(answer)
        facts = images.measure(data)
    except BadImage as error:
        return Refusal(error.reason, error.detail)
    if (facts.width, facts.height) != (order.width, order.height):
        return Refusal("wrong-size", f"{order.width} x {order.height} ordered, {facts.width} x {facts.height} drawn")
    if facts.contrast < BLANK:
        return Refusal("blank", f"the grey values deviate by {facts.contrast:.2f} only")
    own = dict(answer.own) if isinstance(answer, Pixels) else {}
    # What a captioner said is the prompt that was drawn, and keeps the rule that prompts keep.
    prompt = str(own.pop("caption")) if "caption" in own else order.prompt.text if order.prompt else None
    if order.prompt is None and prompt and (name := people_rule()(prompt)):
        return Refusal("named-person", f"its caption names {name}")
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
        prompt=prompt,
        negative=order.prompt.negative if order.prompt else None,
        seed=order.seed,
        params=json.dumps(recorded, sort_keys=True, default=str),
        pair_id=order.source.id if order.source else None,
        group=order.source.group if order.source else order.id,
        extension={"jpeg": "jpg"}.get(facts.codec, facts.codec),
        facts=facts,
    )
    return record, data


def _how(params: Mapping[str, Any]) -> str:
    """What was chosen by what this machine has, in words."""
    if "device" not in params:
        return ""
    threads = f", {params['threads']} thread(s) a worker" if "threads" in params else ""
    offload = f", offload {params['offload']}" if "offload" in params else ""
    return f"{'no GPU found' if params['device'] == 'cpu' else params['device']}: {params.get('dtype')}{threads}{offload}"


def _encoded(pixels: Pixels) -> bytes:
    from PIL import Image

    return images.encode(Image.frombytes("RGB", pixels.size, pixels.data), "png")


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
