"""What is not in a release and why: the refusals of every stage, and what the plan leaves out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build.records import REJECT_SCHEMA
from imaginet_build.releases.joining import Joined
from imaginet_build.store import Store

_ORDER = [("stage", "ascending"), ("id", "ascending"), ("reason", "ascending")]


def rejected(store: Store, joined: Joined) -> pa.Table:
    """One row for each (`REJECT_SCHEMA`), sorted by stage, id and reason."""
    return pa.concat_tables([store.rejects(), *_left_out(store, joined)]).sort_by(_ORDER).combine_chunks()


def _left_out(store: Store, joined: Joined) -> Iterator[pa.Table]:
    columns = ["id", "keep", "origin", "category", "generator_or_source", "reason", "detail"]
    places, keys = joined.left_out
    start = 0
    for batch in store.plan_batches(columns):
        mine = np.flatnonzero(~np.asarray(batch["keep"].to_numpy(zero_copy_only=False), dtype=bool))
        rows = batch.take(pa.array(mine))
        at = np.searchsorted(places, start + mine)
        known = np.zeros(len(mine), dtype=bool) if not len(places) else places[np.minimum(at, len(places) - 1)] == start + mine
        said = pc.fill_null(rows["reason"], "")
        told = {
            "stage": pa.repeat("balance", len(mine)),
            "source_key": keys.take(pa.array(at, mask=~known)),
            "reason": pc.if_else(pc.equal(said, ""), "not-kept", said),
            "detail": pc.fill_null(rows["detail"], ""),
        }
        yield pa.table({name: told[name] if name in told else rows[name] for name in REJECT_SCHEMA.names}).cast(REJECT_SCHEMA)
        start += batch.num_rows
