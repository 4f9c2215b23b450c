"""The audit as people use it: a data set of the Hub, a remedy that is run and works, a refusal that is forced out."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import served
from pictures import encoded, jpeg, picture
from PIL import Image

from imaginet_build.cli import main
from imaginet_build.releases.release import read_manifest


def two_classes(root: Path, count: int = 15) -> Path:
    """Real JPEGs with a camera's EXIF, synthetic PNGs: what one finds in the world."""
    exif = Image.Exif()
    exif[271] = "Canon"
    for i in range(count):
        for origin in ("real", "synthetic"):
            folder = root / origin / "photos" / ("album" if origin == "real" else "tiny")
            folder.mkdir(parents=True, exist_ok=True)
            if origin == "real":
                (folder / f"{i}.jpg").write_bytes(jpeg(f"real {i}", 150, 140, exif=exif.tobytes()))
            else:
                (folder / f"{i}.png").write_bytes(encoded(picture(f"fake {i}", 150, 140)))
    return root


class Here:
    """The command line in this process, which is many times faster than one for each call."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """What it says on stdout, then on stderr; its exit code must be `code`."""
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = self.capsys.readouterr()
        assert ended.value.code in ((0, None) if code == 0 else (code,)), f"{ended.value.code}\n{said.out}\n{said.err}"
        return said.out or said.err

    def typed(self, command: str) -> None:
        """A command of ours as it stands in a message, `&&` and all."""
        for part in command.split(" && "):
            words = shlex.split(part)
            assert words[0] == "build-imaginet"
            self(*words[1:])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(capsys)


def test_a_remedy_is_run_as_it_is_written_and_the_leak_is_gone(tmp_path: Path, run: Here) -> None:
    two_classes(tmp_path / "images")
    few = ("--set", "audit.permutations=20")
    run("collect", "--recipe", "folders", "--set", f"root={tmp_path / 'images'}", *few, "--work", "w")
    before = json.loads(run("audit", "--work", "w", "--no-pixels", "--json", code=3))
    assert (before["kind"], before["gate"]["verdict"], before["gate"]["value"]) == ("work", "refused", 1.0)
    leaks = {leak["probe"]: leak for leak in before["leaks"]}
    assert {"extension", "codec", "exif", "all"} <= leaks.keys()
    assert len({leak["remedy"].rpartition(": ")[2] for leak in leaks.values()}) == 1
    run.typed(leaks["exif"]["remedy"].rpartition(": ")[2])
    after = json.loads(run("audit", "--work", "w", "--no-pixels", "--json"))
    assert after["kind"] == "release"
    assert after["gate"]["verdict"] != "refused"
    assert after["gate"]["value"] <= 0.55
    assert [leak for leak in after["leaks"] if leak["view"] == "equalized"] == []
    assert {leak["probe"] for leak in after["leaks"] if leak["view"] == "native"} >= {"extension", "exif"}
    assert (
        json.loads((tmp_path / "w" / "audit.json").read_text())["digest"] == read_manifest(tmp_path / "w" / "release")["digest"]
    )
    if after["gate"]["verdict"] == "undecided":
        assert f"undecided: {after['gate']['groups']} groups" in (tmp_path / "w" / "release" / "README.md").read_text()


@pytest.mark.prove
def test_a_refused_release_leaves_only_by_force_and_its_card_says_so(tmp_path: Path, run: Here) -> None:
    """The native view alone is published: nothing equalizes it."""
    two_classes(tmp_path / "images")
    sets = (
        "--set",
        f"root={tmp_path / 'images'}",
        "--set",
        'publish.views=["native"]',
        "--set",
        "audit.pixels=false",
        "--set",
        "audit.permutations=20",
    )
    work = ("--recipe", "folders", *sets, "--work", "w")
    run("collect", *work)
    run("balance", "--work", "w")
    refused = run("publish", "--work", "w", "--out", "out", code=3)
    assert "the audit refuses" in refused
    assert not (tmp_path / "out").exists()
    run("publish", "--work", "w", "--out", "out", "--force")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**The gate refuses this data set.** It was published against the audit's advice, with `publish --force`." in card
    assert "Verdict: **refused**" in card
    assert read_manifest(tmp_path / "out")["gate"]["forced"] is True
    assert "with `publish --force`" in (tmp_path / "w" / "release" / "README.md").read_text()


def hub_rows(path: Path, count: int = 30) -> None:
    """A data set of somebody else: other words, a label nobody knows, captions, an embedding."""
    rows = []
    for i in range(2 * count):
        real = i % 2 == 0
        data = jpeg(f"hub {i}", 64, 64) if real else encoded(picture(f"hub {i}", 64, 64))
        words = f"a photograph of a street, number {i}" if real else f"masterpiece, highly detailed portrait, number {i}"
        rows.append(
            {"image": {"bytes": data, "path": None}, "label": 1 if real else 0, "caption": words}
            | {"embedding": [float(real), float(i % 7), 1.0]}
        )
    rows.append({"image": {"bytes": data, "path": None}, "label": -1, "caption": "?", "embedding": None})
    table = pa.Table.from_pylist(rows)
    names = {"info": {"features": {"label": {"names": ["fake", "real"], "_type": "ClassLabel"}}}}
    path.parent.mkdir(parents=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), path)


@pytest.mark.prove
def test_a_data_set_of_the_hub_through_the_true_client(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    hub_rows(tmp_path / "hub" / "faces" / "default" / "train-00000-of-00001.parquet")

    def audit(name: str, address: str) -> subprocess.CompletedProcess[str]:
        place = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        ask = ("audit", name, "--json", "--no-pixels", "--set", "audit.permutations=20")
        return subprocess.run(
            [sys.executable, "-m", "imaginet_build", *ask], cwd=tmp_path, env=os.environ | place,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    with served(tmp_path / "hub") as address:
        done, gone = audit("lab/faces", address), audit("lab/nothing", address)
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert (said["kind"], said["rows"], said["gate"]["verdict"], said["gate"]["value"]) == ("release", 60, "refused", 1.0)
    assert [one["reason"] for one in said["unreadable"]] == ["unknown-label"]
    by_name = {p["probe"]: p for p in said["probes"] if p["track"] == "origin" and p["scope"] == "all"}
    for name in ("words", "embedding"):
        assert by_name[name]["balanced_accuracy"] > 0.9
        assert by_name[name]["gate"] is False
        assert said["notes"][name].startswith("should not tell")
    assert gone.returncode == 2
    assert "lab/nothing" in gone.stderr
    assert "Traceback" not in gone.stderr
