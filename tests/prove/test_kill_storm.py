"""Exactly once: killed with SIGKILL at fifty random moments and finished, a run ends as if nobody had touched it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import storm_driver
from pictures import png, write
from storm_driver import PHASES, PLACES

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


def start(place: Path, work: Path, workers: int, *more: str, trap: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, DRIVER, work, "images", str(workers), *(["tiny"] if TINY else []), *more]
    environment = os.environ | {"PYTHONPATH": str(DRIVER.parent), "STORM_TRAP": trap, "STORM_MARK": str(mark(work, *more))}
    with (work.parent / f"{work.name}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=place, env=environment, stderr=log)


def mark(work: Path, *more: str) -> Path:
    """Where a run says that it stands in its trap."""
    return work.parent / f"{work.name}{''.join(more).replace('/', '-')}.mark"


def finish(place: Path, work: Path, workers: int, *more: str) -> float:
    """Run to the end; the seconds it took."""
    started = time.monotonic()
    assert start(place, work, workers, *more).wait(600) == 0, (work.parent / f"{work.name}.log").read_text()
    return time.monotonic() - started


def a_trap(chance: random.Random, kill: int) -> str:
    """Each phase in its turn, somewhere in it, after it was passed a few times."""
    phase = list(PHASES)[kill % len(PHASES)]
    return f"{phase} {chance.choice(PLACES[phase])} {chance.choice((0, 0, 1, 2, 5))}"


def struck(run: subprocess.Popen[bytes], flag: Path) -> bool:
    """Kill a run that stands in its trap; False where it ended before it got there."""
    patience = time.monotonic() + 300
    while run.poll() is None and not flag.exists():
        assert time.monotonic() < patience, "it neither ended nor got to its trap"
        time.sleep(0.002)
    run.kill()
    run.wait()
    there = flag.exists()
    flag.unlink(missing_ok=True)
    return there


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
    """Ten moments in each of decoding, encoding, writing and linking, where the run stands still until it is killed, and ten at
    any time at all. The cards come in another order every time."""
    wanted, seconds = calm
    work = place / f"storm{workers}"
    chance = random.Random(workers)
    marker = f"KILL_STORM={work}"
    monkeypatch.setenv("KILL_STORM", str(work))
    hits: Counter[str] = Counter()
    for kill in range(KILLS):
        order = f"order={chance.randrange(1000)}"
        if kill % 5 == 4:
            run = start(place, work, workers, order)
            with suppress(subprocess.TimeoutExpired):
                run.wait(chance.uniform(0.0, seconds))
            hit = run.poll() is None
            hits["any time"] += hit
            run.kill()
            run.wait()
        else:
            trap = a_trap(chance, kill - kill // 5)
            hit = struck(start(place, work, workers, order, trap=trap), mark(work, order))
            hits[trap.split()[0]] += hit
        # It may be quicker than the storm: take something away, as a lost disk would, and go on. Several workers pass a phase
        # so seldom each that most of it goes where nothing was struck.
        parts = Store(work).parts()
        lost = len(parts) * 2 // 3 if not hit else 6 if kill % 3 == 2 and len(parts) > 8 else 0
        for part in chance.sample(parts, lost):
            part.unlink()
    assert all(hits[phase] >= KILLS // 10 for phase in PHASES), f"the storm hardly hit: {hits}"
    finish(place, work, workers, f"order={chance.randrange(1000)}")
    assert state(work) == wanted
    patience = time.monotonic() + 60
    while descendants(marker) and time.monotonic() < patience:
        time.sleep(0.1)
    assert descendants(marker) == [], "processes outlived the run that started them"


def test_shards_in_parallel_killed_and_finished_are_the_whole(place, calm):
    """Two processes over one work folder at once, each with its share of what is drawn, both killed where they stand."""
    wanted, _ = calm
    work = place / "parallel"
    chance = random.Random(9)
    shares = [("shard=1/2", "order=3"), ("shard=2/2", "order=3")]
    hits = 0
    for kill in range(8):
        runs = [start(place, work, 1, *share, trap=a_trap(chance, kill + n)) for n, share in enumerate(shares)]
        hits += sum(struck(run, mark(work, *share)) for run, share in zip(runs, shares, strict=True))
    assert hits >= 8
    runs = [start(place, work, 1, *share) for share in shares]
    assert [run.wait(600) for run in runs] == [0, 0]
    assert state(work) == wanted


def test_another_batch_size_after_every_kill_keeps_every_id(place, calm):
    """Bytes may depend on the batch; which images there are may not, and each says in what batch it was drawn."""
    (kept, refused), _ = calm
    work = place / "batches"
    chance = random.Random(5)
    sizes = [1, 2, 3, 7]
    for kill, size in enumerate([*sizes, *sizes]):
        struck(start(place, work, 2, f"batch={size}", trap=a_trap(chance, kill)), mark(work, f"batch={size}"))
    finish(place, work, 2, "batch=5")
    found, left = state(work)
    assert found.keys() == kept.keys()
    assert left == refused
    facts = Store(work).facts(["origin", "generator", "params"]).to_pylist()
    drawn = [row for row in facts if row["origin"] == "synthetic"]
    assert {json.loads(row["params"])["batch"] for row in drawn} <= {1, 2, 3, 4, 5, 7}
    alone = {row["id"] for row in drawn if row["generator"] in ("painter", "copyist")}
    assert alone
    assert {name: found[name] for name in alone} == {name: kept[name] for name in alone}
