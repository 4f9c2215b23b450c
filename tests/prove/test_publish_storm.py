"""Publishing, killed with SIGKILL at random moments and begun again: the same files, nothing left over, nothing done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import jpeg, png

from imaginet_build import images
from imaginet_build.records import Record, make_id, random_of
from imaginet_build.releases import release
from imaginet_build.store import Store

pytestmark = pytest.mark.prove

KILLS = 20
ROWS = 400

PUBLISH = """
import sys
from pathlib import Path
from imaginet_build.publish import publish
from imaginet_build.store import Store
publish(Store(sys.argv[1]), Path(sys.argv[2]), rows_per_file=10)
"""


def work_folder(root: Path) -> Store:
    """Photographs and drawings of a few kilobytes, in parts of 50, with a plan that keeps them all."""
    store, plan = Store(root), []
    for start in range(0, ROWS, 50):
        rows, born = [], []
        for i in range(start, start + 50):
            real = i % 2 == 0
            data = jpeg(f"storm {i}") if real else png(f"storm {i}")
            record = Record(
                id=make_id("storm", i), origin="real" if real else "synthetic", category="photos", licence="CC0-1.0",
                family=None if real else "gan", generator=None if real else "tiny-gan", source="album" if real else None,
                source_key=f"{i}.jpg" if real else None, revision="1", prompt=None, negative=None, seed=None if real else i,
                params="{}", pair_id=None, group=f"g{i}", extension="jpg" if real else "png", facts=images.measure(data),
            )  # fmt: skip
            rows.append(record.row())
            born.append(data)
            plan.append(
                {"id": record.id, "keep": True, "reason": None, "detail": None, "category": "photos", "origin": record.origin,
                 "generator_or_source": "album" if real else "tiny-gan", "split": ("train", "train", "test")[i // 2 % 3],
                 "group": record.group, "left": 3, "top": 5, "width": 80, "height": 80, "codec": "jpeg", "quality": 85,
                 "subsampling": "4:2:0", "first_quality": None if real else 92, "first_subsampling": None if real else "4:2:0"}
            )  # fmt: skip
        store.write_part("collect", f"part-{start:04d}", rows, born)
    store.write_plan(plan)
    return store


def files(folder: Path) -> dict[str, str]:
    """The SHA-256 of everything in a release, `release.json` included."""
    return {str(p.relative_to(folder)): str(release.fingerprint(p)["sha256"]) for p in folder.rglob("*") if p.is_file()}


def struck(command: list[object], partial: Path, finished: int) -> bool:
    """Run it until so many of its files are finished, or, for none, until it has begun, and kill it there; False where it ended
    before. Waits for what is there to be seen, never for a time: a machine may be of any speed."""
    process = subprocess.Popen(list(map(str, command)), start_new_session=True)
    while process.poll() is None:
        if partial.is_dir() and len(list(partial.rglob("data/**/*.parquet"))) >= finished:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    assert process.returncode == 0
    return False


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "work")
    command = [sys.executable, "-c", PUBLISH, store.root]
    subprocess.run([*command, tmp_path / "calm"], check=True)
    wanted = files(tmp_path / "calm")
    assert release.faults(tmp_path / "calm") == []
    shards = sum(place.startswith("data/") for place in wanted)
    chance = random_of("publish", "storm")
    out = tmp_path / "wild"
    partial = out.with_name(out.name + ".partial")
    killed, done, seen = 0, 0, dict[str, int]()
    while killed < KILLS:
        # Few files more each time, so that many strikes fall on one release; now and then it is let through to the end.
        killed += struck([*command, out], partial, min(done + int(chance.integers(0, 12)), shards))
        there = list(partial.rglob("data/**/*.parquet"))
        done = len(there)
        for path in there:
            place = str(path.relative_to(partial))
            # What has its name is finished, and no later run writes it again.
            assert str(release.fingerprint(path)["sha256"]) == wanted[place]
            assert seen.setdefault(place, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if out.exists():
            assert files(out) == wanted, "whole or absent"
            shutil.rmtree(out)
            seen.clear()
    subprocess.run([*command, out], check=True)
    assert files(out) == wanted
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm", "wild", "work"]
