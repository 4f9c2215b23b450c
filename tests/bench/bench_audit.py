"""The audit's cost: CPU seconds and peak memory of lists and of measured facts, how both grow, and the pixel probes' price.

`python tests/bench/bench_audit.py` prints JSON rows {name, ours, peer, ratio, unit}. No peer measures shortcuts; where `peer`
is given it is what the same work costs without it (measuring the images), or linear growth. Every size is a process of its
own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

Row = dict[str, object]
SIZES = (50_000, 200_000, 1_000_000)

ONE = """
import json, resource, sys, time
import numpy as np, pyarrow as pa
from imaginet_build.audit import audit, audit_facts
from imaginet_build.auditing.facts import FACTS, Target
import pandas, scipy.stats, sklearn.ensemble
kind, n, place = sys.argv[1], int(sys.argv[2]), sys.argv[3]
random = np.random.default_rng(0)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if kind == "list":
    origin, category = random.integers(0, 2, n), random.integers(0, 4, n)
    names = np.array(["jpg", "png", "webp", "JPEG"])[np.where(random.random(n) < 0.3, random.integers(0, 4, n), origin)]
    maker = np.where(origin == 0, 8, random.integers(0, 8, n))
    family = np.where(origin == 0, 4, maker % 4)
    with open(place, "w") as file:
        file.writelines(f"./a/{i}.{e},{o},{c},{f},{m}\\n" for i, (e, o, c, f, m) in enumerate(
            zip(names, origin, category, family, maker, strict=True)))
    run = lambda: audit(place)
else:
    origin = np.arange(n) % 2
    quality = random.integers(70, 96, n)
    columns = {
        "path": [f"{i}.jpg" for i in range(n)], "origin": np.where(origin, "synthetic", "real").tolist(),
        "content_type": np.array(["photos", "faces", "paintings", "uncategorized"])[random.integers(0, 4, n)].tolist(),
        "generator": np.where(origin, np.array([f"g{k}" for k in range(8)])[random.integers(0, 8, n)], None).tolist(),
        "group": [f"g{i}" for i in range(n)], "extension": ["jpg"] * n, "codec": ["jpeg"] * n, "quality": quality,
        "qtables": [f"q{q}" for q in quality], "subsampling": np.array(["4:2:0", "4:4:4"])[random.integers(0, 2, n)].tolist(),
        "progressive": [False] * n, "width": random.integers(16, 64, n) * 16, "height": random.integers(16, 64, n) * 16,
        "mode": ["RGB"] * n, "metadata": np.where(random.random(n) < 0.1, "exif", "").tolist(),
        "nbytes": random.integers(9000, 90000, n),
    }
    table = pa.table({f.name: pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in FACTS})
    del columns
    run = lambda: audit_facts(Target("facts", "folder", table))
start = time.process_time()
done = run()
print(json.dumps([time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024,
                  done.gate.verdict, len(done.probes)]))
"""


def one(kind: str, rows: int, place: Path) -> tuple[float, float]:
    """CPU seconds and megabytes above the interpreter's own of one audit."""
    done = subprocess.run(
        [sys.executable, "-c", ONE, kind, str(rows), str(place)], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds, megabytes, _, _ = json.loads(done.stdout)
    return seconds, megabytes


def growth(kind: str, sizes: tuple[int, ...], place: Path) -> list[Row]:
    rows: list[Row] = []
    found = []
    for n in sizes:
        seconds, megabytes = one(kind, n, place)
        found.append(seconds)
        what = "an annotation list" if kind == "list" else "measured facts (21 probes)"
        rows.append({"name": f"audit of {what} of {n:,} rows", "ours": seconds, "unit": "CPU s"})
        rows.append({"name": f"audit of {what} of {n:,} rows, memory", "ours": megabytes, "unit": "MB"})
    slope = float(np.polyfit([math.log(n) for n in sizes], [math.log(s) for s in found], 1)[0])
    name = f"audit of {kind}: growth exponent from {sizes[0]:,} to {sizes[-1]:,} rows, beside linear"
    return [*rows, {"name": name, "ours": slope, "peer": 1.0, "ratio": 1.0 / slope, "unit": "exponent"}]


def pixels(count: int = 60) -> list[Row]:
    """What the pixel probes add to measuring an image (the corpus beside the repository, or noise where it is absent)."""
    from imaginet_build import images
    from imaginet_build.auditing.facts import Look, measure

    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    found = sorted(p for p in data.rglob("*") if p.suffix in (".jpg", ".png", ".webp"))
    held = [p.read_bytes() for p in found[:: max(1, len(found) // count)]]
    if not held:
        from PIL import Image

        random = np.random.default_rng(0)
        held = [images.encode(Image.fromarray(random.integers(0, 256, (512, 512, 3), np.uint8)), "jpeg") for _ in range(count)]
    measure(Look(held[0]))
    times = []
    for wrap in (bytes, Look):
        start = time.process_time()
        for one_image in held:
            measure(wrap(one_image))
        times.append((time.process_time() - start) / len(held) * 1000)
    name = "pixel probes: measuring an image with them, beside without (4,000 images a view at most)"
    return [{"name": name, "ours": times[1], "peer": times[0], "ratio": times[0] / times[1], "unit": "CPU ms"}]


def rows() -> list[Row]:
    """All of them, in order."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "list.txt"
        return [*growth("list", SIZES, place), *growth("facts", SIZES[:2], place), *pixels()]


if __name__ == "__main__":
    json.dump(rows(), sys.stdout, indent=2)
    sys.stdout.write("\n")
