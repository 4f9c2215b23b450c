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


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    store = work_folder(tmp_path / "work")
    command = [sys.executable, "-c", PUBLISH, store.root]
    begun = time.monotonic()
    subprocess.run([*command, tmp_path / "calm"], check=True)
    whole = time.monotonic() - begun
    wanted = files(tmp_path / "calm")
    assert release.faults(tmp_path / "calm") == []
    chance = random_of("publish", "storm")
    out = tmp_path / "wild"
    killed, seen = 0, dict[str, int]()
    for _ in range(3 * KILLS):
        process = subprocess.Popen([*command, out], start_new_session=True)
        try:
            process.wait(timeout=float(chance.uniform(0.1, 0.8)) * whole)
        except subprocess.TimeoutExpired:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        partial = out.with_name(out.name + ".partial")
        for path in partial.rglob("data/**/*.parquet"):
            place = str(path.relative_to(partial))
            # What has its name is finished, and no later run writes it again.
            assert str(release.fingerprint(path)["sha256"]) == wanted[place]
            assert seen.setdefault(place, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if out.exists():
            assert files(out) == wanted, "whole or absent"
            shutil.rmtree(out)
            seen.clear()
        if killed == KILLS:
            break
    assert killed == KILLS
    subprocess.run([*command, out], check=True)
    assert files(out) == wanted
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calm", "wild", "work"]
