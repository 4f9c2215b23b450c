"""Doctor says what works here and how to mend what does not, changes nothing, and shows no secret."""

from __future__ import annotations

import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from imaginet_build import doctor
from imaginet_build.doctor import Check, checks


def by_name(found: list[Check]) -> dict[str, Check]:
    assert len({c.name for c in found}) == len(found)
    return {c.name: c for c in found}


def test_everything_is_looked_at_and_what_is_whole_needs_no_remedy(tmp_path: Path) -> None:
    found = by_name(checks(tmp_path / "not yet" / "there"))
    assert {"python", "packages", "devices", "threads", "disk space", "work folder", "generators"} <= found.keys()
    assert found["python"].ok
    assert found["packages"].ok
    assert found["work folder"].ok
    assert all(bool(check.remedy) != check.ok for check in found.values())
    assert list(tmp_path.iterdir()) == []


def test_the_extras_are_those_of_the_package(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    named = {"": project["dependencies"], **project["optional-dependencies"]}
    for extra, names in doctor.EXTRAS.items():
        assert names.split() == [re.split(r"[<>=\[;]", line)[0] for line in named.pop(extra)]
    assert set(named) <= {"quickstart", "ray", "all", "dev"}


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "hub", "huggingface_hub no-such-package")
    check = by_name(checks())["packages: hub"]
    assert check == Check("packages: hub", False, "not installed: no-such-package", "pip install 'imaginet-build[hub]'")


def test_a_key_is_present_or_not_and_its_value_is_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    found = checks()
    assert by_name(found)["key OPENAI_API_KEY"].ok
    assert by_name(found)["key HF_TOKEN"].remedy == "export HF_TOKEN=..."
    assert "sk-secret" not in repr(found)


def test_a_full_disk_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "LEAST_BYTES", 1 << 62)
    check = by_name(checks(tmp_path))["disk space"]
    assert not check.ok
    assert "--work DIR" in check.remedy


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".json"])
def test_a_bundled_model_that_lost_bytes_is_found(tmp_path: Path, suffix: str) -> None:
    models = Path(doctor.__file__).parent / "models"
    victim = tmp_path / f"model{suffix}"
    shutil.copyfile(next(p for p in sorted(models.rglob(f"*{suffix}")) if p.parent != models), victim)
    assert doctor._model_fault(victim, {}) == ""
    victim.write_bytes(victim.read_bytes()[:-100])
    assert doctor._model_fault(victim, {}).startswith(f"model{suffix} is damaged")


def test_a_bundled_model_is_held_against_the_hash_of_its_installation(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    empty_object = "RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o"  # sha256 of {} as RECORD writes it
    path = (tmp_path / "config.json").resolve()
    assert doctor._model_fault(path, {path: empty_object}) == ""
    path.write_text('{"sides": 3}')
    assert doctor._model_fault(path, {path: empty_object}) == "config.json is not the file that was installed"


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_the_hub_is_asked_only_when_told_to(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server)
    assert "hub" not in by_name(checks())
    assert by_name(checks(online=True))["hub"] == Check("hub", True, f"{server} answers (200)")


def test_a_hub_that_does_not_answer_is_said(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    check = by_name(checks(online=True))["hub"]
    assert not check.ok
    assert "cannot be reached" in check.detail
