"""Near-duplicates among hashes: CPU time and peak memory of every pair within a radius, beside brute force and the bounds.

`python tests/bench/bench_twins.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is better. Every
search is a process of its own, so that its peak is its own; the peak is of the whole process, Python and numpy included.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np

Row = dict[str, object]

SEARCH = """
import json, resource, sys, time
import numpy as np
import scipy.sparse.csgraph
from imaginet_build import dedup
n, radius, memory = map(int, sys.argv[1:])
hashes = np.random.default_rng(3).integers(0, 2**64, n, dtype=np.uint64)
start = time.process_time()
groups = dedup.groups(hashes, radius, **({"memory": memory} if memory else {}))
seconds = time.process_time() - start
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, int(groups.sum())]))
"""


def search(n: int, radius: int, memory: int = 0) -> tuple[float, float, int]:
    """CPU seconds, peak megabytes of the process and a checksum of the groups."""
    one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SEARCH, str(n), str(radius), str(memory)]
    seconds, peak, total = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=one).stdout)
    return seconds, peak, total


def brute(hashes: np.ndarray, radius: int, tile: int = 1 << 14) -> float:
    """CPU seconds for every pair compared: blocked xor and popcount in numpy."""
    start = time.process_time()
    for row in range(len(hashes)):
        for at in range(row + 1, len(hashes), tile):
            int((np.bitwise_count(hashes[at : at + tile] ^ hashes[row]) <= radius).sum())
    return time.process_time() - start


def beside_brute_force(n: int = 200_000, radius: int = 6) -> Row:
    """Brute force is timed on a tenth of the rows and counted up: its cost is known exactly."""
    part = n // 10
    hashes = np.random.default_rng(1).integers(0, 2**64, part, dtype=np.uint64)
    pairs = [(search(n, radius)[0], brute(hashes, radius) * (n / part) ** 2) for _ in range(3)]
    ours, theirs = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    name = (
        f"near-duplicates among {n:,} hashes, radius {radius}, beside brute force (numpy popcount, a tenth of the rows timed)"
    )
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    return {"name": name, "ours": ours, "peer": theirs, "ratio": ratio, "unit": "CPU s"}


def bounds() -> list[Row]:
    """What issue 5 allows: seconds of CPU, and megabytes of the whole process."""
    rows: list[Row] = []
    for n, radius, most, room in ((1_000_000, 6, 10, 300), (1_000_000, 8, 40, None), (10_000_000, 6, 150, 2000)):
        seconds, peak, _ = search(n, radius)
        name = f"near-duplicates among {n:,} hashes, radius {radius}, beside the bound"
        rows.append({"name": name, "ours": seconds, "peer": most, "ratio": most / seconds, "unit": "CPU s"})
        if room is not None:
            rows.append({"name": f"{name}: peak memory", "ours": peak, "peer": room, "ratio": room / peak, "unit": "MB"})
    return rows


def on_disk(n: int = 4_000_000, radius: int = 6, memory: int = 16 << 20) -> list[Row]:
    """The same search with little memory for its working arrays, which then lie on disk."""
    free, bound = search(n, radius), search(n, radius, memory)
    assert free[2] == bound[2], "the groups are not the same"
    name = f"near-duplicates among {n:,} hashes, radius {radius}, sorted on disk with {memory >> 20} MB, beside in memory"
    return [
        {"name": name, "ours": bound[0], "peer": free[0], "ratio": free[0] / bound[0], "unit": "CPU s"},
        {"name": f"{name}: peak memory", "ours": bound[1], "peer": free[1], "ratio": free[1] / bound[1], "unit": "MB"},
    ]


def growth(sizes: tuple[int, ...] = (250_000, 1_000_000, 4_000_000), radius: int = 6) -> Row:
    """How time grows with the number of hashes: 1 is linear, 2 is brute force."""
    seconds = [min(search(n, radius)[0] for _ in range(2)) for n in sizes]
    slope = float(np.polyfit([math.log(n) for n in sizes], [math.log(s) for s in seconds], 1)[0])
    shown = ", ".join(f"{n:,}: {s:.2f} s" for n, s in zip(sizes, seconds, strict=True))
    name = f"near-duplicates, radius {radius}: growth exponent ({shown}), beside brute force"
    return {"name": name, "ours": slope, "peer": 2.0, "ratio": 2.0 / slope, "unit": "exponent"}


def main() -> None:
    print(json.dumps([beside_brute_force(), growth(), *bounds(), *on_disk()], indent=1))


if __name__ == "__main__":
    main()
