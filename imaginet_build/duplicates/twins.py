"""Who is a twin of whom, and what must stay together.

Twins are near-duplicates of the same origin: one of them is kept. Near-duplicates across the origins would carry both labels:
both are rejected as `label-conflict`, and so is every twin of theirs. Rows of one picture (a pair, crops of one photograph) are
grouped and never removed as twins of each other, because an autoencoder's reconstruction is a near-duplicate on purpose; nor is
the reconstruction of a photograph's twin a conflict.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build import dedup
from imaginet_build.duplicates.connect import Forest
from imaginet_build.duplicates.nearness import SLACK, STRICT, SURE, Closer, Flags, Hashes, Index, Near, Rows, codes, same

__all__ = ["SLACK", "STRICT", "SURE", "Closer", "Hashes", "Rows", "Twins", "find"]


@dataclass(frozen=True, slots=True)
class Twins:
    """What was found among n rows. `twin_of[i]`: the kept row that row i is a twin of, else -1. `conflict[i]`: a row of the
    other origin that row i or a twin of it resembles, else -1. `near`, `group`: (n,) the component of each row over
    near-duplicates alone, and over everything that must not straddle a split; a component is named by its first row."""

    twin_of: Rows
    conflict: Rows
    near: Rows
    group: Rows


def find(
    table: pa.Table,
    radius: int,
    closer: Closer | None = None,
    rank: Rows | None = None,
    *,
    also: Rows | None = None,
    memory: int = dedup.MEMORY,
    folder: Path | None = None,
) -> Twins:
    """Twins, conflicts and groups of a facts table (columns id, origin, codec, pixel_hash, phash, phash_mirror, pair_id, group,
    prompt, width, height; sorted by id). `radius`: bits of the 64-bit pHash that may differ, also against mirror images (both
    ways), and `SLACK` more between a JPEG and what is none, unless it is 0.

    Exact copies are always near; other pairs are confirmed by 256 bits where `closer` is given. `rank`, (n,): of twins the one
    of the lowest rank stays; rows of negative rank (blank ones) take no part. Within a rank, those stay whose picture has
    images of both origins, then the larger picture, then the first by id. `also`, (n,): rows of one number belong into one
    group, for another reason than these columns know. `memory`, `folder`: as in `dedup.groups`. Raises `UsageError` where more
    than `PAIRS` pairs are near.
    """
    n = table.num_rows
    rank = np.zeros(n, dtype=np.int64) if rank is None else rank
    synthetic = np.asarray(pc.equal(table["origin"], "synthetic").to_numpy(), dtype=bool)
    picture = dedup.components(n, np.concatenate([same(codes(table["group"])), same(codes(table["pair_id"]))]))
    near = Near(table, radius, closer, rank >= 0, memory, folder)
    busy = [row for row in _best_first(table, picture, synthetic, rank) if near.busy[row]]

    twin_of = np.full(n, -1, dtype=np.int64)
    stay = (Index(near), Index(near))
    more = Forest(n)
    for row in busy:
        own = stay[int(synthetic[row])]
        like = own.like(row, picture)
        if not like:
            own.add(row, picture)
            continue
        twin_of[row] = like[0]
        if len(like) > 1:
            more.add(np.stack([np.full(len(like) - 1, row), like[1:]], axis=1))
    twins = np.stack([np.flatnonzero(twin_of >= 0), twin_of[twin_of >= 0]], axis=1)

    # A pair of a photograph and its reconstruction, and a twin of either: still one picture, not two labels.
    picture = dedup.components(n, np.concatenate([same(picture), twins]))
    del stay
    every = (Index(near), Index(near))
    for row in busy:
        every[int(synthetic[row])].add(row, picture)
    conflict = np.full(n, -1, dtype=np.int64)
    for row in busy:
        like = every[1 - int(synthetic[row])].like(row, picture, first=True)
        conflict[row] = like[0] if like else -1
    found = np.stack([np.flatnonzero(conflict >= 0), conflict[conflict >= 0]], axis=1)
    # Whose own search ended elsewhere is in conflict all the same; and so are all twins of such a row.
    lonely = found[conflict[found[:, 1]] < 0]
    conflict[lonely[:, 1]] = lonely[:, 0]
    for left, right in ((twins[:, 0], twins[:, 1]), (twins[:, 1], twins[:, 0])):
        doubt = (conflict[left] >= 0) & (conflict[right] < 0)
        conflict[right[doubt]] = conflict[left[doubt]]

    links = np.concatenate([near.copies(), twins, found, np.stack([np.arange(n), more.label()], axis=1)])
    together = [links, same(picture), same(codes(_wording(table["prompt"]))), same(near.looks()), *near.crowds(table["id"])]
    together += [] if also is None else [same(also)]
    return Twins(twin_of, conflict, dedup.components(n, links), dedup.components(n, np.concatenate(together)))


def _wording(prompts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Prompts without their capitals and spacing, which two lists may write in two ways."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(prompts), r"\s+", " "))


def _best_first(table: pa.Table, picture: Rows, synthetic: Flags, rank: Rows) -> list[int]:
    """Rows in the order in which they may stay; the rows of one picture follow each other, so that it stays whole."""
    n = len(picture)
    both = np.zeros((n, 2), dtype=bool)
    both[picture, synthetic.astype(int)] = True
    alone = ~(both[:, 0] & both[:, 1])[picture]
    area = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy()
    largest = np.zeros(n, dtype=np.int64)
    np.maximum.at(largest, picture, area)
    order = np.lexsort((np.arange(n), -area, picture, -largest[picture], alone, rank))
    return [int(row) for row in order if rank[row] >= 0]
