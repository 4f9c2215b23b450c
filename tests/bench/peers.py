"""Environments for peers that pin old packages: made once under build/peers, never mixed with this project's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / "build" / "peers"


def environment(*requirements: str) -> Path:
    """The folder of programs of an environment with exactly these packages (and what they bring).

    Raises `RuntimeError` with pip's own words where they cannot be installed.
    """
    folder = PLACE / "+".join(requirements).replace("/", "-")
    ready = folder / ".ready"
    if not ready.is_file():
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", folder], capture_output=True, text=True, check=False)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements]
        done = made if made.returncode else subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(requirements)} cannot be installed: {done.stderr.strip()[-500:]}")
        ready.touch()
    return folder / "bin"
