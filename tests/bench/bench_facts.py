"""Every fact of an image beside tools that hash it and no more: CPU time an image, the same files, in one run.

`python tests/bench/bench_facts.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is faster. Each
tool is a process of its own on one thread and goes through the same files, read from disk, in turn; the figure is the median of
the rounds' ratios. Ours: SHA-256, strict decode, pHash upright and mirrored, dHash, pixel hash, codec, tables, metadata.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import environment

Row = dict[str, object]
SIDE = 1024
ROUNDS = 7
DEDUP, LIBPHASH = "imagededup==0.3.3.post2", "python-libphash==2.0.2.0"

OURS = "from imaginet_build import images\ndef work(path):\n    images.measure(path.read_bytes())"
IMAGEHASH = "import imagehash\nfrom PIL import Image\ndef work(path):\n    imagehash.phash(Image.open(path))"
IMAGEDEDUP = (
    "from imagededup.methods import PHash\nhasher = PHash(verbose=False)\ndef work(path):\n    hasher.encode_image(str(path))"
)
PHASH8 = (
    "import libphash\nsmall = libphash.Config(decode_scale=8, grayscale=True)\n"
    "def work(path):\n    libphash.hash(str(path), config=small)"
)
LOOP = """
import sys, time
from pathlib import Path
paths = sorted(Path(sys.argv[1]).iterdir())
work(paths[0])
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    for path in paths:
        work(path)
    print((time.process_time() - start) / len(paths), flush=True)
"""


def photographs(count: int = 24) -> list[Image.Image]:
    """Squares of 1024 pixels: crops of the corpus beside the repository, or made up where it is absent."""
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    found: list[Image.Image] = []
    for path in [*sorted(data.rglob("*.jpg")), *sorted(data.rglob("*.webp"))]:
        with Image.open(path) as image:
            if min(image.size) >= SIDE:
                found.append(image.convert("RGB").crop((0, 0, SIDE, SIDE)))
        if len(found) == count:
            return found
    random = np.random.default_rng(0)
    while len(found) < count:
        coarse = Image.fromarray(random.integers(0, 256, (48, 48, 3)).astype(np.uint8))
        smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = smooth + random.integers(-12, 13, (SIDE, SIDE, 3))
        found.append(Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)))
    return found


@contextmanager
def worker(python: Path | str, code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that goes through the files once for every line it is sent, and answers with CPU seconds an image."""
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(
        [python, "-c", code + LOOP, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if "ready" not in process.stdout.readline():
            raise RuntimeError(f"{code.split(chr(10), maxsplit=1)[0]} does not run")
        yield process
        process.stdin.close()


def spent(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def programs() -> tuple[list[tuple[str, str | Path, str]], list[Row]]:
    """The peers that are here, and a row for each that cannot be installed."""
    found: list[tuple[str, str | Path, str]] = [("an imagehash.phash loop", sys.executable, IMAGEHASH)]
    missing: list[Row] = []
    for name, requirement, code in (
        ("imagededup's PHash", DEDUP, IMAGEDEDUP),
        ("python-libphash at 1/8, hash only", LIBPHASH, PHASH8),
    ):
        try:
            found.append((name, environment(requirement) / "python", code))
        except RuntimeError as error:
            missing.append({"name": f"facts of an image, beside {name}", "unit": f"not run: {error}"})
    return found, missing


def beside(kind: str, files: list[bytes], peers: list[tuple[str, str | Path, str]]) -> list[Row]:
    """One set of files: ours and every peer, round by round."""
    times: list[list[float]] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        for i, data in enumerate(files):
            Path(place, f"{i:03}").write_bytes(data)
        every = [(sys.executable, OURS), *((python, code) for _, python, code in peers)]
        running = [stack.enter_context(worker(python, code, Path(place))) for python, code in every]
        for _ in range(ROUNDS):
            times.append([spent(process) for process in running])
    size = sum(map(len, files)) / len(files) / 1000
    rows: list[Row] = []
    for number, (name, _, _) in enumerate(peers, 1):
        ours, theirs = (1 / statistics.median(round_[i] for round_ in times) for i in (0, number))
        ratio = statistics.median(round_[number] / round_[0] for round_ in times)
        title = f"facts of a {SIDE} x {SIDE} {kind} of {size:.0f} kB, beside {name}"
        rows.append({"name": title, "ours": ours, "peer": theirs, "ratio": ratio, "unit": "images/core-s"})
    return rows


def encoded(image: Image.Image, codec: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, codec, **options)
    return buffer.getvalue()


def main() -> None:
    pictures = photographs()
    peers, rows = programs()
    rows = beside("JPEG", [encoded(picture, "JPEG", quality=90) for picture in pictures], peers) + rows
    rows += beside("PNG", [encoded(picture, "PNG", compress_level=1) for picture in pictures[:4]], peers[:1])
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
