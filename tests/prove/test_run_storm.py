"""A whole run, killed at random moments and begun again: the same ids, the same bytes, the same digest, the same detector."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import run
from PIL import Image

from imaginet_build.records import random_of

pytestmark = pytest.mark.prove

KILLS = 12
SETTINGS = (
    "--set",
    "baseline.steps=30",
    "--set",
    "baseline.seeds=1",
    "--set",
    "audit.permutations=10",
    "--set",
    "engine.workers=2",
)


def picture(path: Path, salt: str, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random_of(f"{salt}{number}", "storm")
    coarse = Image.fromarray(chance.integers(0, 256, (12, 12, 3), dtype="uint8"))
    coarse.resize((220, 200), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storm")
    for number in range(60):
        picture(folder / "images/real/photos/camera" / f"{number}.jpg", "real", number)
        picture(folder / "images/synthetic/photos/machine" / f"{number}.png", "fake", number)
    (folder / "images/real/photos/camera/broken.jpg").write_bytes(b"\xff\xd8 no image")
    return folder


def command(work: str) -> list[str]:
    return ["run", "folders", "--set", "root=images", "--work", work, *SETTINGS]


def state(work: Path) -> dict[str, object]:
    """Everything that must not depend on interruptions."""
    release = json.loads((work / "release/release.json").read_text())
    weights = {str(p.relative_to(work)): hashlib.sha256(p.read_bytes()).hexdigest() for p in work.rglob("model.safetensors")}
    return {"digest": release["digest"], "files": release["files"], "rows": release["rows"], "weights": weights}


def test_killed_at_any_moment_it_ends_the_same(images: Path) -> None:
    # The broken file makes the exit code 1, in every run.
    began = time.monotonic()
    run(*command("calm"), cwd=images, code=1)
    seconds = time.monotonic() - began
    whole = state(images / "calm")
    assert whole["weights"]
    chance = random_of("storm", "moments")
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "imaginet_build", *command("wild")],
            cwd=images, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            # Parts of the undisturbed time, so that a fast machine is struck as often as a slow one.
            process.wait(timeout=seconds * float(chance.uniform(0.05, 0.35)))
        except subprocess.TimeoutExpired:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL) if chance.random() < 0.5 else process.kill()
            process.wait()
    run(*command("wild"), cwd=images, code=1)
    assert killed >= 3
    assert state(images / "wild") == whole
