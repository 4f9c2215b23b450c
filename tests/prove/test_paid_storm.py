"""A run that costs money is killed at random moments: nothing is bought twice, and what may be lost is said."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paid_server import KEY, says, serving, waits

from imaginet_build.paying.ledger import Ledger
from imaginet_build.store import Store

RECIPE = """
name = "paid"
[engine]
workers = {workers}
[[generate]]
generator = "gpt-image-2"
category = "photos"
count = {count}
batch = 4
width = 64
height = 48
prompts = "list.txt"
options = {{ base_url = "{url}", first_wait = 0.01, budget_usd = 100.0, prices = {{ images = {{ any = 0.04 }} }} }}
"""
SUBJECTS = (
    "barn",
    "harbour",
    "tram",
    "bridge",
    "mill",
    "market",
    "lighthouse",
    "orchard",
    "station",
    "chapel",
    "quarry",
    "pier",
)
LIGHTS = ("under heavy snow", "at dawn", "in the rain", "by lamplight", "at noon", "in thick fog", "before a storm")


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "imaginet_build", "generate", "--work", "work", *more]
    there = ["--recipe", "recipe.toml"] if not (folder / "work" / "recipe.toml").is_file() else []
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *there], cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finished(process: subprocess.Popen) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    assert "THE-SECRET" not in out + err
    return process.returncode, out + err


def killed_at(process: subprocess.Popen, server, arrivals: int, delay: float) -> None:
    """SIGKILL for the whole run once so many more requests have reached the server, and a moment later."""
    wanted = sum(server.billed.values()) + arrivals
    while process.poll() is None and sum(server.billed.values()) < wanted:
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.prove
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_nothing_is_bought_twice_in_silence(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    chance = random.Random(workers)
    count, texts = 72, [f"the old {subject} {light}" for light in LIGHTS for subject in SUBJECTS]
    (tmp_path / "list.txt").write_text("\n".join(texts))
    said = ""
    with serving() as server:
        server.script = {"*": [waits(chance.choice((0.0, 0.01, 0.05))) for _ in range(10_000)]}
        (tmp_path / "recipe.toml").write_text(RECIPE.format(workers=workers, count=count, url=server.url))
        for _ in range(12):
            process = start(tmp_path)
            killed_at(process, server, chance.randint(1, 6), chance.choice((0.0, 0.005, 0.02, 0.06)))
            said += finished(process)[1]
        code, last = finished(start(tmp_path))
        said += last
        store, ledger = Store(tmp_path / "work"), Ledger(tmp_path / "work" / "paid" / "gpt-image-2").read()
        facts, rejects = store.facts(["prompt"]).to_pylist(), store.rejects().to_pylist()
        lost = {row["id"] for row in rejects}
        assert {row["reason"] for row in rejects} <= {"killed"}
        assert len(facts) + len(lost) == count
        # What the service billed: each prompt once, and all of it is in parts or said to be lost.
        assert set(server.billed.values()) == {1}
        assert {row["prompt"] for row in facts} <= set(server.billed)
        assert len(facts) <= sum(server.billed.values()) <= ledger.totals.images == len(facts) + len(lost)
        assert ledger.totals.unknown == len(lost)
        assert code == (1 if lost else 0)
        assert ("may have been billed and were lost" in said) == bool(lost)

        # Allowed to, they are asked for again, each with a word; what was in parts is not.
        before = dict(server.billed)
        code, told = finished(start(tmp_path, "--set", "generate.0.options.ask_again=true"))
        assert code == 0
        assert len({row["id"] for row in store.facts(["id"]).to_pylist()}) == count
        assert {name for name, times in server.billed.items() if times > 1} <= set(before) - {row["prompt"] for row in facts}
        assert told.count("may be billed twice") == len(lost)
        assert not ledger.leftover()
    held = [path for path in tmp_path.rglob("*") if path.is_file() and b"THE-SECRET" in path.read_bytes()]
    assert not held


@pytest.mark.prove
def test_batches_outlive_every_kill_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    chance = random.Random(3)
    count, texts = 48, [f"the old {subject} {light}" for light in LIGHTS for subject in SUBJECTS]
    (tmp_path / "list.txt").write_text("\n".join(texts))
    with serving() as server:
        server.slow = 3
        text = RECIPE.format(workers=1, count=count, url=server.url)
        (tmp_path / "recipe.toml").write_text(
            text.replace("first_wait", 'mode = "batch", batch_jobs = 12, poll = 0.05, first_wait')
        )
        for _ in range(8):
            process = start(tmp_path)
            wanted = len(server.paths) + chance.randint(1, 9)
            while process.poll() is None and len(server.paths) < wanted:
                time.sleep(0.001)
            time.sleep(chance.choice((0.0, 0.002, 0.01, 0.05)))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            finished(process)
        code, told = finished(start(tmp_path))
        store = Store(tmp_path / "work")
        assert (code, len(store.facts(["id"])), store.rejects().num_rows) == (0, count, 0), told
        assert dict(server.billed) == dict.fromkeys(texts[:count], 1)
        assert len(server.batches) == 4


@pytest.mark.prove
def test_two_processes_share_one_budget(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "list.txt").write_text("\n".join(f"the old {subject} {light}" for light in LIGHTS for subject in SUBJECTS))
    with serving() as server:
        server.script = {"*": [says(500, {"error": {"message": "no"}}), *(waits(0.02) for _ in range(1000))]}
        text = RECIPE.format(workers=1, count=40, url=server.url).replace("budget_usd = 100.0", "budget_usd = 0.8")
        (tmp_path / "recipe.toml").write_text(text)
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "recipe.toml").write_text(text)
        shards = [start(tmp_path, "--shard", f"{i}/2") for i in (1, 2)]
        ends = [finished(shard) for shard in shards]
        assert sum(server.billed.values()) == 19, "0.80 dollars are twenty requests, one of which failed and may have cost"
        assert [code for code, _ in ends] == [1, 1]
        assert all("budget_usd = 0.8 allows no request" in told for _, told in ends)
        lines = (tmp_path / "work" / "paid" / "gpt-image-2" / "ledger.jsonl").read_text().splitlines()
        sent = [json.loads(line) for line in lines if '"sent"' in line]
        assert len(sent) == 20
        assert len({line["sender"] for line in sent}) == 2
