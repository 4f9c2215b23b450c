"""Collects and generates until it is killed: `python storm_driver.py WORK IMAGES WORKERS [tiny]`, where the cards lie."""

from __future__ import annotations

import sys
from pathlib import Path

from imaginet_build.collect import collect
from imaginet_build.engine import Pool
from imaginet_build.generate import generate
from imaginet_build.recipe import Collect, Generate
from imaginet_build.store import Store


def entries(tiny: bool) -> list[Generate]:
    """What is drawn: bytes that depend on their whole batch, prompts with faults, real images drawn over."""
    made = [
        Generate(generator="neighbourly", category="photos", count=40, batch=4, options={"delay": 0.01}),
        Generate(generator="painter", category="photos", count=8, batch=4, prompts="list.txt", options={"delay": 0.01}),
        Generate(generator="copyist", category="photos", count=10, batch=5, options={"delay": 0.01}),
    ]
    return [*made, Generate(generator="tiny-gan", category="photos", count=4, batch=2)] if tiny else made


def main(work: str, images: str, workers: int, tiny: bool) -> None:
    """One run, from wherever an earlier one was killed."""
    store, pool = Store(work), Pool(workers=workers)
    options = {"root": images, "origin": "real", "category": "photos"}
    collect(store, [Collect(source="folder", count=30, options=options)], 3, pool)
    generate(store, entries(tiny), 3, pool, trust=True)


if __name__ == "__main__":
    # A few files a segment, so that there are many moments to be killed at.
    import imaginet_build.collect as module

    module.SEGMENT_IMAGES = 4
    main(str(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), "tiny" in sys.argv[4:])
