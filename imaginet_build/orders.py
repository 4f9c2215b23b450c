"""From a recipe's `[[generate]]` entries to orders in batches: everything is named before a pixel is drawn.

The batch is the unit that is drawn, sharded, limited and resumed, because an image's last bits depend on its neighbours in a
batch. Which orders share one is decided here, by the recipe alone.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imaginet_build import catalog, prompt_rules, prompts
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Generate
from imaginet_build.records import Order, Prompt, SourceImage, make_id, random_of, seed_of
from imaginet_build.store import Store

log = logging.getLogger(__name__)

SizeOf = Callable[[Mapping[str, Any], int, int], tuple[int, int]]
"""What an adapter that draws from a source in another size than the source's says of a card's options and the source's size."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Orders of one card that are drawn together. `keep`: the ids that are wanted of it; the others are here already.

    `cut`: it is smaller than the manifest's batch, so its images keep their ids but not necessarily their bytes.
    """

    card: str
    options: Mapping[str, Any]
    revision: str | None
    orders: tuple[Order, ...]
    keep: frozenset[str]
    cut: bool = False

    @property
    def name(self) -> str:
        """The part that this batch will be."""
        return make_id("batch", [order.id for order in self.orders], sorted(self.keep))

    def halves(self) -> list[Batch]:
        """The batch in two, for finding the order that cannot be drawn. Halves that hold nothing wanted are left out."""
        middle = (len(self.orders) + 1) // 2
        halves = [replace(self, orders=part, cut=True) for part in (self.orders[:middle], self.orders[middle:])]
        halves = [replace(half, keep=self.keep & {order.id for order in half.orders}) for half in halves]
        return [half for half in halves if half.keep]


def manifest(
    entries: Sequence[Generate], seed: int, store: Store, revisions: Mapping[str, str | None], trust: bool = False
) -> Iterator[Batch]:
    """Every batch that `entries` ask for, in the recipe's order. Nothing here depends on what has been drawn before.

    Aligned generators take the real images of their category that `store` holds, so `collect` comes first; `UsageError` says
    so.
    """
    asked: dict[str, set[int]] = {}
    for entry in entries:
        orders = list(_orders(entry, seed, store, revisions.get(entry.generator), trust, asked))
        for batch in _together(orders, entry.batch):
            yield Batch(
                entry.generator, entry.options, revisions.get(entry.generator), batch, frozenset(order.id for order in batch)
            )


def _together(orders: Sequence[Order], size: int) -> Iterator[tuple[Order, ...]]:
    """Batches of `size` orders in their order. Those with a prompt share one only with orders of their own size in pixels: a
    card with several sizes would otherwise draw most images alone."""
    waiting: dict[tuple[int, int] | None, list[Order]] = {}
    for order in orders:
        alike = waiting.setdefault((order.width, order.height) if order.prompt else None, [])
        alike.append(order)
        if len(alike) == size:
            yield tuple(alike)
            alike.clear()
    yield from (tuple(rest) for rest in waiting.values() if rest)


def still_wanted(batches: Iterator[Batch], done: Collection[str], shard: tuple[int, int], limit: int | None) -> Iterator[Batch]:
    """The batches of shard `(i, n)` (counted from 1) with the ids that are not `done`; at most `limit` ids are kept in all."""
    left = limit
    for number, batch in enumerate(batches):
        if number % shard[1] != shard[0] - 1:
            continue
        wanted = [order.id for order in batch.orders if order.id not in done][:left]
        if left is not None:
            left -= len(wanted)
        if wanted:
            yield replace(batch, keep=frozenset(wanted))
        if left == 0:
            return


def _orders(
    entry: Generate, seed: int, store: Store, revision: str | None, trust: bool, asked: dict[str, set[int]]
) -> Iterator[Order]:
    card = catalog.card("generators", entry.generator)
    needs = needed(card, trust)
    sources = list(_sources(entry, seed, store)) if needs == "source" else []
    texts = _texts(entry, card, seed) if needs == "prompt" else []
    count = min(entry.count, len(sources)) if needs == "source" else entry.count
    if needs == "source" and count < entry.count:
        log.warning("%s: asked for %d, but there are %d real images of %s", card.name, entry.count, count, entry.category)
    if needs == "prompt" and len(texts) < entry.count:
        raise UsageError(f"{card.name} needs {entry.count} prompts of {entry.category}; {entry.prompts} has {len(texts)}")
    options = {**card.options, **entry.options}
    # What says how an image is fetched, and not which, is no part of its name: a new time limit must not buy all images anew.
    aside: frozenset[str] = getattr(catalog.adapter(card, trust=trust), "not_in_id", frozenset())
    named = {key: value for key, value in options.items() if key not in aside}
    size_of: SizeOf | None = getattr(catalog.adapter(card, trust=trust), "size_of", None)
    made = make_id("card", card.adapter, json.dumps(named, sort_keys=True, default=str), revision)
    for number in range(count):
        prompt = texts[number] if texts else None
        source = sources[number] if sources else None
        width, height = _size(entry, options, size_of, prompt, source, seed)
        if width is None or height is None:
            raise UsageError(f"{card.name}: neither its card nor the recipe says how large an image is: give width and height")
        yield _order(made, card.name, entry.category, seed, prompt, source, width, height, asked)


def _order(
    made: str,
    generator: str,
    category: str,
    seed: int,
    prompt: Prompt | None,
    source: SourceImage | None,
    width: int,
    height: int,
    asked: dict[str, set[int]],
) -> Order:
    """One order, its seed and id made from everything that was ordered. `asked`: the seeds of equal orders before it."""
    what = [made, category, prompt.id if prompt else None, source.sha256 if source else None, width, height]
    # Equal prompts or none at all still give different images: how often the same was asked before is part of the seed. (Its
    # place in the manifest is not: another image collected or another prompt listed must not rename what is drawn.)
    before = asked.setdefault(make_id(what), set())
    image_seed = seed_of(make_id(what, len(before), seed), "image") % 2**32
    while image_seed in before:  # among 100,000 images of one kind, two of 2**32 seeds meet
        image_seed = (image_seed + 1) % 2**32
    before.add(image_seed)
    return Order(make_id("order", what, image_seed), generator, category, image_seed, width, height, prompt, source)


def _texts(entry: Generate, card: catalog.Card, seed: int) -> list[Prompt]:
    """A list as it stands, or a set of templates expanded."""
    where = entry.prompts or entry.category
    if prompts.is_list(where):
        screened = prompt_rules.screen(prompts.read(where, entry.category))
        if screened.refused:
            reasons = Counter(refusal.reason for _, refusal in screened.refused)
            log.warning("%s: left out %s", where, ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items())))
        return screened.kept[: entry.count]
    return prompts.expand(where, entry.count, seed, card.family)


def _sources(entry: Generate, seed: int, store: Store) -> Iterator[SourceImage]:
    """The real images an aligned generator starts from, in an order that the seed alone decides."""
    rows = [
        row
        for row in store.facts(["origin", "category", "source", "sha256", "width", "height", "group"]).to_pylist()
        if row["origin"] == "real" and row["category"] == entry.category and entry.source in (None, row["source"])
    ]
    if not rows:
        raise UsageError(
            f"{entry.generator} draws over real images, and the work folder has none of {entry.category}"
            f"{f' from {entry.source}' if entry.source else ''}: run build-imaginet collect first"
        )
    for row in sorted(rows, key=lambda row: make_id(seed, row["id"])):
        yield SourceImage(row["id"], row["sha256"], row["width"], row["height"], row["group"])


def needed(card: catalog.Card, trust: bool = False) -> str:
    """What an order to this card must carry: `prompt`, `source` or `none`. Known without loading a weight."""
    return str(getattr(catalog.adapter(card, trust=trust), "needs", "prompt"))


def _size(
    entry: Generate, options: Mapping[str, Any], size_of: SizeOf | None, prompt: Prompt | None, source: SourceImage | None,
    seed: int,
) -> tuple[int | None, int | None]:  # fmt: skip
    """How large an image is asked for: as its source (or as the adapter makes of that), as the recipe's entry says,
    one of the card's `sizes`, which the prompt draws, or as the card says."""
    if source is not None:
        return size_of(options, source.width, source.height) if size_of else (source.width, source.height)
    sizes = options.get("sizes") or []
    if not sizes or entry.width or entry.height or {"width", "height"} & entry.options.keys():
        return entry.width or _side(options, "width"), entry.height or _side(options, "height")
    width, height = sizes[int(random_of(make_id(seed, prompt.id if prompt else None), "size").integers(len(sizes)))]
    return width, height


def _side(options: Mapping[str, Any], key: str) -> int | None:
    value = options.get(key)
    return value if isinstance(value, int) else None
