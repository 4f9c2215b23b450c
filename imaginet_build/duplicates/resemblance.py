"""What `balance` knows of likeness: the radius and why, a closer look, what a model sees, what a public benchmark holds, and
whether the facts are those of the bytes."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imaginet_build import dedup, images
from imaginet_build.duplicates import contamination, embedding, twins
from imaginet_build.errors import BadImage
from imaginet_build.recipe import Balance
from imaginet_build.records import random_of
from imaginet_build.store import Store, StoreError

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Measured = dict[str, object] | str
Map = Callable[[Callable[[tuple[str, bytes]], Measured], Iterable[tuple[str, bytes]]], Iterable[Measured]]
"""How images are measured: the built-in `map`, or one that keeps the order and spreads the work."""

BLANK = 1.0


def radius_of(n: int, settings: Balance) -> tuple[int, str]:
    """The radius for `n` images, and why it is that."""
    radius = dedup.default_radius(n) if settings.radius == "auto" else settings.radius
    by_chance = dedup.by_chance(n, radius)
    chosen = (
        f"chosen for {n:,} images: the widest, up to 6, at which chance alone adds at most 2.5 false pairs a million images"
        if settings.radius == "auto"
        else f"set by balance.radius; for {n:,} images the default is {dedup.default_radius(n)}"
    )
    return radius, f"{chosen} (here {by_chance:.2g} in all, of evenly spread hashes); 256 bits confirm every pair"


def closer(store: Store, table: pa.Table) -> twins.Closer:
    """Near by 64 bits must also be near by 256: flat and alike pictures meet by chance in the shorter hash.

    `table`: id and sha256. An image that cannot be read, or is not the one its facts are of, resembles nothing: publishing,
    which decodes everything, rejects it with its reason.
    """
    ids: list[str] = table["id"].to_pylist()
    known = table["sha256"]

    def look(rows: Rows, mirrored: bool) -> NDArray[np.uint64]:
        log.info("a closer look at %d images that resemble others", len(rows))
        place = {ids[row]: i for i, row in enumerate(rows.tolist())}
        hashes = np.zeros((len(rows), 4), dtype=np.uint64)
        for name, data in store.images(store.in_part_order(place)):
            i = place[name]
            try:
                if hashlib.sha256(data).hexdigest() != known[int(rows[i])].as_py():
                    raise BadImage("contradicted", _lie(store, name, "sha256"))
                hashes[i] = images.confirm_hash(data, mirrored)
            except BadImage as error:
                log.warning("%s cannot be read as its facts have it: %s", name, error)
                hashes[i] = random_of(name, "unreadable").integers(0, 2**64, 4, dtype=np.uint64)
        return hashes

    return look


def find(store: Store, table: pa.Table, settings: Balance, radius: int, rank: Rows) -> tuple[twins.Twins, dict[str, int]]:
    """Twins, conflicts and groups, and how many images a model found alike, in how many groups, where one was asked."""
    seen = _seen(store, table, settings) if settings.embedding else None
    found = twins.find(
        table, radius, closer(store, table), rank, also=seen, memory=settings.memory_mb * 2**20, folder=store.root
    )
    if seen is None:
        return found, {}
    sizes = [size for size in Counter(seen.tolist()).values() if size > 1]
    return found, {"embedding_groups": len(sizes), "embedding_images": sum(sizes)}


def _seen(store: Store, table: pa.Table, settings: Balance) -> Rows:
    assert settings.embedding is not None
    vectors = embedding.vectors_of(store, table["id"].to_pylist(), settings.embedding)
    return embedding.alike(vectors, settings.similarity)


def contaminated(
    store: Store, table: pa.Table, sketches: Sequence[Path | str], radius: int, memory: int = dedup.MEMORY
) -> list[contamination.Contamination]:
    """What each sketch holds of the work folder's images. `memory`: bytes for the search."""
    if not sketches:
        return []
    read = [contamination.read(path) for path in sketches]
    own = contamination.Hashed(
        table["id"].to_pylist(),
        np.asarray(table["sha256"].to_numpy(zero_copy_only=False), dtype=object),
        np.asarray(table["pixel_hash"].to_numpy(zero_copy_only=False), dtype=object),
        table["phash"].to_numpy().astype(np.uint64),
        table["phash_mirror"].to_numpy().astype(np.uint64),
        np.asarray(pc.equal(table["codec"], "jpeg").to_numpy(), dtype=bool),
        table["contrast"].to_numpy() < BLANK,
        closer(store, table),
    )
    return contamination.report(own, read, radius, memory=memory, folder=store.root)


def verify(store: Store, map: Map = map) -> int:
    """Measure every image again: the number of images whose facts are those of their bytes, which is all of them.

    Raises `StoreError` naming the first part whose facts contradict its bytes, and the facts.
    """
    table = store.facts().select(_MEASURED)
    known = {row["id"]: row for row in table.to_pylist()}
    order = store.in_part_order(known)
    lies: list[tuple[str, str]] = []
    for name, measured in zip(order, map(_measured, store.images(order)), strict=True):
        if isinstance(measured, str):
            lies.append((name, measured))
            continue
        wrong = [field for field, value in measured.items() if field in known[name] and not _same(value, known[name][field])]
        if wrong:
            lies.append((name, ", ".join(wrong)))
    if lies:
        more = f", and of {len(lies) - 1} more images" if len(lies) > 1 else ""
        raise StoreError(_lie(store, *lies[0], more))
    return len(known)


_MEASURED = [
    *("id", "sha256", "nbytes", "codec", "width", "height", "mode", "quality", "qtables", "subsampling", "progressive"),
    *("pixel_hash", "phash", "phash_mirror", "dhash", "contrast"),
]


def _measured(item: tuple[str, bytes]) -> Measured:
    try:
        return asdict(images.measure(item[1]))
    except BadImage as error:
        return f"it cannot be read: {error}"


def _same(measured: object, stated: object) -> bool:
    # The contrast is stored with 32 bits.
    if isinstance(measured, float) and isinstance(stated, float):
        return bool(np.float32(measured) == np.float32(stated))
    return measured == stated


def _lie(store: Store, name: str, what: str, more: str = "") -> str:
    part = next((path for path in store.parts() if name in store.names(path)), store.root / "parts")
    return (
        f"the facts of image {name} in {part} contradict its bytes ({what}){more}: the part was altered, or was measured by "
        "another release. Delete it and run the command that made it again"
    )
