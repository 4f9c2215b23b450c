"""What is due before images are bought: what earlier runs left behind, batches at the service, and what a run would cost."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imaginet_build import catalog
from imaginet_build.orders import Batch
from imaginet_build.paying.ledger import BILLED_IN_VAIN, Ledger
from imaginet_build.paying.prices import Prices
from imaginet_build.recipe import Generate
from imaginet_build.store import Store

log = logging.getLogger(__name__)

STAGE = "generate"


def is_paid(name: str, trust: bool = False) -> bool:
    """Whether every image of a generator card costs money."""
    return bool(getattr(catalog.adapter(catalog.card("generators", name), trust=trust), "paid", False))


def ledger(root: Path, name: str) -> Ledger:
    """The ledger of a generator card in a work folder."""
    return Ledger(root / "paid" / name)


def forgivable(store: Store, entries: Sequence[Generate]) -> set[str]:
    """Orders whose refusals hide money, of entries that say `ask_again`: they may be asked for anew."""
    asking = {e.generator for e in entries if _option(e, "ask_again", False)}
    return {
        row["id"]
        for row in (store.rejects().to_pylist() if asking else [])
        if row["stage"] == STAGE and row["generator_or_source"] in asking and row["reason"] in BILLED_IN_VAIN
    }


def begin(
    store: Store, wanted: Sequence[Batch], forgiven: Collection[str], trust: bool = False
) -> tuple[list[Batch], str | None]:
    """Settle what earlier runs left, and have batches drawn where a card asks for that. What can be drawn now, and why it is
    not all that was wanted. `forgiven`: what `forgivable` gave; of these, what is wanted now is no longer refused."""
    anew = {name for batch in wanted for name in batch.keep} & set(forgiven)
    if anew:
        store.forget_rejects(STAGE, anew)
    for name in sorted({batch.card for batch in wanted}):
        if is_paid(name, trust) and (store.root / "paid" / name).is_dir():
            _settle(store, name)
    halted: str | None = None
    ahead: dict[str, list[Batch]] = {}
    for batch in wanted:
        if _said(batch.card, batch.options, "mode", "direct") == "batch" and is_paid(batch.card, trust):
            ahead.setdefault(json.dumps([batch.card, batch.revision, batch.options], sort_keys=True, default=str), []).append(
                batch
            )
    kept = list(wanted)
    for group in ahead.values():
        card = catalog.card("generators", group[0].card)
        adapter = catalog.build(card, trust=trust, revision=group[0].revision, **group[0].options)
        adapter.ledger = ledger(store.root, card.name)
        orders = [order for batch in group for order in batch.orders if order.id in batch.keep]
        halt = adapter.ahead(orders)
        if halt is None:
            continue
        halted = halted or f"{card.name}: {halt.why}"
        here = {order.id for order in orders if adapter.unfit(order) or adapter.known(order) is not None}
        kept = [replace(b, keep=b.keep & here) if b in group else b for b in kept]
    return [batch for batch in kept if batch.keep], halted


def _settle(store: Store, name: str) -> None:
    book = ledger(store.root, name)
    if lost := book.settle():
        some = ", ".join(sorted(lost)[:3]) + (", …" if len(lost) > 3 else "")
        log.warning(
            "%s: %d image(s) may have been billed and were lost, since the process that asked for them was ended before they "
            "came (%s). They are not asked for again by themselves; to allow that, and perhaps pay twice: "
            "--set generate.0.options.ask_again=true",
            name, len(lost), some,
        )  # fmt: skip
    book.answers.clear(book.leftover() & store.ids(STAGE))


def bills(
    store: Store, entries: Sequence[Generate], most: int | None = None, trust: bool = False
) -> list[dict[str, Any] | None]:
    """What each entry would still cost (see `forecast`), drawing at most so many images in all; None for what costs nothing."""
    paid = [is_paid(entry.generator, trust) for entry in entries]
    here: Counter[tuple[str, str]] = Counter()
    if any(paid):
        facts = store.facts(["generator", "category"]).to_pylist()
        here.update((row["generator"], row["category"]) for row in facts)
        forgiven = forgivable(store, entries)
        here.update(
            (row["generator_or_source"], row["category"])
            for row in store.rejects().to_pylist()
            if row["stage"] == STAGE and row["id"] not in forgiven
        )
    found: list[dict[str, Any] | None] = []
    for entry, costs in zip(entries, paid, strict=True):
        done = min(entry.count, here[entry.generator, entry.category])
        here[entry.generator, entry.category] -= done
        images = entry.count - done if most is None else min(entry.count - done, most)
        most = most if most is None else most - images
        found.append(forecast(store.root, entry, images) if costs else None)
    return found


def forecast(root: Path, entry: Generate, images: int) -> dict[str, Any]:
    """What `images` more of an entry would cost: `requests`, `usd` ([least, most], null where neither prices nor what images
    cost so far tell), `price` in words, `hours` (null where not known), and what the ledger says was spent. Nothing is loaded
    and nobody is asked."""
    prices = Prices.model_validate(_option(entry, "prices", {}))
    batch = _option(entry, "mode", "direct") == "batch"
    card = catalog.card("generators", entry.generator)
    sizes = _option(entry, "sizes", None) or [(_option(entry, "width", 0), _option(entry, "height", 0))]
    if entry.width and entry.height:
        sizes = [(entry.width, entry.height)]
    each = [prices.expected(_option(entry, "quality", None), f"{w}x{h}", batch) for w, h in sizes]
    known = [one for one in each if one is not None]
    usd = None if len(known) < len(each) else [min(one[0] for one in known) * images, max(one[1] for one in known) * images]
    place = root / "paid" / card.name
    spent = Ledger(place).read().totals if place.is_dir() else Ledger().totals
    priced = _priced(prices, usd is not None, batch)
    if usd is None and spent.answered and spent.usd > 0:
        usd = [spent.usd / spent.images * images] * 2
        priced = f"as the {spent.images} images so far: ${spent.usd / spent.images:.4g} each; {priced}"
    return {
        "images": images,
        "requests": images,
        "mode": "batch" if batch else "direct",
        "usd": usd and [round(one, 4) for one in usd],
        "price": priced,
        "hours": _hours(entry, images, spent.seconds / spent.answered if spent.answered else None),
        "spent_images": spent.images,
        "spent_usd": round(spent.usd, 4),
        "unknown": spent.unknown,
        "budget_usd": _option(entry, "budget_usd", None),
        "budget_images": _option(entry, "budget_images", None),
    }


def _priced(prices: Prices, whole: bool, batch: bool) -> str:
    share = f", times {prices.batch:g} in a batch" if batch and prices.batch != 1 else ""
    if whole:
        return prices.said() + share
    if prices.output is not None:
        tokens = f"${prices.output:g} for a million tokens of image, ${prices.input or 0:g} for a million of prompt"
        return f"{tokens}{share} ({prices.said()}); how many tokens an image takes is only known once it is drawn"
    return "not known: its card names no price; give options.prices"


def _hours(entry: Generate, images: int, seconds: float | None) -> float | None:
    """By the rate limit that is given, else by what images took so far, else not known."""
    if per_minute := _option(entry, "per_minute", None):
        return round(images / float(per_minute) / 60, 2)
    return None if seconds is None else round(images * seconds / int(_option(entry, "concurrency", 4)) / 3600, 2)


def _option(entry: Generate, key: str, otherwise: Any) -> Any:
    return _said(entry.generator, entry.options, key, otherwise)


def _said(name: str, options: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    """A setting of a recipe's entry, else of its card."""
    return {**catalog.card("generators", name).options, **options}.get(key, otherwise)
