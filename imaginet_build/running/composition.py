"""What a recipe asks for, cell by cell: who gives how many images of which content type, and whether both halves are equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from imaginet_build import catalog
from imaginet_build.recipe import Recipe
from imaginet_build.records import ORIGINS

ANY = "any"
"""The content type, or the origin, of an entry that leaves it to its source."""


def composition(recipe: Recipe, which: Sequence[str] = ("collect", "generate"), generator: str | None = None) -> dict[str, Any]:
    """The table of a recipe, its sums and whether they agree. Loads nothing, fetches nothing.

    `rows`: one for each content type, origin and source (or generator, where synthetic), with the number of images (None: as
    many as there are) and the entries that give them; `sums` of the content types; `real`, `synthetic` and `images` in all;
    `equal`: whether every content type has as many of one origin as of the other (None where a number, an origin or a half is
    not in the table).
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for category, origin, maker, count, by in _entries(recipe, which, generator):
        row = rows.setdefault(
            (category, origin, maker),
            {"category": category, "origin": origin, "generator_or_source": maker, "images": 0, "by": []},
        )
        row["images"] = None if count is None or row["images"] is None else row["images"] + count
        row["by"].append(by)
    order = [*catalog.taxonomy().categories, ANY]
    table = sorted(
        rows.values(), key=lambda r: (order.index(r["category"]), [*ORIGINS, ANY].index(r["origin"]))
    )  # within a cell, as the recipe has them
    categories = [name for name in order if any(row["category"] == name for row in table)]
    sums = [{"category": name} | {origin: _sum(table, name, origin) for origin in ORIGINS} for name in categories]
    known = {"collect", "generate"} <= set(which) and generator is None and all(row["images"] is not None for row in table)
    known = known and not any(ANY in (row["category"], row["origin"]) for row in table)
    real, synthetic = (_sum(table, None, origin) for origin in ORIGINS)
    return {
        "rows": table,
        "sums": sums,
        "real": real,
        "synthetic": synthetic,
        "images": None if real is None or synthetic is None else real + synthetic + (_sum(table, None, ANY) or 0),
        "equal": all(row["real"] == row["synthetic"] for row in sums) if known else None,
    }


def _entries(recipe: Recipe, which: Sequence[str], generator: str | None) -> Iterator[tuple[str, str, str, int | None, str]]:
    """Content type, origin, maker, count and entry of everything that a recipe asks for."""
    for want in recipe.collect if "collect" in which else ():
        card = catalog.card("sources", want.source)
        options = {**card.options, **want.options}
        origin = str(options.get("origin") or card.origin or ANY)
        maker = str(options.get("generator") or card.name) if origin == "synthetic" else card.name
        strata = sum(want.strata.values()) if isinstance(want.strata, dict) else None
        count = want.count if want.count is not None else strata
        yield want.category or card.about.category or ANY, origin, maker, count, f"collect {card.name}"
    for entry in recipe.generate if "generate" in which else ():
        if generator in (None, entry.generator):
            yield entry.category, "synthetic", entry.generator, entry.count, f"generate {entry.generator}"


def _sum(table: Sequence[dict[str, Any]], category: str | None, origin: str) -> int | None:
    counts = [row["images"] for row in table if category in (None, row["category"]) and row["origin"] == origin]
    return None if None in counts else sum(counts)
