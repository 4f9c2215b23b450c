"""Collecting from a list of URLs beside img2dataset, in one run, from one server on this machine, at the same concurrency.

`python tests/bench/bench_urls.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is better. Both keep
the bytes as delivered and their SHA-256, and write them to disk. Counted is the CPU time of the client's processes alone, from
their start to their end; the server is another process. The peer is timed in the form it is fastest in.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.peers import environment

Row = dict[str, object]
IMAGES = 5000
BYTES = 100_000
AT_ONCE = 64
ROUNDS = 3
PEER = "img2dataset==1.47.0"


# --- the server, a process of its own ----------------------------------------------------------------------------------


def photographs(count: int = 40) -> list[bytes]:
    """JPEGs of 640 x 480 in about 100 KB: a smooth picture and grain."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3)).astype(np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        grain = np.asarray(coarse, dtype=np.int16) + random.integers(-14, 15, (480, 640, 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=84)
        data = buffer.getvalue()
        assert len(data) < BYTES, len(data)
        # Filled up to the size that was promised, in a comment segment (of at most 64 KB each) behind the first marker.
        while (left := BYTES - len(data)) > 4:
            size = min(left - 2, 65_535)
            data = data[:2] + b"\xff\xfe" + size.to_bytes(2, "big") + random.bytes(size - 2) + data[2:]
        made.append(data)
    return made


class _Server(asyncio.Protocol):
    bodies: list[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            number = re.match(rb"GET /(\d+)\.jpg", head)
            body = self.bodies[int(number[1]) % len(self.bodies)] if number else b""
            status = b"200 OK" if body else b"404 Not Found"
            self.transport.write(
                b"HTTP/1.1 %s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body
            )
            if b"onnection: close" in head:
                self.transport.close()


async def serve() -> None:
    """Images at /N.jpg, 404 for the rest; prints its port and runs until its standard input ends."""
    _Server.bodies = photographs()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Server, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


# --- the clients -------------------------------------------------------------------------------------------------------

FETCH = """
import hashlib, sys
import pyarrow as pa, pyarrow.parquet as pq
from imaginet_build.collectors.urls import Urls
from imaginet_build.records import Found, Want

at_once = int(sys.argv[3])
source = Urls(sys.argv[1], origin="real", allow_loopback=(sys.argv[2],), concurrency=at_once, per_host=at_once)
schema = pa.schema([("source_key", pa.string()), ("sha256", pa.string()), ("image", pa.binary())])
rows = []
with pq.ParquetWriter(sys.argv[4], schema, compression="none") as writer:
    for found in source.find(Want("urls", None, 0)):
        if isinstance(found, Found):
            rows.append({"source_key": found.source_key, "sha256": hashlib.sha256(found.data).hexdigest(), "image": found.data})
        if len(rows) == 64:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows = []
    writer.write_table(pa.Table.from_pylist(rows, schema))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1], pq.read_metadata(sys.argv[4]).num_rows)
"""


def spent(command: list[str | Path], folder: Path) -> tuple[float, float, str]:
    """CPU seconds of a command and all its processes, seconds by the clock, and what it printed."""
    before, start = os.times(), time.perf_counter()
    quiet = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=quiet)
    after = os.times()
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-1000:]}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, time.perf_counter() - start, done.stdout + done.stderr


def fetch(work: Path, list_file: Path, place: str, parts: Path) -> float:
    """Ours, the adapter with a plain writer: images a core-second."""
    cpu, _, said = spent([sys.executable, "-c", FETCH, list_file, place, str(AT_ONCE), parts / "ours.parquet"], work)
    assert said.split()[-1] == str(IMAGES), said
    return IMAGES / cpu


def memory(place: str, sizes: tuple[int, int, int] = (1000, 5000, 25_000)) -> Row:
    """The peak of the process that fetches and stores, for lists of three lengths."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for size in sizes:
            (work / "list.txt").write_text("".join(f"http://{place}/{n:06d}.jpg\n" for n in range(size)))
            client = [sys.executable, "-c", FETCH, work / "list.txt", place, str(AT_ONCE), work / "ours.parquet"]
            peaks.append(int(spent(client, work)[2].split()[-2]) / 1024)
    shown = " and ".join(f"{size:,}" for size in sizes[:2])
    name = f"peak memory of fetching {sizes[2]:,} images ({sizes[2] // 10_000} GB), beside {shown} ({peaks[1]:.0f} MB)"
    return {"name": name, "ours": peaks[2], "peer": peaks[0], "ratio": peaks[0] / peaks[2], "unit": "MB"}


def collect(work: Path, list_file: Path, place: str, parts: Path) -> float:
    """Ours, the whole command: every image decoded strictly, measured and hashed on arrival."""
    recipe = parts / "recipe.toml"
    options = (
        f'root = "{list_file}", origin = "real", allow_loopback = ["{place}"], concurrency = {AT_ONCE}, per_host = {AT_ONCE}'
    )
    recipe.write_text(
        f'name = "bench"\n[[collect]]\nsource = "urls"\ncategory = "photos"\noptions = {{ {options} }}\n[engine]\nworkers = 1\n'
    )
    command = [sys.executable, "-m", "imaginet_build", "collect", "--recipe", recipe, "--work", parts / "ours", "--json"]
    cpu, _, said = spent(command, work)
    assert f'"total": {IMAGES}' in said, said[-1000:]
    return IMAGES / cpu


def img2dataset(programs: Path, looks: bool, form: str) -> Callable[[Path, Path, str, Path], float]:
    """The peer. `looks`: it decodes every image (for its size) and keeps the bytes; else it keeps them unseen."""

    def run(work: Path, list_file: Path, _: str, parts: Path) -> float:
        keep = ["--skip_reencode", "True", "--encode_format", "jpg"] if looks else ["--disable_all_reencoding", "True"]
        command = [
            programs / "img2dataset", "--url_list", list_file, "--output_folder", parts / "peer", "--output_format", form,
            "--thread_count", str(AT_ONCE), "--processes_count", "1", "--resize_mode", "no", "--timeout", "60", *keep,
        ]  # fmt: skip
        cpu, _, said = spent(command, work)
        stats = [json.loads(path.read_text()) for path in (parts / "peer").glob("*_stats.json")]
        assert sum(one["successes"] for one in stats) == IMAGES, said[-1000:]
        return IMAGES / cpu

    return run


def beside(
    name: str, ours: Callable[[Path, Path, str, Path], float], peer: Callable[[Path, Path, str, Path], float], place: str
) -> Row:
    """Ours and the peer's in turn, `ROUNDS` times: the median of the rounds' ratios."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        list_file = work / "list.txt"
        list_file.write_text("".join(f"http://{place}/{n:06d}.jpg\n" for n in range(IMAGES)))
        for _ in range(ROUNDS):
            parts = work / "parts"
            parts.mkdir()
            pairs.append((ours(work, list_file, place, parts), peer(work, list_file, place, parts)))
            shutil.rmtree(parts)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    middle = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return {"name": name, "ours": middle[0], "peer": middle[1], "ratio": ratio, "unit": "images/core-second"}


def dead_links(place: str, wanted: int = 600) -> Row:
    """A quota of a list of which every second and fifth link of five is dead: how much of it is met, beside all of it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [f"http://{place}/{n:06d}.{'gone' if n % 5 in (1, 4) else 'jpg'}" for n in range(2 * wanted)]
        (work / "list.txt").write_text("\n".join(names))
        (work / "recipe.toml").write_text(
            f'name = "bench"\n[[collect]]\nsource = "urls"\ncategory = "photos"\ncount = {wanted}\n'
            f'options = {{ root = "{work}/list.txt", origin = "real", allow_loopback = ["{place}"] }}\n[engine]\nworkers = 1\n'
        )
        command = [
            sys.executable,
            "-m",
            "imaginet_build",
            "collect",
            "--recipe",
            work / "recipe.toml",
            "--work",
            work / "w",
            "--json",
        ]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        report = json.loads(done.stdout)
    dead = next(n for n in range(2 * wanted) if sum(m % 5 not in (1, 4) for m in range(n + 1)) == wanted) + 1 - wanted
    assert report["rejected"] == {"http-404": dead}, report
    name = f"a quota of {wanted} images with 40 % dead links: met, and all {dead} dead links reported"
    return {"name": name, "ours": report["total"], "peer": wanted, "ratio": report["total"] / wanted, "unit": "images"}


def rows() -> list[Row]:
    """All of them, in order; a peer that cannot be installed is said in the row's name."""
    what = f"{IMAGES:,} images of {BYTES // 1000} KB by URL, {AT_ONCE} at once, originals kept"
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        place = f"127.0.0.1:{int(server.stdout.readline())}"
        found = [memory(place), dead_links(place)]
        try:
            programs = environment(PEER)
        except RuntimeError as error:
            return [*found, {"name": f"{what}, beside img2dataset: {error}", "unit": "images/core-second"}]
        unseen = img2dataset(programs, looks=False, form="webdataset")
        seen = img2dataset(programs, looks=True, form="webdataset")
        return [
            beside(f"{what}: fetched and stored, beside {PEER}", fetch, unseen, place),
            beside(f"{what}: the whole of `collect` (decoded, measured), beside {PEER} decoding", collect, seen, place),
            *found,
        ]
    finally:
        server.stdin.close()
        server.wait(10)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        json.dump(rows(), sys.stdout, indent=2)
        sys.stdout.write("\n")
