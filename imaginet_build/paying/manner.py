"""Which keys of a recipe say how images are fetched and for how much money, and not which: they may change between runs."""

from __future__ import annotations

import re
from typing import Any

KEYS = (
    "ask_again",
    "batch_jobs",
    "budget_images",
    "budget_usd",
    "concurrency",
    "first_wait",
    "key_variable",
    "longest_wait",
    "patience",
    "per_minute",
    "poll",
    "prices",
    "retries",
    "timeout",
)
_KEY = re.compile(rf"engine\.|generate\.\d+\.options\.(?:{'|'.join(KEYS)})(?:\.|$)")


def how(key: str) -> bool:
    """Whether a dotted key of a recipe is one of them: `engine.workers`, `generate.0.options.budget_usd`."""
    return _KEY.match(key) is not None


def drop(document: dict[str, Any]) -> None:
    """Leave them, and every option named `root`, out of a recipe."""
    document.pop("engine", None)
    for item in document.get("collect", []):
        item.get("options", {}).pop("root", None)
    for item in document.get("generate", []):
        for key in ("root", *KEYS):
            item.get("options", {}).pop(key, None)
