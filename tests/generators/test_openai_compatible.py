"""Against an OpenAI-compatible server that nobody here wrote (museq, in an environment of its own), by a card's base URL."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from inline import Inline

from imaginet_build import engine
from imaginet_build.errors import UsageError
from imaginet_build.generate import generate
from imaginet_build.generators import conformance
from imaginet_build.generators.openai_images import OpenAIImages
from imaginet_build.paying.ledger import Ledger
from imaginet_build.recipe import Generate
from imaginet_build.store import Store

PYTHON = Path(sys.prefix) / "museq" / "bin" / "python"
SERVER = Path(__file__).parent.parent / "support" / "museq_server.py"
CARD = """
adapter = "imaginet_build.generators.openai_images:OpenAIImages"
family = "sd"
licence = "none, random weights"
key_variable = ""
model = "tiny"
base_url = "{url}"
options = {{ steps = 2, guidance = 1.5 }}
"""


@pytest.fixture(scope="module")
def served(tiny_sd):
    if not PYTHON.is_file():
        pytest.skip("museq is not installed: make prove installs it in an environment of its own")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([PYTHON, SERVER, tiny_sd, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n", f"museq ended with {process.wait()}"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.mark.prove
def test_a_foreign_server_is_one_card(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", Inline())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "manifests" / "generators").mkdir(parents=True)
    (tmp_path / "manifests" / "generators" / "ours.toml").write_text(CARD.format(url=served))
    (tmp_path / "list.txt").write_text("a red barn\nthe old harbour at dawn\nan empty tram")
    wanted = Generate(generator="ours", category="photos", count=3, batch=3, prompts="list.txt", width=64, height=64)
    done = generate(Store(tmp_path / "work"), [wanted], 0, engine.Pool(workers=1))
    assert (done.total, done.rejected) == (3, {})
    rows = Store(tmp_path / "work").facts().to_pylist()
    assert {(row["width"], row["height"], row["codec"], row["family"]) for row in rows} == {(64, 64, "png", "sd")}
    assert json.loads(rows[0]["params"])["options"] == {"steps": 2, "guidance": 1.5}
    assert Ledger(tmp_path / "work" / "paid" / "ours").read().totals.answered == 3


@pytest.mark.prove
def test_its_refusals_are_ours(served, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    orders = conformance.orders(3, 64, 64, needs="prompt")
    drawn = list(OpenAIImages("tiny", served, "").draw(orders))
    assert all(isinstance(one, bytes) for one in drawn)
    with pytest.raises(UsageError, match="has no images endpoint or no model 'another'"):
        list(OpenAIImages("another", served, "").draw(orders))
    (small,) = OpenAIImages("tiny", served, "").draw(conformance.orders(1, 48, 48, needs="prompt"))
    assert small.reason == "bad-request"
    assert "out of supported range" in small.detail
