"""Balancing with an earlier version in place: what was published stays as it is, and newcomers find their place around it."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imaginet_build.balancing.choice import Before
from imaginet_build.balancing.equalize import Looks, Views
from imaginet_build.balancing.pool import Flags, Pool, Rows
from imaginet_build.duplicates.twins import Twins
from imaginet_build.errors import UsageError
from imaginet_build.records import ORIGINS, SPLITS
from imaginet_build.releases.living import Previous

log = logging.getLogger(__name__)

TORN = "split-conflict"
"""The reason of a newcomer whose group stands in two splits already, or in one where it may not be."""

_WORDS = ("codec", "subsampling", "first_subsampling")


def hold(pool: Pool, previous: Previous) -> None:
    """Mark the rows of `previous`: nothing but a bar (`Pool.bar`) leaves them out from now on.

    Raises `UsageError` for a row whose image is no longer the one that was published.
    """
    place = _place(pool, previous.staying["id"])
    pool.frozen = place >= 0
    born = dict(zip(previous.rows["id"].to_pylist(), previous.rows["source_sha256"].to_pylist(), strict=True))
    now = pool.table["sha256"].to_pylist()
    rows = np.flatnonzero(pool.frozen).tolist()
    if other := [pool.ids[row] for row in rows if born[pool.ids[row]] != now[row]]:
        raise UsageError(
            f"{len(other)} images are not those that {previous.folder} was made of, such as {other[0]}: its bytes have "
            "changed. Put the old ones back, or collect the changed ones under names of their own"
        )
    if absent := previous.staying.num_rows - len(rows):
        log.warning(
            "%d of %d rows of %s are in no part of the work folder: they stay in the release, but new images cannot be "
            "compared with them. To have them compared: build-imaginet sketch %s --out previous.parquet, then "
            "--set 'balance.sketches=[\"previous.parquet\"]' --set balance.contaminated=reject",
            absent,
            previous.staying.num_rows,
            previous.folder,
            previous.folder,
        )


def follow(pool: Pool, found: Twins, previous: Previous, held: Flags) -> Rows:
    """Bind newcomers to the split in which older images of their group stand: (n,) its place in `SPLITS`, else -1.

    Older images get back their split and the name of their group, and newcomers take it over. A newcomer whose group stands in
    several splits, or outside the test split although it is held out for it (`held`), is rejected.
    """
    old = np.flatnonzero(pool.frozen)
    place = _place(pool, previous.staying["id"])[old]
    decided = [previous.staying[name].to_pylist() for name in ("split", "group")]
    pool.split[old], pool.group[old] = (np.array([column[i] for i in place.tolist()], dtype=object) for column in decided)
    home: dict[int, tuple[str, str]] = {}
    torn: dict[int, set[str]] = {}
    for row, group in zip(old.tolist(), found.group[old].tolist(), strict=True):
        mine = (str(pool.split[row]), str(pool.group[row]))
        home[group] = min(home.get(group, mine), mine)
        if home[group][0] != mine[0]:
            torn.setdefault(group, {home[group][0]}).add(mine[0])

    bound = np.full(len(pool.ids), -1, dtype=np.int64)
    refused: dict[int, str] = {}
    for row in np.flatnonzero(~pool.frozen & np.isin(found.group, list(home))).tolist():
        group = int(found.group[row])
        split, name = home[group]
        if pool.reason[row] is not None:
            continue
        if group in torn:
            refused[row] = f"images of its group stand in {' and '.join(sorted(torn[group]))} since {previous.version}"
        elif held[row] and split != "test":
            refused[row] = f"it is held out for the test split, and its group stands in {split} since {previous.version}"
        else:
            bound[row], pool.group[row] = SPLITS.index(split), name
    pool.reject(np.array(list(refused), dtype=np.int64), TORN, refused.values())
    if doubt := int((pool.frozen & (found.conflict >= 0)).sum()):
        log.warning(
            "%d published images resemble one of the other class; they stay, and the newcomers among those are left out "
            "(twins.json). To take a published image out, withdraw it",
            doubt,
        )
    return bound


def before(pool: Pool, rows: Rows, bound: Rows) -> Before:
    """What the choice among the newcomers `rows` has to know."""
    old = np.flatnonzero(pool.frozen)
    counts = Counter(zip(*(column[old].tolist() for column in (pool.category, pool.split, pool.origin)), strict=True))
    kept = {(c, s): max(counts[c, s, str(origin)] for origin in ORIGINS) for c, s, _ in counts}
    return Before(bound[rows], kept)


def views(pool: Pool, previous: Previous) -> list[tuple[Rows, Views]]:
    """The views of older images as they were published."""
    rows = np.flatnonzero(pool.frozen)
    if not len(rows):
        return []
    plan = previous.staying.take(pa.array(_place(pool, previous.staying["id"])[rows]))
    column = {
        name: np.asarray(pc.fill_null(plan[name], "" if name in _WORDS else 0).to_numpy())
        for name in (*_WORDS, "left", "top", "width", "quality", "first_quality")
    }
    looks = Looks(column["width"], column["codec"], column["quality"], column["subsampling"])
    return [(rows, Views(column["left"], column["top"], looks, column["first_quality"], column["first_subsampling"]))]


def _place(pool: Pool, ids: pa.ChunkedArray) -> Rows:
    """(n,) the place of every image among `ids`, -1 for none."""
    place = pc.index_in(pool.table["id"], value_set=ids.combine_chunks())
    return np.asarray(pc.fill_null(place, -1).to_numpy(), dtype=np.int64)
