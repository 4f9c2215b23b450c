"""How long `balance` takes and how much memory, on facts made up for it: beside the issue's bounds, and how both grow.

`python tests/bench/bench_balance.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: better than the
bound. Each size runs in a process of its own, on one core; what is timed is CPU time of everything `balance` does, reading
the parts included. There is no other tool that does this: the peer is the bound that was promised.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, object]
SIZES = (50_000, 200_000, 1_000_000)
BOUNDS = {200_000: 60.0, 1_000_000: 300.0}
PART = 50_000


def facts(root: Path, n: int) -> None:
    """A work folder of `n` images that were never drawn: four categories, five sources (JPEG, sizes as they come), eight
    generators (PNG, three sizes), a prompt for every few synthetic images and a reconstruction of every twentieth
    photograph."""
    from imaginet_build.records import SCHEMA

    folder = root / "parts" / "collect"
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    categories = np.array(["faces", "paintings", "photos", "uncategorized"])
    for start in range(0, n, PART):
        i = np.arange(start, min(start + PART, n))
        m = len(i)
        synthetic = i % 2 == 1
        category = categories[(i // 2) % 4]
        side = np.array([512, 768, 1024])[chance.integers(0, 3, m)]
        width, height = (np.where(synthetic, side, chance.integers(200, 1600, m)) for _ in range(2))
        jpeg = ~synthetic & (chance.random(m) < 0.9)
        name = np.array([f"{k:032x}" for k in i])
        digest = np.array([f"{k:064x}" for k in i])
        prompt = [f"{kind} {k}" for kind, k in zip(category, chance.integers(0, max(n // 24, 1), m), strict=True)]
        aligned = (i // 2) % 20 == 0
        columns = {
            "id": name, "category": category, "source_key": name, "group": name, "sha256": digest, "pixel_hash": digest,
            "origin": np.where(synthetic, "synthetic", "real"), "family": pa.array(["sd"] * m, mask=~synthetic),
            "generator": pa.array([f"g{k}" for k in chance.integers(0, 8, m)], mask=~synthetic),
            "source": pa.array([f"s{k}" for k in chance.integers(0, 5, m)], mask=synthetic),
            "prompt": pa.array(prompt, mask=~synthetic | aligned), "pair_id": pa.array([f"{k // 2}" for k in i], mask=~aligned),
            "codec": np.where(jpeg, "jpeg", "png"), "width": width, "height": height,
            "quality": pa.array(chance.integers(60, 99, m), mask=~jpeg), "subsampling": pa.array(["4:2:0"] * m, mask=~jpeg),
            "phash": chance.integers(0, 2**64, m, dtype=np.uint64), "nbytes": np.full(m, 200_000),
            "phash_mirror": chance.integers(0, 2**64, m, dtype=np.uint64),
            "dhash": np.zeros(m, np.uint64), "contrast": np.full(m, 40.0),
            "licence": ["CC0-1.0"] * m, "revision": ["1"] * m, "params": ["{}"] * m, "extension": ["png"] * m,
            "mode": ["RGB"] * m,
            "progressive": np.zeros(m, bool), "metadata": [""] * m, "image": [b""] * m,
        }  # fmt: skip
        arrays = [
            pa.nulls(m, field.type) if field.name not in columns else pa.array(columns[field.name]).cast(field.type)
            for field in SCHEMA
        ]
        pq.write_table(pa.table(arrays, schema=SCHEMA), folder / f"{start:09}.parquet", compression="zstd")


def one(n: int) -> dict[str, float]:
    """CPU seconds and peak bytes of balancing `n` images, and what the facts' reader alone had reached before."""
    from imaginet_build.balance import balance
    from imaginet_build.recipe import Balance, Equalize
    from imaginet_build.store import Store

    logging.disable(logging.CRITICAL)  # the images are empty: every closer look at chance near-duplicates is said
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run([sys.executable, __file__, "facts", folder, str(n)], check=False)
        made.check_returncode()
        begun, idle = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        done = balance(Store(folder), Balance(), Equalize(), 0)
        seconds, peak = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if done.kept < 0.9 * n:
        raise SystemExit(f"only {done.kept} of {n} images were kept: the figure would be of another task")
    return {"n": n, "seconds": seconds, "bytes": 1024 * (peak - idle)}


def rows() -> list[Row]:
    """All of them, in order."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    found = []
    for n in SIZES:
        done = subprocess.run(
            [sys.executable, __file__, "one", str(n)], stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        found.append(json.loads(done.stdout))
    made: list[Row] = []
    for result in found:
        if result["n"] in BOUNDS:
            bound, seconds = BOUNDS[result["n"]], result["seconds"]
            name = f"balance of {result['n']:,} rows, beside the bound"
            made.append({"name": name, "ours": seconds, "peer": bound, "ratio": bound / seconds, "unit": "CPU s"})
    x = [math.log(result["n"]) for result in found]
    for key, what in (("seconds", "CPU time"), ("bytes", "memory")):
        slope = float(np.polyfit(x, [math.log(result[key]) for result in found], 1)[0])
        name = f"balance: growth exponent of {what} from {SIZES[0]:,} to {SIZES[-1]:,} rows (1 is linear)"
        made.append({"name": name, "ours": slope, "peer": 1.0, "ratio": 1 / slope, "unit": "exponent"})
    last = found[-1]
    made.append(
        {
            "name": "balance: memory per million rows",
            "ours": last["bytes"] / last["n"] * 1e6 / 1e9,
            "peer": None,
            "ratio": None,
            "unit": "GB",
        }
    )
    return made


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["facts", folder, count]:
            facts(Path(folder), int(count))
        case ["one", count]:
            json.dump(one(int(count)), sys.stdout)
        case _:
            json.dump(rows(), sys.stdout, indent=2)
            sys.stdout.write("\n")
