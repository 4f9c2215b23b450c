"""Hands that draw: one file per family of generators. Nobody imports them by name; cards do, by dotted path.

A generator is any class with `needs` (what an order must carry: `prompt`, `source` or `none`) and
`draw(orders) -> Iterator[Image | bytes | Refusal]`, one answer per order, in order; `params()` may say what else decides the
pixels, and an image's `info["params"]` what is peculiar to it. Two class attributes may say more: `paid` (every image costs
money, so none is drawn twice) and `not_in_id` (keywords that decide how an image is fetched and not which). One that is
`paid` and holds a `ledger` is given the work folder's; a third vendor is a short subclass of `paid_batch.PaidBatches`, as
`openai_images` and `google_images` are. `conformance` holds the cases that each of them must pass, yours included.
"""
