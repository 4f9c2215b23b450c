"""Writing a release: CPU time beside `datasets`, peak memory as it grows, and where the time of the equalized view goes.

`python tests/bench/bench_publish.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is better. Every
measurement is a process of its own on one core, and its CPU time is that of the whole process, imports and system calls
included; what is left without the imports is said beside it. `datasets` reads the same parts in the order in which they lie,
and writes row groups of as many rows; it checks nothing and sorts nothing. What is ours is the whole of `publish`: plan, order,
proof of every byte, shards, metadata, card.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

Row = dict[str, object]
DISTINCT = 24
PART = 1024

START = """
import json, logging, sys, time
from pathlib import Path
logging.disable()
root = Path(sys.argv[1])
def peak():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

OURS = (
    START
    + """
from imaginet_build.publish import publish
from imaginet_build.store import Store
start = time.process_time()
said = publish(Store(root), root / "out", views=sys.argv[2].split("+"))
print(json.dumps([time.process_time() - start, peak(), said.nbytes]))
"""
)

THEIRS = (
    START
    + """
import pyarrow.parquet as pq
import datasets
from imaginet_build.releases import release
from imaginet_build.records import ORIGINS
datasets.disable_progress_bars()
plain = ["id", "pair_id", "group", "source", "source_key", "licence", "prompt", "seed", "width", "height", "sha256"]
def rows():
    for path in sorted((root / "parts").rglob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(32, columns=[*plain, "origin", "category", "phash", "image"]):
                for row in batch.to_pylist():
                    yield {
                        "image": {"bytes": row["image"], "path": row["id"] + ".jpg"}, "label": ORIGINS.index(row["origin"]),
                        "content_type": 0, "family": 0, "generator": 0, "source_sha256": row["sha256"],
                        "phash": f"{row['phash']:016x}",
                    } | {name: row[name] for name in plain}
names = release.Names(("photos",), ("real", "gan"), ("real", "tiny-gan"))
features = datasets.Features.from_dict(release.features(names))
start = time.process_time()
made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(root / "cache"), split="train")
made.to_parquet(str(root / "theirs.parquet"), batch_size=50)
print(json.dumps([time.process_time() - start, peak(), (root / "theirs.parquet").stat().st_size]))
"""
)

PROFILE = (
    START
    + """
import cProfile, pstats
import jinja2
from imaginet_build.publish import publish
from imaginet_build.store import Store
publish(Store(root), root / "first", views=["equalized"])
watch = cProfile.Profile(time.process_time)
watch.runcall(publish, Store(root), root / "out", views=["equalized"])
rows = pstats.Stats(watch).stats
total = sum(own for _, _, own, _, _ in rows.values())
def share(file, name):
    return sum(row[3] for (path, _, function), row in rows.items() if path.endswith(file) and function == name) / total
print(json.dumps([share("images.py", "render"), share("images.py", "measure"), share("releasewriter.py", "write")]))
"""
)


def photograph(number: int, width: int, height: int) -> bytes:
    """A JPEG of smooth patches with grain, about 220 kB at 1024 x 768."""
    from PIL import Image

    chance = np.random.default_rng(number)
    coarse = Image.fromarray(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = chance.normal(0, 5, smooth.shape[:2])[..., None]
    out = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def work_folder(root: Path, n: int, width: int = 1024, height: int = 768, crop: int = 512) -> int:
    """A work folder of `n` photographs, half of them called synthetic, no two alike in their bytes, with a plan that keeps all;
    their bytes in sum."""
    from dataclasses import replace

    from imaginet_build import images
    from imaginet_build.records import Record, make_id
    from imaginet_build.store import Store

    store, plan, total = Store(root), [], 0
    drawn = [photograph(i, width, height) for i in range(min(n, DISTINCT))]
    known = [images.measure(data) for data in drawn]
    for start in range(0, n, PART):
        rows, born = [], []
        for i in range(start, min(start + PART, n)):
            # A comment of its own makes each file another.
            text = b"%08d" % i
            data = drawn[i % DISTINCT][:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + drawn[i % DISTINCT][2:]
            facts = images.measure(data) if i < DISTINCT else replace(known[i % DISTINCT], nbytes=len(data))
            facts = replace(facts, sha256=hashlib.sha256(data).hexdigest())
            real = i % 2 == 0
            record = Record(
                id=make_id("bench", i), origin="real" if real else "synthetic", category="photos", licence="CC0-1.0",
                family=None if real else "gan", generator=None if real else "tiny-gan", source="album" if real else None,
                source_key=f"album/{i}.jpg" if real else None, revision="1", negative=None,
                prompt=None if real else f"photograph number {i} of a meadow",
                seed=None if real else i, params="{}", pair_id=None, group=f"g{i}", extension="jpg", facts=facts,
            )  # fmt: skip
            rows.append(record.row())
            born.append(data)
            plan.append(
                {"id": record.id, "keep": True, "reason": None, "detail": None, "category": "photos", "origin": record.origin,
                 "generator_or_source": "tiny-gan" if not real else "album", "split": "train", "group": record.group,
                 "left": 5, "top": 3, "width": crop, "height": crop, "codec": "jpeg", "quality": 90, "subsampling": "4:2:0",
                 "first_quality": None, "first_subsampling": None}
            )  # fmt: skip
            total += len(data)
        store.write_part("collect", f"part-{start:06d}", rows, born)
    store.write_plan(plan)
    return total


def run(code: str, *arguments: object) -> list[float]:
    """What one process prints, JSON: usually CPU seconds without imports, peak bytes and bytes written; then the CPU seconds of
    the whole process."""
    one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=one) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a measured process ended with {process.returncode}")
    said: list[float] = json.loads(printed)
    return [*said, used.ru_utime + used.ru_stime]


def beside_datasets(root: Path, n: int = 6000, rounds: int = 7) -> list[Row]:
    """The native view of `n` photographs: `publish` and `datasets`, in turns."""
    born = work_folder(root, n)
    pairs = []
    for _ in range(rounds):
        pairs.append((run(OURS, root, "native"), run(THEIRS, root)))
        shutil.rmtree(root / "out")
        shutil.rmtree(root / "cache")
    name = f"native view of {n} JPEGs, {born / 1e6:.0f} MB, beside datasets from_generator + to_parquet"
    rows: list[Row] = []
    for column, what, unit, scale in (
        (3, ": the whole process", "CPU s", 1.0),
        (0, ": without imports", "CPU s", 1.0),
        (1, ": peak memory", "MB", 1e6),
    ):
        ours, theirs = (statistics.median(pair[i][column] for pair in pairs) / scale for i in (0, 1))
        ratios = sorted(pair[1][column] / pair[0][column] for pair in pairs)
        rows.append(
            {
                "name": name + what,
                "ours": ours,
                "peer": theirs,
                "ratio": statistics.median(ratios),
                "unit": unit,
                "ratios": ratios,
            }
        )
    return rows


def memory(root: Path, sizes: tuple[int, int] = (1000, 6000)) -> list[Row]:
    """The peak of the whole process at two sizes, beside the 300 MB that were promised."""
    return [_bounded(root, n, f"native view of {n} JPEGs of 1024 x 768 pixels") for n in sizes]


def many_rows(root: Path, sizes: tuple[int, ...] = (50_000, 200_000, 800_000)) -> list[Row]:
    """The same where there are many rows and hardly a pixel, and what a million rows more would take by that."""
    rows = [_bounded(root, n, f"native view of {n:,} JPEGs of 32 x 24 pixels", 32, 24, 16) for n in sizes]
    slope = np.polyfit(sizes, [float(str(row["ours"])) for row in rows], 1)[0] * 1e6
    return [*rows, {"name": "native view: memory that a million rows more take", "ours": slope, "unit": "MB"}]


def _bounded(root: Path, n: int, name: str, *look: int) -> Row:
    work_folder(root / str(n), n, *look)
    peak = run(OURS, root / str(n), "native")[1] / 1e6
    shutil.rmtree(root / str(n))
    name = f"{name}: peak memory of the process, beside the bound"
    return {"name": name, "ours": peak, "peer": 300.0, "ratio": 300.0 / peak, "unit": "MB"}


def where_time_goes(root: Path, n: int = 600) -> list[Row]:
    """Shares of the CPU time of an equalized view of 1024 x 768 JPEGs, 512 x 512 crops."""
    work_folder(root, n)
    render, measure, write, _ = run(PROFILE, root)
    shares = {
        "decoding, cropping and encoding": render,
        "measuring the facts of what was made": measure,
        "all of writing, these two included": write,
    }
    name = "equalized view: share of CPU time in"
    return [{"name": f"{name} {what}", "ours": share, "unit": "share"} for what, share in shares.items()]


def restart_markers(crop: int = 96, draws: int = 60) -> list[Row]:
    """What a marker every 1, 2, 4, 8 rows of blocks costs in bytes and saves in decoding, beside none."""
    import simplejpeg
    from PIL import Image

    from imaginet_build.imagefiles import crops

    rows: list[Row] = []
    places = np.random.default_rng(0)
    for side in (64, 256, 1024):
        image = Image.open(io.BytesIO(photograph(1, side, side)))
        made = {}
        for step in (0, 1, 2, 4, 8):
            out = io.BytesIO()
            image.save(out, "JPEG", quality=90, subsampling="4:2:0", restart_marker_rows=step)
            made[step] = out.getvalue()
            if step:
                name = f"JPEG of {side} px, a restart marker every {step} rows of blocks: bytes, beside none"
                ours, peer = len(made[step]), len(made[0])
                rows.append({"name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "unit": "bytes"})
        if side < 2 * crop:
            continue
        corners = [tuple(map(int, places.integers(0, side - crop + 1, 2))) for _ in range(draws)]
        for step in (1, 2, 4, 8):
            pairs = []
            for _ in range(5):
                start = time.process_time()
                for x, y in corners:
                    crops.crop(made[step], x, y, crop, crop)
                middle = time.process_time()
                for _ in corners:
                    simplejpeg.decode_jpeg(made[0])
                pairs.append(((middle - start) * 1e3 / draws, (time.process_time() - middle) * 1e3 / draws))
            ours, peer = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            name = f"{crop} px crop of a JPEG of {side} px, a marker every {step} rows of blocks, beside decoding it whole"
            ratio = statistics.median(theirs / mine for mine, theirs in pairs)
            rows.append({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": "CPU ms"})
    return rows


def main() -> None:
    rows = restart_markers()
    for part in (beside_datasets, memory, many_rows, where_time_goes):
        with tempfile.TemporaryDirectory() as folder:
            rows += part(Path(folder))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
