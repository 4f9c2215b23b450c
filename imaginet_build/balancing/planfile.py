"""The plan on disk: one small Parquet file that says what was decided and from what, so that it can be read, compared and
remade."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imaginet_build.balancing.equalize import Views
from imaginet_build.balancing.pool import Pool, Rows
from imaginet_build.errors import UsageError
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import PLAN_SCHEMA
from imaginet_build.store import Store, written

KEY = b"imaginet-build"
"""Where the schema's metadata hold how the plan came to be."""

_ROWS = 1 << 16


def provenance(pool: Pool, settings: Balance, law: Equalize, seed: int, barred: Mapping[str, Any]) -> dict[str, Any]:
    """What the plan follows from, and nothing else: the settings, the seed, what was `barred` (where any was), and a digest
    of the facts it was made from."""
    digest = hashlib.sha256()
    columns = [pool.table[name].combine_chunks().cast(pa.string()) for name in sorted(pool.table.column_names)]
    for start in range(0, len(pool.ids), _ROWS):
        some = [column.slice(start, _ROWS) for column in columns]
        lines = pc.binary_join_element_wise(*some, "\x1f", null_handling="replace", null_replacement="\x00")
        digest.update("\n".join(lines.to_pylist()).encode())
    return ({"barred": dict(barred)} if barred else {}) | {
        "seed": seed,
        "balance": settings.model_dump(mode="json", exclude_none=True),
        "equalize": law.model_dump(mode="json", exclude_none=True),
        "facts": digest.hexdigest(),
    }


def write(store: Store, pool: Pool, views: Sequence[tuple[Rows, Views]], made_from: dict[str, Any]) -> None:
    """Replace the plan of a work folder. `views`: rows, and how each becomes its row of the equalized view."""
    n, keep = len(pool.ids), pool.stays
    numbers = {name: np.zeros(n, dtype=np.int32) for name in ("left", "top", "width", "height", "quality", "first_quality")}
    words = {name: np.full(n, None, dtype=object) for name in ("codec", "subsampling", "first_subsampling")}
    for rows, view in views:
        looks = view.looks
        for name, value in (("left", view.left), ("top", view.top), ("width", looks.side), ("height", looks.side)):
            numbers[name][rows] = value
        numbers["quality"][rows], numbers["first_quality"][rows] = looks.quality, view.first_quality
        words["codec"][rows], words["subsampling"][rows] = looks.codec, looks.subsampling
        first = view.first_quality > 0
        words["first_subsampling"][rows[first]] = view.first_subsampling[first]
    pool.split[~keep] = None
    plain = {"keep": keep, "generator_or_source": pool.maker}
    columns = {
        name: pa.array(numbers[name], mask=~keep if name != "first_quality" else numbers[name] == 0)
        if name in numbers
        else pa.array(words[name] if name in words else plain[name] if name in plain else getattr(pool, name))
        for name in PLAN_SCHEMA.names
    }
    schema = PLAN_SCHEMA.with_metadata({KEY: json.dumps(made_from, sort_keys=True).encode()})
    with written(store.plan_path, replace=True) as temporary:
        pq.write_table(pa.table(columns).cast(schema), temporary, compression="zstd")


def made_from(path: Path) -> dict[str, Any] | None:
    """What the plan at `path` says it was made from; None where it says nothing. Raises `UsageError` where it is no Parquet
    file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read as a plan ({error}): make it anew with build-imaginet balance") from None
    try:
        found = json.loads(metadata[KEY]) if KEY in metadata else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path} does not say from what it was made: make it anew with build-imaginet balance")
    return found or None
