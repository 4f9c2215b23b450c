"""What must not lie in a repository: paths of a machine, the corpus, large files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / line for line in listed.splitlines() if (root / line).is_file()]


def test_nothing_names_a_place_of_one_machine(files: list[Path]) -> None:
    place = re.compile(r"(?<![\w.}])/(?:root|home|tmp|Users)/\w")
    found = [
        f"{path.name}: {match.group(0)}"
        for path in files
        if path.suffix in (".py", ".toml", ".json", ".md", ".txt", ".j2", "") and path.name != "LICENSE"
        for match in place.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_the_weights_are_small_and_safe(files: list[Path], root: Path) -> None:
    weights = [path for path in files if path.suffix in (".safetensors", ".onnx")]
    assert len(weights) >= 4
    assert sum(path.stat().st_size for path in weights if path.suffix == ".safetensors") <= 10_000_000
    assert all(path.stat().st_size <= 4_000_000 for path in weights)
    assert not [path for path in files if path.suffix in (".pt", ".pth", ".pkl", ".ckpt", ".bin")]


def test_the_top_level_holds_what_was_agreed(files: list[Path], root: Path) -> None:
    top = {path.relative_to(root).parts[0] for path in files}
    agreed = {"imaginet_build", "manifests", "prompts", "pipelines", "tests", "pyproject.toml", "README.md"}
    needed = {"Makefile", "constraints.txt", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".ci", ".gitignore"}
    assert agreed <= top <= agreed | needed
