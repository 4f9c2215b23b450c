"""What was pushed, seen by others: killed at twenty moments, loaded, audited, collected, and read by an independent client."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
import small_release
from hub_client import environment

pytestmark = pytest.mark.prove
KILLS = 20
DRIVER = Path(hub_server.__file__).with_name("push_driver.py")


@pytest.fixture
def hub() -> Iterator[hub_server.Hub]:
    with hub_server.running() as hub:
        yield hub


def start(hub: hub_server.Hub, home: Path, *command: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=environment(hub, home), text=True, cwd=home.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(hub: hub_server.Hub, home: Path, *command: object) -> str:
    process = start(hub, home, *command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    assert hub.token not in out + err
    return out


def test_killed_at_twenty_random_moments_a_push_is_made_once_and_every_byte_is_right(hub, tmp_path):
    """Moments are counted in calls that the Hub has met, so that every phase is hit however fast the machine is."""
    chance = random.Random(6)
    kills, sets, phases = 0, 0, set()
    while kills < KILLS:
        name = f"me/set-{sets}"
        folder = small_release.make(tmp_path / f"release-{sets}", seed=name)
        whole, sets = small_release.contents(folder), sets + 1
        while True:
            before, moment = len(hub.calls), chance.randrange(1, chance.choice((12, 40, 70)))
            process = start(hub, tmp_path / "home", DRIVER, folder, name, "v1")
            while process.poll() is None and len(hub.calls) < before + moment:
                time.sleep(0.0005)
            time.sleep(chance.random() * 0.01)
            process.send_signal(signal.SIGKILL)
            _, err = process.communicate()
            hub.quiet()
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, err
                break
            kills += 1
            phases.add(hub.calls[-1])
            repo = hub.repos.get(name)
            if repo:
                assert repo.files() in ({}, whole), "readers see nothing or everything"
                assert len(repo.commits) == 1 + bool(repo.files())
                assert set(repo.tags.values()) <= {repo.branches["main"]}
            if kills % 4 == 0:  # the next set is sent from its beginning
                finish(hub, tmp_path / "home", DRIVER, folder, name, "v1")
                break
        repo = hub.repos[name]
        assert [commit.title for commit in repo.history()] == ["initial commit", "Publish Small set v1"]
        assert repo.tags == {"v1": repo.branches["main"]}
        assert repo.files("v1") == whole
        shutil.rmtree(folder)
    assert len(hub.sent) == len(set(hub.sent)), "nothing that had arrived travelled again"
    assert len(phases) >= 4, "calls of several kinds were cut off"


LOADER = """
import hashlib, json, sys
import datasets
folder, repo, commit = sys.argv[1:]
def rows(name, place, **how):
    found = {}
    for split, table in datasets.load_dataset(place, name, **how).items():
        for row in table.cast_column("image", datasets.Image(decode=False)) if not how["streaming"] else table.decode(False):
            names = table.features["label"].names
            found[f"{split} {row['id']} {names[row['label']]}"] = hashlib.sha256(row["image"]["bytes"]).hexdigest()
            assert found[f"{split} {row['id']} {names[row['label']]}"] == row["sha256"]
    return found
for name in ("equalized", "native"):
    all = [rows(name, place, streaming=streaming, **how)
           for streaming in (True, False)
           for place, how in ((folder, {}), (repo, {"revision": commit}), (repo, {"revision": "v1"}), (repo, {}))]
    assert all[0] and all.count(all[0]) == 8, [len(a) for a in all]
picture = datasets.load_dataset(repo, streaming=True)["train"]
assert next(iter(picture))["image"].size == (40, 32)
from imaginet_build.collectors.hub import Hub
from imaginet_build.records import Want
had = Hub(repo, revision=commit, config="native", label="label", key="id", category_column="content_type")
found = had.find(Want("hub", None, 0, frozenset()))
had = {item.source_key: (item.origin, hashlib.sha256(item.data).hexdigest()) for item in found}
print(json.dumps({"rows": len(all[0]), "collected": had}))
"""
"""Every row of both views from four places, streamed and not; then the collector's own eyes."""


def test_it_loads_from_folder_and_hub_is_collected_back_and_audited_by_its_name(hub, tmp_path):
    folder = small_release.make(tmp_path / "release")
    done = json.loads(finish(hub, tmp_path / "home", DRIVER, folder, "me/set", "v1"))
    said = json.loads(finish(hub, tmp_path / "home", "-c", LOADER, folder, "me/set", done["commit"]).splitlines()[-1])
    rows = {f"train{n}": small_release._row("one", "native", "train", n) for n in range(small_release.ROWS["train"])}
    assert said["rows"] == sum(small_release.ROWS.values())
    assert said["collected"] == {k: [["real", "synthetic"][row["label"]], row["sha256"]] for k, row in rows.items()}
    words = ("-m", "imaginet_build", "audit", "--json", "--no-pixels")
    here, there = start(hub, tmp_path / "home", *words, folder), start(hub, tmp_path / "home", *words, "me/set")
    answers = [process.communicate(timeout=300) for process in (here, there)]
    assert [process.returncode for process in (here, there)] == [0, 0], answers
    here_said, there_said = (json.loads(out) for out, _ in answers)
    assert there_said["rows"] == 2 * said["rows"]
    assert {k: v for k, v in there_said.items() if k != "target"} == {k: v for k, v in here_said.items() if k != "target"}


def test_an_independent_client_reads_every_byte_and_what_it_adds_stays(hub, root, tmp_path):
    library = root / ".venv" / "js" / "node_modules" / "@huggingface" / "hub" / "dist" / "index.mjs"
    if not shutil.which("node") or not library.is_file():
        pytest.skip("needs node and @huggingface/hub: make prove installs it where npm is")
    folder = small_release.make(tmp_path / "release")
    finish(hub, tmp_path / "home", DRIVER, folder, "me/set", "v1")

    def read(*words: str) -> dict[str, str]:
        done = subprocess.run(
            ["node", root / "tests" / "support" / "hub_reader.mjs", library, *words],
            env=environment(hub, tmp_path / "home") | {"REPO": "me/set"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return {path: digest for path, digest in found.items() if path != ".gitattributes"}

    mine = {path: hashlib.sha256(data).hexdigest() for path, data in small_release.contents(folder).items()}
    assert read("v1") == mine
    note = hashlib.sha256(b"hello").hexdigest()
    assert read("main", "hello") == mine | {"notes.txt": note, "big.bin": note}
    small_release.seal(folder, title="Next")
    done = json.loads(finish(hub, tmp_path / "home", DRIVER, folder, "me/set", "v2"))
    assert done["kept"] == ["big.bin", "notes.txt"]
    assert hub.repos["me/set"].files("v2") == small_release.contents(folder) | {"notes.txt": b"hello", "big.bin": b"hello"}
