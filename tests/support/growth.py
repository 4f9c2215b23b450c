"""A work folder that grows: small images of named makers, balanced and published version after version."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imaginet_build import images
from imaginet_build.balance import balance
from imaginet_build.publish import Published, publish
from imaginet_build.recipe import Balance, Equalize
from imaginet_build.records import Record, make_id, random_of
from imaginet_build.releases import living
from imaginet_build.store import Store

SETTINGS = Balance(radius=4, splits={"train": 0.5, "test": 0.5})
LAW = Equalize(side=(64, 64), step=32, quality=(80, 90))


def record(maker: str, number: int, real: bool, category: str = "photos", **changes: Any) -> tuple[dict[str, object], bytes]:
    """One image of a maker: the row of its part, and its bytes."""
    name = f"{maker} {number}"
    coarse = random_of(name, "growth").integers(0, 256, (6, 7, 3), dtype=np.uint8)
    out = io.BytesIO()
    picture = Image.fromarray(coarse).resize((96, 88), Image.Resampling.BICUBIC)
    picture.save(out, "JPEG" if real else "PNG", **({"quality": 90} if real else {}))
    told: dict[str, Any] = {
        "id": make_id(maker, number), "origin": "real" if real else "synthetic", "category": category,
        "family": None if real else "gan", "generator": None if real else maker, "source": maker if real else None,
        "source_key": f"{maker}/{number}.jpg" if real else None, "licence": "CC0-1.0", "revision": "1",
        "prompt": None if real else f"{category} by {name}", "negative": None, "seed": None if real else number,
        "params": '{"batch": 4, "torch": "2.13"}', "pair_id": None, "group": name, "extension": "jpg" if real else "png",
    }  # fmt: skip
    data = out.getvalue()
    return Record(**told | changes, facts=images.measure(data)).row(), data


def add(store: Store, name: str, *makers: tuple[str, range, bool], **changes: Any) -> list[str]:
    """A part of images: (maker, numbers, real). Returns their ids."""
    made = [record(maker, number, real, **changes) for maker, numbers, real in makers for number in numbers]
    store.write_part("collect", name, [row for row, _ in made], [data for _, data in made])
    return [str(row["id"]) for row, _ in made]


def begun(root: Path, rows: int = 40, **options: Any) -> tuple[Store, Path]:
    """A work folder and the first version of its release, `rows` images of each class."""
    store = Store(root / "w")
    add(store, "a", ("album", range(rows), True), ("gan-a", range(rows), False))
    balance(store, SETTINGS, LAW, 0)
    publish(store, root / "v1", **{"rows_per_file": 10} | options)
    return store, root / "v1"


def grown(store: Store, previous: Path, out: Path, withdrawn: frozenset[str] = frozenset(), **options: Any) -> Published:
    """The next version, balanced around `previous`."""
    before = living.read(previous)
    balance(store, SETTINGS, LAW, 0, previous=before)
    return publish(store, out, previous=before.without(withdrawn), **{"rows_per_file": 10} | options)
