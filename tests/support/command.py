"""The command line as a user meets it: a process of its own, in a folder of his."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QUICKSTART = ("--set", "baseline.steps=30", "--set", "engine.workers=2", "--set", "audit.permutations=20")
"""The shipped quickstart with less training: enough for every stage to have run."""


def run(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`build-imaginet` as a user runs it, in a folder of his; its exit code must be `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "imaginet_build", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
