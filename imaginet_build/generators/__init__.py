"""Hands that draw: one file per family of generators. Nobody imports them by name; cards do, by dotted path.

A generator is any class with `needs` (what an order must carry: `prompt`, `source` or `none`) and
`draw(orders) -> Iterator[Image | bytes | Refusal]`, one answer per order, in order; `params()` may say what else decides the
pixels, and an image's `info["params"]` what is peculiar to it. `conformance` holds the cases that each of them must pass,
yours included.
"""
