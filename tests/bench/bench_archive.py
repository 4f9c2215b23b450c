"""Archives read in place beside plain `tarfile` and SHA-256: the same file in the same run, in CPU time; and the memory taken.

`python tests/bench/bench_archive.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is faster. The
promise is 0.9 for tar. Both read every member and hash it; ours judges names, looks for doubles and says what each image is.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

from imaginet_build.collectors.archive import Archive
from imaginet_build.collectors.members import Reader
from imaginet_build.collectors.places import Volume
from imaginet_build.records import Found, Want

Row = dict[str, object]
ROUNDS = 5


def files(number: int) -> dict[str, bytes]:
    """As many members as asked for, of 60 to 140 kilobytes: noise, as compressed pictures are."""
    chance = random.Random(0)
    return {
        f"train/{n % 100}/{n:06d}.jpg": b"\xff\xd8\xff" + chance.randbytes(chance.randint(60_000, 140_000))
        for n in range(number)
    }


def packed(folder: Path, number: int) -> dict[str, Path]:
    """The same files as tar, tar.gz and zip."""
    paths = {kind: folder / f"{number}{kind}" for kind in (".tar", ".tar.gz", ".zip")}
    with (
        tarfile.open(paths[".tar"], "w") as plain,
        tarfile.open(paths[".tar.gz"], "w:gz", compresslevel=1) as small,
        zipfile.ZipFile(paths[".zip"], "w", zipfile.ZIP_STORED) as zipped,
    ):
        for name, data in files(number).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            plain.addfile(info, io.BytesIO(data))
            small.addfile(info, io.BytesIO(data))
            zipped.writestr(name, data)
    return paths


def ours(path: Path, count: int | None = None) -> int:
    """Every image hashed; how many there were."""
    read = 0
    for found in Archive(str(path), origin="real").find(Want("archive", None, 0, count=count)):
        assert isinstance(found, Found), found
        hashlib.sha256(found.data).hexdigest()
        read += 1
        if read == count:
            break
    return read


def with_tarfile(path: Path) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                hashlib.sha256(stream.read()).hexdigest()


def with_zipfile(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            hashlib.sha256(archive.read(name)).hexdigest()


def spent(call: Callable[[Path], object], path: Path) -> float:
    start = time.process_time()
    call(path)
    return time.process_time() - start


def speed(paths: dict[str, Path], number: int) -> list[Row]:
    """Images per CPU second, ours and the library's in turn; the median of the rounds' ratios."""
    rows: list[Row] = []
    for kind, path in paths.items():
        peer = with_zipfile if kind == ".zip" else with_tarfile
        spent(ours, path), spent(peer, path)
        times = [(spent(ours, path), spent(peer, path)) for _ in range(ROUNDS)]
        rows.append(
            {
                "name": f"archive: {number} members of a {kind[1:]} read and hashed, beside {peer.__name__[5:]} + sha256",
                "ours": number / statistics.median(m for m, _ in times),
                "peer": number / statistics.median(t for _, t in times),
                "ratio": statistics.median(t / m for m, t in times),
                "unit": "images/CPU s",
            }
        )
    return rows


def broken(data: bytes) -> bool:
    """Of 40 % of all: as if they could not be decoded."""
    return hashlib.sha256(data).digest()[0] < 0.4 * 256


def quota(path: Path, number: int) -> int:
    """Half of the members had, the broken ones replaced; how often the archive was opened for it."""
    opened, good = 0, 0
    whole = Archive._opened

    def counted(self: Archive, volume: Volume) -> AbstractContextManager[Reader]:
        nonlocal opened
        opened += 1
        return whole(self, volume)

    with patch.object(Archive, "_opened", counted):
        for found in Archive(str(path), origin="real").find(Want("archive", None, 0, count=number // 2)):
            assert isinstance(found, Found), found
            good += not broken(found.data)
            if good == number // 2:
                return opened
    raise AssertionError(f"{path}: {good} good images of {number // 2}")


def quotas(sizes: list[dict[str, Path]], numbers: list[int]) -> list[Row]:
    """A quota of half with 40 % broken beside one plain reading of the whole: how many such readings it costs."""
    rows: list[Row] = []
    for kind in sizes[0]:
        peer = with_zipfile if kind == ".zip" else with_tarfile
        opened = [quota(paths[kind], number) for paths, number in zip(sizes, numbers, strict=True)]
        times = [
            (spent(lambda path: quota(path, numbers[-1]), sizes[-1][kind]), spent(peer, sizes[-1][kind])) for _ in range(3)
        ]
        said = ", ".join(f"{number} members: opened {times} times" for number, times in zip(numbers, opened, strict=True))
        rows.append(
            {
                "name": f"archive: half of a {kind[1:]}, 40 % broken ({said}), beside all read by {peer.__name__[5:]}",
                "ours": statistics.median(m for m, _ in times),
                "peer": statistics.median(t for _, t in times),
                "ratio": statistics.median(t / m for m, t in times),
                "unit": "CPU s",
            }
        )
    return rows


PEAK = """
import sys
sys.path.insert(0, sys.argv[3])
from bench_archive import ours
from pathlib import Path
ours(Path(sys.argv[1]), int(sys.argv[2]) or None)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(path: Path, count: int = 0) -> float:
    """Megabytes at the most, in a process that does nothing else."""
    command = [sys.executable, "-c", PEAK, str(path), str(count), str(Path(__file__).parent)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def memory(sizes: list[dict[str, Path]], numbers: list[int]) -> list[Row]:
    """The peak for the largest archive beside that for the smallest: 1 means that it does not grow."""
    rows: list[Row] = []
    for kind in sizes[0]:
        peaks = [peak(paths[kind]) for paths in sizes]
        shown = ", ".join(f"{number} members: {one:.0f} MB" for number, one in zip(numbers, peaks, strict=True))
        name = f"archive: peak memory of a {kind[1:]} ({shown}), largest beside smallest"
        rows.append({"name": name, "ours": peaks[-1], "peer": peaks[0], "ratio": peaks[0] / peaks[-1], "unit": "MB"})
    return rows


def main() -> None:
    numbers = [300, 1000, 3000]
    with tempfile.TemporaryDirectory() as folder:
        sizes = [packed(Path(folder), number) for number in numbers]
        print(json.dumps([*speed(sizes[-1], numbers[-1]), *quotas(sizes, numbers), *memory(sizes, numbers)]))


if __name__ == "__main__":
    main()
