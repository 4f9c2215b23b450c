"""What every test may ask for."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import QUICKSTART, run
from inline import Inline

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


@pytest.fixture
def built(tmp_path: Path) -> object:
    """A work folder whose images come under several licences, balanced (`licensed.Built`)."""
    import licensed

    return licensed.work(tmp_path)


@pytest.fixture(scope="module")
def no_processes() -> Iterator[None]:
    """The stages of a run without processes of their own, one task after the other."""
    from imaginet_build import engine
    from imaginet_build.running import stages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", Inline())
        patch.setattr(stages, "_ordered", lambda pool, function, tasks: map(function, tasks))
        yield


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `work/quickstart` was built by the real command, once for all test processes. Read it, do not write."""
    pytest.importorskip("torch")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "quickstart"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "summary.json").is_file():
            done = run("run", "quickstart", "--json", *QUICKSTART, cwd=folder)
            (folder / "summary.json").write_text(done.stdout)
    assert json.loads((folder / "summary.json").read_text())["images"] > 0
    return folder
