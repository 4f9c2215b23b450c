"""The command line: what it says, where it says it, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import run
from PIL import Image

from imaginet_build import cli
from imaginet_build.cli.options import shard_of
from imaginet_build.errors import UsageError
from imaginet_build.records import random_of


def folder_of(path: Path, count: int, salt: str) -> Path:
    path.mkdir(parents=True)
    for number in range(count):
        pixels = random_of(f"{salt}{number}", "cli").integers(0, 256, (40, 40, 3), dtype="uint8")
        Image.fromarray(pixels).resize((160, 160)).save(path / f"{number}.png")
    return path


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run("--help", cwd=tmp_path).stdout
    for command in (
        "run",
        "prompts",
        "generate",
        "collect",
        "balance",
        "audit",
        "publish",
        "baseline",
        "detect",
        "report",
        "doctor",
    ):
        assert f"  {command} " in shown


def test_version(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == "imaginet-build 0.1.0\n"


def test_a_misspelt_generator_names_the_nearest_one(tmp_path: Path) -> None:
    said = run("generate", "--generator", "sdlx", cwd=tmp_path, code=2).stderr
    assert said.startswith("build-imaginet: no generator 'sdlx' in manifests/generators; did you mean 'sdxl'?")
    assert "build-imaginet generate --list" in said


def test_weights_that_are_not_here_are_one_sentence(tmp_path: Path) -> None:
    said = run("generate", "--generator", "sdxl", "--limit", "4", cwd=tmp_path, code=2).stderr
    assert "stabilityai/stable-diffusion-xl-base-1.0" in said
    assert "hf download" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("command", "names"), [("balance", "collect"), ("publish", "balance"), ("baseline", "publish")])
def test_the_users_calls_in_an_empty_folder_say_what_is_missing(tmp_path: Path, command: str, names: str) -> None:
    done = run(command, cwd=tmp_path, code=2)
    assert f"build-imaginet {names}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_lists_are_what_the_design_promises(tmp_path: Path) -> None:
    for command in ("generate", "collect"):
        rows = json.loads(run(command, "--list", "--json", cwd=tmp_path).stdout)
        assert rows
        promised = {"name", "adapter", "family", "bundled", "licence", "revision", "ready", "needs"}
        more = {"title", "terms", "redistribute"} if command == "collect" else set()
        assert all(promised | more <= row.keys() for row in rows)
    assert {"tiny-vae", "sdxl"} <= {row["name"] for row in json.loads(run("generate", "--list", "--json", cwd=tmp_path).stdout)}


def test_every_fault_of_a_recipe_is_named_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\n[balanse]\nradius = 6\n[[collect]]\nsource = "foldr"\n[equalize]\nside = [9]\n')
    said = run("run", recipe, cwd=tmp_path, code=2).stderr
    assert "balanse" in said
    assert "did you mean 'balance'?" in said
    assert "foldr" in said
    assert "side" in said
    assert not (tmp_path / "work").exists()


def test_a_wrong_path_names_the_nearest(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 1, "a")
    said = run("audit", "photo", cwd=tmp_path, code=2).stderr
    assert "photos" in said


def test_shards_are_checked() -> None:
    assert shard_of("2/8") == (2, 8)
    for wrong in ("0/2", "3/2", "a/b", "2"):
        with pytest.raises(UsageError, match="--shard"):
            shard_of(wrong)


def test_another_recipe_on_the_same_work_folder_is_refused(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images" / "real", 3, "r").parent
    run("collect", "--recipe", "folders", "--set", f"root={images}", "--work", "w", cwd=tmp_path)
    said = run("collect", "--recipe", "quickstart", "--work", "w", cwd=tmp_path, code=2).stderr
    assert "begun with another recipe" in said
    assert "name: " in said


def test_audit_of_two_folders(tmp_path: Path) -> None:
    folder_of(tmp_path / "real", 30, "r")
    fake = folder_of(tmp_path / "fake", 30, "f")
    for path in fake.glob("*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"))
        path.unlink()
    done = run("audit", "--real", "real", "--fake", "fake", "--json", cwd=tmp_path, code=3)
    document = json.loads(done.stdout)
    assert document["gate"]["verdict"] == "refused"
    assert document["gate"]["value"] == 1.0
    extension = next(p for p in document["probes"] if p["track"] == "origin" and p["probe"] == "extension")
    assert extension["balanced_accuracy"] == 1.0
    assert all(leak["remedy"] for leak in document["leaks"])


def test_the_published_list_is_refused(shared: Path, tmp_path: Path) -> None:
    done = run("audit", shared / "reference" / "imaginet-test-annotations.txt", cwd=tmp_path, code=3)
    assert "0.7875" in done.stdout
    assert "0.844" in done.stdout
    assert "1.0000" in done.stdout


def test_doctor_says_what_works(tmp_path: Path) -> None:
    rows = json.loads(run("doctor", "--json", cwd=tmp_path).stdout)
    assert all({"name", "ok", "detail", "remedy"} <= row.keys() for row in rows)
    assert any("python" in row["name"].lower() for row in rows)


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    folder_of(tmp_path / "real", 40, "r")
    folder_of(tmp_path / "fake", 40, "f")
    # What a shell starts in its background inherits that Ctrl-C is ignored, and would train to the end.
    heeding = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from imaginet_build.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, "run", "--real", "real", "--fake", "fake", "--work", "w"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    first = process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    said = first + process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said.endswith("build-imaginet: interrupted: what was finished is kept; the same command goes on from here\n")
    assert "Traceback" not in said


def test_a_refused_call_leaves_no_work_folder(tmp_path: Path) -> None:
    run("generate", "--generator", "sdxl", cwd=tmp_path, code=2)
    assert not (tmp_path / "work" / "imaginet").exists()


def test_a_track_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "origin" in run("baseline", "evaluate", "--track", "foo", cwd=tmp_path, code=2).stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").symlink_to("/dev/full")
    with (tmp_path / "list.jsonl").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as raised:
        full.write(b"prompts")
    assert raised.value.errno in cli.MEND


@pytest.mark.parametrize("number", sorted(cli.MEND))
def test_a_fault_of_the_disk_says_what_to_do(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "at fault", "parts/a.parquet")

    monkeypatch.setattr("imaginet_build.running.stages.doctor", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "parts/a.parquet" in said
    assert os.strerror(number) in said
    assert cli.MEND[number] in said


def test_any_other_fault_of_the_system_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ProcessLookupError(3, "no such process")

    monkeypatch.setattr("imaginet_build.running.stages.doctor", fail)
    with pytest.raises(ProcessLookupError):
        cli.main(["doctor"])


def test_a_reader_that_goes_away_leaves_the_exit_code_as_it_is(tmp_path: Path) -> None:
    """`audit … | head`: what the gate said still counts."""
    lines = [f"./{k}/{i}.{'jpg' if k else 'png'},{k},0,0,0\n" for i in range(60) for k in (0, 1)]
    (tmp_path / "list.txt").write_text("".join(lines), encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "imaginet_build", "audit", "list.txt", "--json"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (3, "")
