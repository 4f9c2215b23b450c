"""Collects and generates till it is killed: `python storm_driver.py WORK IMAGES WORKERS [tiny] [shard=1/2] [order=5] [batch=3]`

It runs where the cards lie. `STORM_TRAP="linking after 2"` (a phase, where in it, how often it is passed before) makes the
first of its processes to get there say so in the file `STORM_MARK` and stand still until somebody kills it. Every process
imports this module first, as spawned processes do with the main one, and so has the trap in it.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import imaginet_build.collect as collecting
from imaginet_build import images
from imaginet_build.collect import collect
from imaginet_build.engine import Pool
from imaginet_build.generate import generate
from imaginet_build.recipe import Collect, Generate
from imaginet_build.store import Store

PHASES: dict[str, tuple[object, str]] = {
    "decoding": (images, "see"),
    "encoding": (images, "encode"),
    "writing": (pq, "write_table"),
    "linking": (os, "link"),
}
"""What is done in each phase: the function that does it."""

PLACES = {
    "decoding": ("before", "after"),
    "encoding": ("before", "after"),
    "writing": ("before", "half", "after"),
    "linking": ("before", "after"),
}
"""Where in a phase one can stand still; half: with half of the file's bytes written."""


def set_trap(phase: str, place: str, passes: int, mark: str) -> None:
    """Stand still at `place` of `phase` when it has been passed so often."""
    owner, name = PHASES[phase]
    real: Callable[..., Any] = getattr(owner, name)
    left = passes

    def stand_still() -> None:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        time.sleep(300)

    def trapped(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            return real(*given, **named)
        if place == "before":
            stand_still()
        answer = real(*given, **named)
        if place == "half":
            os.truncate(given[1], Path(given[1]).stat().st_size // 2)
            stand_still()
            # Somebody else stood still first: this one goes on with a whole file.
            answer = real(*given, **named)
        elif place == "after":
            stand_still()
        return answer

    setattr(owner, name, trapped)


def entries(tiny: bool, order: int = 0, batch: int | None = None) -> list[Generate]:
    """What is drawn: bytes that depend on their whole batch, prompts with faults, real images drawn over. `order`: shuffles
    them; a network comes last but for one order in eight, for loading it takes longer than all the rest."""
    made = [
        Generate(generator="neighbourly", category="photos", count=40, batch=batch or 4, options={"delay": 0.01}),
        Generate(
            generator="painter", category="photos", count=8, batch=batch or 4, prompts="list.txt", options={"delay": 0.01}
        ),
        Generate(generator="copyist", category="photos", count=10, batch=batch or 5, options={"delay": 0.01}),
    ]
    random.Random(order).shuffle(made)
    network = [Generate(generator="tiny-gan", category="photos", count=4, batch=batch or 2)] if tiny else []
    return [*network, *made] if order % 8 == 7 else [*made, *network]


def main(work: str, source: str, workers: int, *more: str) -> None:
    """One run, from wherever an earlier one was killed."""
    said = dict(word.partition("=")[::2] for word in more)
    shard = tuple(map(int, said.get("shard", "1/1").split("/")))
    store, pool = Store(work), Pool(workers=workers)
    options = {"root": source, "origin": "real", "category": "photos"}
    collect(store, [Collect(source="folder", count=30, options=options)], 3, pool)
    wanted = entries("tiny" in said, int(said.get("order", 0)), int(said["batch"]) if "batch" in said else None)
    generate(store, wanted, 3, pool, trust=True, shard=(shard[0], shard[1]))


if trap := os.environ.get("STORM_TRAP"):
    the_phase, the_place, often = trap.split()
    set_trap(the_phase, the_place, int(often), os.environ["STORM_MARK"])

if __name__ == "__main__":
    # A few files a segment, so that there are many moments to be killed at.
    collecting.SEGMENT_IMAGES = 4
    main(str(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
