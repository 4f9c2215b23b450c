"""The page of `detect --serve` in a real Chromium: a file chosen and a file dropped, in light and in dark."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

pytestmark = pytest.mark.prove
DRIVER = Path(__file__).resolve().parents[1] / "support" / "detect_browser.mjs"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "imaginet_build", "detect", "--serve", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            while not said.rstrip().endswith("}"):
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                said += line
            yield json.loads(said)["url"]
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == ""


@pytest.fixture
def seen(url: str, tmp_path: Path, root: Path) -> dict[str, Any]:
    library = root / ".venv" / "js" / "node_modules" / "playwright-core" / "index.mjs"
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not (browser and shutil.which("node") and library.is_file()):
        pytest.skip("needs node, Chromium and playwright-core: make prove installs the last where npm is")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "<script>alert(1)</script> a cat, Steps: 20")
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=text)
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = subprocess.run(
        ["node", DRIVER, library, browser, url, tmp_path / "a.png", tmp_path / "broken.png", tmp_path],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_chosen_and_a_dropped_file_get_their_verdict_and_nothing_leaves_this_machine(
    seen: dict[str, Any], url: str, tmp_path: Path
) -> None:
    assert seen["errors"] == []
    assert {urlsplit(one.removeprefix("blob:")).netloc for one in seen["requests"]} == {urlsplit(url).netloc}
    states = {state["how"]: state for state in seen["seen"]}
    for scheme in ("light", "dark"):
        assert states[f"{scheme} tab"]["focus"] == "file", "the chooser is the first thing that Tab reaches"
        for how in ("chosen", "dropped"):
            state = states[f"{scheme} {how}"]
            assert "P(synthetic)" in state["verdict"]
            assert state["focus"] == "verdict", "a screen reader goes on at the verdict"
            assert state["patches"] > 10
            assert state["painted"]
            assert state["shown"] == 400
            assert state["c2pa"] == "No C2PA manifest."
            assert "<script>alert(1)</script> a cat" in state["metadata"], "what the file says is text, not HTML"
            assert state["contrast"] >= 4.5
        broken = states[f"{scheme} broken"]
        assert broken["verdict"] is None
        assert "<img src=x onerror=alert(1)>broken could not be looked at: not-an-image" in broken["status"]
    names = {path.name for path in tmp_path.iterdir()}
    shots = {f"{scheme}-{how}.png" for scheme in ("light", "dark") for how in ("chosen", "dropped", "broken")}
    assert names == {"a.png", "broken.png"} | shots, "the server wrote nothing"
