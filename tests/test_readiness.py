"""What a card still needs is said in sentences, without loading anything; a commit once looked up is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imaginet_build import catalog, readiness

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def cached(root: Path, model: str) -> Path:
    """The hub's cache as it looks after a download."""
    folder = root / "hub" / f"models--{model.replace('/', '--')}"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "model_index.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return folder


def test_a_listing_has_the_promised_columns_and_loads_nothing_heavy() -> None:
    code = (
        "import json, sys; from imaginet_build import catalog\n"
        "rows = [row for kind in catalog.KINDS for row in catalog.listing(kind)]\n"
        "print(json.dumps([rows, sorted({'torch', 'diffusers', 'transformers', 'datasets', 'pandas'} & set(sys.modules))]))"
    )
    root = Path(readiness.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    rows, heavy = json.loads(done.stdout)
    assert heavy == []
    for row in rows:
        assert list(row)[:8] == ["name", "adapter", "family", "bundled", "licence", "revision", "ready", "needs"]
        assert row["ready"] is (row["needs"] == [])


def test_a_source_is_listed_with_its_terms_and_what_must_be_done_by_hand(elsewhere: Path) -> None:
    rows = {row["name"]: row for row in catalog.listing("sources")}
    journey = rows["journeydb"]
    assert (journey["origin"], journey["content_type"], journey["redistribute"]) == ("synthetic", "uncategorized", False)
    assert "Only for non-commercial research" in journey["terms"]
    assert (journey["ready"], journey["licence_read"]) == (False, "2026-11-22")
    assert "hf download --repo-type dataset JourneyDB/JourneyDB" in journey["needs"][0]
    assert rows["folder"]["redistribute"] is None


def test_a_sources_files_are_looked_for_where_the_recipe_says(elsewhere: Path) -> None:
    card = catalog.card("sources", "lsun")
    (why,) = catalog.missing(card, {"root": "data/progan_train.7z"})
    assert why.startswith("there is nothing at data/progan_train.7z. Download progan_train")
    (elsewhere / "data").mkdir()
    (elsewhere / "data" / "progan_train.7z.001").touch()
    assert catalog.missing(card, {"root": "data/progan_train.7z"}) == []
    assert catalog.missing(card, {"root": "memory://anywhere"}) == []


def test_weights_that_are_not_here_are_named_with_the_command_that_fetches_them(elsewhere: Path) -> None:
    card = catalog.card("generators", "sdxl")
    model = "stabilityai/stable-diffusion-xl-base-1.0"
    assert f"the weights of {model} are not on this machine: hf download {model}" in catalog.missing(card)
    cached(elsewhere, model)
    assert not any("weights" in why for why in catalog.missing(card))


def test_gated_weights_say_whose_licence_must_be_accepted() -> None:
    [why] = [why for why in catalog.missing(catalog.card("generators", "flux1-dev")) if "weights" in why]
    assert "accept its licence at https://huggingface.co/black-forest-labs/FLUX.1-dev, set HF_TOKEN" in why


def test_keys_packages_and_adapters_that_are_missing_are_each_a_sentence(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAB_KEY", raising=False)
    (elsewhere / "manifests" / "detectors").mkdir(parents=True)
    (elsewhere / "manifests" / "detectors" / "mine.toml").write_text(
        'adapter = "no_such_lab.detector:Mine"\nlicence = "MIT"\nneeds = "api"\npackages = ["no-such-package"]\n'
        'environment = ["LAB_KEY"]\nmodel = "./weights"\n'
    )
    assert catalog.missing(catalog.card("detectors", "mine")) == [
        "its adapter's module no_such_lab.detector is not installed",
        "it needs no-such-package: pip install 'imaginet-build[api]'",
        "it needs LAB_KEY in the environment: export LAB_KEY=...",
        "there is nothing at ./weights",
    ]


def test_the_packages_of_an_extra_include_those_of_the_extras_it_names() -> None:
    names = readiness._packages_of("quickstart", set())
    assert {"torch", "diffusers", "datasets", "onnx", "scikit-image"} <= set(names)
    assert "imaginet-build" not in names


def test_the_commit_of_a_local_copy_is_taken_without_asking_anybody(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = catalog.card("generators", "sd15")
    cached(elsewhere, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    lock = elsewhere / "work" / "cards.lock"
    assert catalog.resolve(card, lock) == COMMIT
    assert f"is now fixed at commit {COMMIT}" in caplog.text
    assert catalog.locked(card, lock) == COMMIT
    [row] = [row for row in catalog.listing("generators", lock) if row["name"] == "sd15"]
    assert row["revision"] == COMMIT


def test_what_was_recorded_once_is_used_from_then_on(elsewhere: Path) -> None:
    card = catalog.card("generators", "sd15")
    lock = elsewhere / "cards.lock"
    lock.write_text(f'["generators/sd15"]\nmodel = "{card.model}"\nrevision = "{"f" * 40}"\n')
    assert catalog.resolve(card, lock) == "f" * 40
    lock.write_text(f'["generators/sd15"]\nmodel = "some/other"\nrevision = "{"f" * 40}"\n')
    assert catalog.locked(card, lock) is None


def test_a_bundled_model_has_no_commit(elsewhere: Path) -> None:
    assert catalog.resolve(catalog.card("generators", "tiny-gan"), elsewhere / "cards.lock") is None
    assert not (elsewhere / "cards.lock").exists()


class _Hub(BaseHTTPRequestHandler):
    """The one answer of the hub's API that a revision needs."""

    def do_GET(self) -> None:
        sha = COMMIT if "stable-diffusion-xl" in self.path else None
        body = json.dumps({"id": "x/y", "modelId": "x/y", "sha": sha, "siblings": [], "tags": []}).encode()
        self.send_response(200 if self.path.startswith("/api/models/") else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolve_in_a_process(name: str = "sdxl", kind: str = "generators", **environment: str) -> subprocess.CompletedProcess[str]:
    """huggingface_hub reads its settings once, when imported: hence a process of its own."""
    code = (
        "from pathlib import Path; from imaginet_build import catalog\n"
        f"print(catalog.resolve(catalog.card('{kind}', '{name}'), Path('cards.lock')))"
    )
    root = Path(readiness.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hub_is_asked_once_and_its_answer_recorded(hub: str, elsewhere: Path) -> None:
    done = resolve_in_a_process(HF_ENDPOINT=hub)
    assert done.stdout.strip() == COMMIT, done.stderr
    assert COMMIT in (elsewhere / "cards.lock").read_text()
    assert resolve_in_a_process(HF_HUB_OFFLINE="1").stdout.strip() == COMMIT


def test_without_weights_and_network_one_sentence_says_what_is_missing(elsewhere: Path) -> None:
    done = resolve_in_a_process(HF_HUB_OFFLINE="1")
    last = done.stderr.strip().splitlines()[-1]
    assert "sdxl: the weights of stabilityai/stable-diffusion-xl-base-1.0 are not on this machine" in last
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0" in last
    assert not (elsewhere / "cards.lock").exists()


def test_without_a_network_a_data_set_is_called_one_and_its_own_command_is_named(elsewhere: Path) -> None:
    last = resolve_in_a_process("wikiart", "sources", HF_HUB_OFFLINE="1").stderr.strip().splitlines()[-1]
    assert "wikiart: the data set huggan/wikiart is not on this machine and the hub cannot be asked" in last
    assert "hf download --repo-type dataset huggan/wikiart" in last
    assert "weights" not in last


def test_a_hub_that_names_no_commit_is_not_believed(hub: str, elsewhere: Path) -> None:
    done = resolve_in_a_process("sd15", HF_ENDPOINT=hub)
    assert "sd15: the hub names no commit for stable-diffusion-v1-5/stable-diffusion-v1-5" in done.stderr
    assert not (elsewhere / "cards.lock").exists()
