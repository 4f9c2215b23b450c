"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The corpus and the published test list beside the repository; tests that need them skip where they are absent."""
    path = ROOT.parent / "shared"
    if not (path / "data" / "index.csv").is_file():
        pytest.skip("../shared is not here")
    return path
