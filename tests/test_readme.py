"""The README is part of the product: every command in it runs, in its order, in a folder such as it speaks of."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command import QUICKSTART, run

README = Path(__file__).resolve().parent.parent / "README.md"
COMMANDS = re.findall(
    r"^build-imaginet (.+?)(?:\s+#.*)?$", "\n".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.S)), re.M
)


def test_it_shows_the_two_doors_first_then_pip_then_everyday_use() -> None:
    text = README.read_text(encoding="utf-8")
    places = [
        text.index(word) for word in ("make quickstart", "make test", ".venv/bin/pip install", "--real photos --fake generated")
    ]
    assert places == sorted(places)


def test_its_make_targets_exist() -> None:
    rules = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", README.read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", rules, re.M), target


def test_its_pictures_and_pages_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).is_file(), target


def test_its_table_of_commands_is_the_command_line(tmp_path: Path) -> None:
    table = README.read_text(encoding="utf-8").partition("## Commands")[2].partition("```")[0]
    named = set(re.findall(r"^\| `([a-z]+)", table, re.M))
    shown = run("--help", cwd=tmp_path).stdout.partition("Commands:")[2]
    assert named == set(re.findall(r"^  ([a-z]+) ", shown, re.M))


@pytest.fixture(scope="module")
def users_folder(quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` and `generated` beside a finished `work/quickstart`."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(quickstart / "work", folder / "work")
    for part in sorted((folder / "work/quickstart/parts").rglob("*.parquet")):
        for row in pq.read_table(part, columns=["id", "generator", "origin", "image"]).to_pylist():
            place = folder / ("photos" if row["origin"] == "real" else f"generated/{row['generator']}")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row['id']}.png").write_bytes(row["image"])
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(users_folder: Path, command: str) -> None:
    if command.startswith("run pipelines/folders.toml"):
        return  # tests/test_corpus.py runs it on the real corpus
    words = shlex.split(command)
    if words[0] == "run" and "--real" in words:
        # Less training and smaller crops: the tiny generators draw 128 pixels.
        words += [
            "--set",
            "equalize.side=[96, 128]",
            "--set",
            "baseline.steps=20",
            "--set",
            "baseline.seeds=1",
            *QUICKSTART[2:],
        ]
    # Two folders of lossless images whose sizes differ by class: `audit --real --fake` must refuse them.
    run(*words, cwd=users_folder, code=3 if command.startswith("audit --real") else 0)
