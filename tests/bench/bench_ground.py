"""The ground's speed beside its peers, on the same input, in the same process, on one core.

`python tests/bench/bench_ground.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is faster. Facts
are timed image by image in CPU time, ours and the peer's in turn: the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import io
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from imaginet_build import dedup, images

Row = dict[str, object]
SIDE = 1024


def photographs(count: int = 24) -> list[bytes]:
    """JPEGs of 1024 x 1024 at quality 90: crops of the corpus beside the repository, or made up where it is absent."""
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    found: list[bytes] = []
    for path in sorted(data.rglob("*.jpg")) + sorted(data.rglob("*.webp")):
        with Image.open(path) as image:
            if min(image.size) >= SIDE:
                found.append(images.encode(image.convert("RGB").crop((0, 0, SIDE, SIDE)), "jpeg", 90))
        if len(found) == count:
            return found
    random = np.random.default_rng(0)
    while len(found) < count:
        coarse = Image.fromarray(random.integers(0, 256, (48, 48, 3)).astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        grain = np.asarray(coarse, dtype=np.int16) + random.integers(-12, 13, (SIDE, SIDE, 3))
        found.append(images.encode(Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)), "jpeg", 90))
    return found


def interleaved(
    ours: Callable[[bytes], object], peer: Callable[[bytes], object], inputs: list[bytes], rounds: int
) -> tuple[float, float, float]:
    """Seconds an item of both, and the median over the rounds of peer's seconds by ours."""
    ours(inputs[0]), peer(inputs[0])
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        mine = theirs = 0.0
        for data in inputs:
            start = time.process_time()
            ours(data)
            middle = time.process_time()
            peer(data)
            mine, theirs = mine + middle - start, theirs + time.process_time() - middle
        times.append((mine / len(inputs), theirs / len(inputs)))
    ratio = statistics.median(theirs / mine for mine, theirs in times)
    return statistics.median(m for m, _ in times), statistics.median(t for _, t in times), ratio


def facts(rounds: int = 5) -> list[Row]:
    """Every fact of an image beside the one hash of `imagehash.phash(Image.open(…))`."""

    def peer(data: bytes) -> object:
        return imagehash.phash(Image.open(io.BytesIO(data)))

    rows: list[Row] = []
    for codec, inputs in (
        ("JPEG", photographs()),
        ("PNG", [images.encode(images.decode(d), "png") for d in photographs()[:4]]),
    ):
        mine, theirs, ratio = interleaved(images.measure, peer, inputs, rounds)
        name = f"facts of a {SIDE} x {SIDE} {codec}, beside imagehash.phash"
        rows.append({"name": name, "ours": 1 / mine, "peer": 1 / theirs, "ratio": ratio, "unit": "images/s"})
    return rows


def brute(hashes: np.ndarray, radius: int, tile: int = 1 << 14) -> int:
    """Pairs within the radius, every pair compared: blocked xor and popcount in numpy."""
    found = 0
    for row in range(len(hashes)):
        for at in range(row + 1, len(hashes), tile):
            found += int((np.bitwise_count(hashes[at : at + tile] ^ hashes[row]) <= radius).sum())
    return found


def spent(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def near_duplicates(n: int = 200_000, radius: int = 6) -> list[Row]:
    """The search beside brute force, which is timed on a tenth of the rows and counted up: its cost is known exactly."""
    hashes = np.random.default_rng(1).integers(0, 2**64, n, dtype=np.uint64)
    dedup.groups(hashes[:1000], radius)
    mine, theirs = [], []
    for _ in range(3):
        mine.append(spent(lambda: dedup.groups(hashes, radius)))
        part = n // 10
        theirs.append(spent(lambda part=part: brute(hashes[:part], radius)) * (n / part) ** 2)
    ratio = statistics.median(t / m for m, t in zip(mine, theirs, strict=True))
    name = (
        f"near-duplicates among {n:,} hashes, radius {radius}, beside brute force (numpy popcount, a tenth of the rows timed)"
    )
    return [{"name": name, "ours": statistics.median(mine), "peer": statistics.median(theirs), "ratio": ratio, "unit": "CPU s"}]


def growth(sizes: tuple[int, ...] = (125_000, 500_000, 2_000_000), radius: int = 6) -> list[Row]:
    """How time grows with the number of hashes: 1 is linear, 2 is brute force."""
    random = np.random.default_rng(2)
    seconds = []
    for n in sizes:
        hashes = random.integers(0, 2**64, n, dtype=np.uint64)
        seconds.append(min(spent(lambda hashes=hashes: dedup.groups(hashes, radius)) for _ in range(2)))
    slope = float(np.polyfit([math.log(n) for n in sizes], [math.log(s) for s in seconds], 1)[0])
    name = f"near-duplicates, radius {radius}: growth exponent from {sizes[0]:,} to {sizes[-1]:,} hashes, beside brute force"
    return [{"name": name, "ours": slope, "peer": 2.0, "ratio": 2.0 / slope, "unit": "exponent"}]


def large() -> list[Row]:
    """The issue's absolute bounds: a million hashes at radius 6 (10 s of CPU) and 8 (40 s)."""
    rows: list[Row] = []
    hashes = np.random.default_rng(3).integers(0, 2**64, 1_000_000, dtype=np.uint64)
    for radius, bound in ((6, 10.0), (8, 40.0)):
        seconds = spent(lambda radius=radius: dedup.groups(hashes, radius))
        name = f"near-duplicates among 1,000,000 hashes, radius {radius}, beside the bound"
        rows.append({"name": name, "ours": seconds, "peer": bound, "ratio": bound / seconds, "unit": "CPU s"})
    return rows


def rows() -> list[Row]:
    """All of them, in order."""
    with threadpool_limits(1):
        return [*facts(), *near_duplicates(), *growth(), *large()]


if __name__ == "__main__":
    json.dump(rows(), sys.stdout, indent=2)
    sys.stdout.write("\n")
