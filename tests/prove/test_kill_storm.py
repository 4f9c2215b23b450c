"""Exactly once: killed with SIGKILL at fifty random moments and finished, a run ends as if nobody had touched it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import storm_driver
from pictures import png, write

from imaginet_build.cards import MODELS
from imaginet_build.store import Store

pytestmark = pytest.mark.prove

KILLS = 50
TINY = importlib.util.find_spec("torch") is not None and (MODELS / "tiny-gan" / "model.safetensors").is_file()
DRIVER = Path(storm_driver.__file__)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with cards, prompts and real images, some of them broken."""
    place = tmp_path_factory.mktemp("storm")
    for name in ("painter", "neighbourly", "copyist"):
        card = f'adapter = "painter:{name.title()}"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "other"\n'
        card += "width = 64\nheight = 64\n"
        write(place / "manifests" / "generators" / f"{name}.toml", card)
    subjects = (
        "red barns",
        "sleeping cats",
        "an old harbour",
        "lemon stalls",
        "rainy trams",
        "stone piers",
        "green hills",
        "kites",
    )
    faults = ("REFUSE: ", "", "RAISE: ", "", "BLANK: ", "", "", "")
    write(place / "list.txt", "\n".join(f + s for f, s in zip(faults, subjects, strict=True)) + "\n")
    for number in range(40):
        data = png(number, 64, 64)
        write(place / "images" / f"{number:02}.png", data[:-30] if number % 6 == 0 else data)
    return place


def start(place: Path, work: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, DRIVER, work, "images", str(workers), *(["tiny"] if TINY else [])]
    environment = os.environ | {"PYTHONPATH": str(DRIVER.parent)}
    with (work.parent / f"{work.name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=place, env=environment, stderr=log)


def finish(place: Path, work: Path, workers: int) -> float:
    """Run to the end; the seconds it took."""
    started = time.monotonic()
    assert start(place, work, workers).wait(600) == 0, (work.parent / f"{work.name}.log").read_text()
    return time.monotonic() - started


def state(work: Path) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """id -> sha256 of its bytes, and id -> stage and reason of what was refused. No id stands twice, nor in both."""
    store = Store(work)
    rows = [row for part in store.parts() for row in pq.read_table(part, columns=["id", "image", "sha256"]).to_pylist()]
    twice = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    assert not twice, f"twice: {twice}"
    kept = {row["id"]: hashlib.sha256(row["image"]).hexdigest() for row in rows}
    assert kept == {row["id"]: row["sha256"] for row in rows}
    refused = {r["id"]: (r["stage"], r["reason"]) for r in store.rejects().to_pylist()}
    assert not kept.keys() & refused.keys()
    return kept, refused


def descendants(marker: str) -> list[int]:
    """Processes that carry `marker` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.fixture(scope="module")
def calm(place: Path) -> tuple[tuple[dict[str, str], dict[str, tuple[str, str]]], float]:
    """What an undisturbed run with one worker ends with, and how long it takes."""
    seconds = finish(place, place / "calm", 1)
    ended = state(place / "calm")
    assert len(ended[0]) == 30 + 40 + 5 + 10 + 4 * TINY
    assert Counter(ended[1].values()) == Counter(
        {("collect", "truncated"): Counter(ended[1].values())[("collect", "truncated")], ("generate", "moderation"): 1,
         ("generate", "failed"): 1, ("generate", "blank"): 1}
    )  # fmt: skip
    return ended, seconds


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_killed_at_fifty_random_moments_a_run_ends_as_if_undisturbed(place, calm, workers, monkeypatch):
    """Start-up takes most of a run this small, so every second moment lies within half a second after a new part shows."""
    wanted, seconds = calm
    work = place / f"storm{workers}"
    chance = random.Random(workers)
    marker = f"KILL_STORM={work}"
    monkeypatch.setenv("KILL_STORM", str(work))
    alive = ended = 0
    for kill in range(KILLS):
        store = Store(work)
        before = len(store.parts())
        run = start(place, work, workers)
        deadline = time.monotonic() + chance.uniform(0.0, 1.1 * seconds)
        while kill % 2 and run.poll() is None and time.monotonic() < deadline and len(store.parts()) == before:
            time.sleep(0.002)
        pause = chance.uniform(0.0, 0.05) if kill % 2 else max(0.0, deadline - time.monotonic())
        try:
            ended += run.wait(pause) == 0
        except subprocess.TimeoutExpired:
            alive += 1
            run.send_signal(signal.SIGKILL)
            run.wait()
        if ended and run.returncode == 0:
            # It was quicker than the storm: take something away, as a lost disk would, and go on.
            for part in chance.sample(store.parts(), min(8, len(store.parts()))):
                part.unlink()
    assert alive >= KILLS // 2, "the storm hardly hit"
    finish(place, work, workers)
    assert state(work) == wanted
    patience = time.monotonic() + 20
    while descendants(marker) and time.monotonic() < patience:
        time.sleep(0.1)
    assert descendants(marker) == [], "processes outlived the run that started them"


def test_shards_in_parallel_killed_and_finished_are_the_whole(place, calm, monkeypatch):
    """Two processes over one work folder at once, both killed now and then."""
    (kept, refused), seconds = calm
    work = place / "parallel"
    chance = random.Random(9)
    for _ in range(6):
        runs = [start(place, work, 1), start(place, work, 1)]
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        for run in runs:
            run.kill()
            run.wait()
    finish(place, work, 2)
    assert state(work) == (kept, refused)
