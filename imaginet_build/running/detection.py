"""A trained detector put to use: brought to another runtime, shown single images, or served as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imaginet_build import detect as detects
from imaginet_build.baseline.export import Exported
from imaginet_build.baseline.export import export as write
from imaginet_build.detecting.keeper import Keeper
from imaginet_build.detecting.page import Page
from imaginet_build.errors import UsageError
from imaginet_build.running.workspace import Session


def export(
    session: Session,
    out: Path | None = None,
    checkpoint: Path | None = None,
    on: Path | None = None,
    precision: str | None = None,
    runtime: str | None = None,
    detector: str | None = None,
) -> Exported:
    """A checkpoint, or the first one trained in the work folder, for another runtime; int8 by the release `on`, or the work
    folder's."""
    root, name = session.store.root, detector or session.recipe.baseline.detector
    if on is None and (root / "release" / "release.json").is_file():
        on = root / "release"
    folder = checkpoint or _trained(root, name)
    return write(folder, out or root / "baseline" / name / "exported", on, precision=precision, runtime=runtime)


def detect(
    paths: Sequence[str],
    checkpoint: Path | None,
    work: Path | None,
    progress: Callable[[int, int, int | None], None],
) -> list[dict[str, Any]]:
    """Look at images with a checkpoint, with the one trained in a work folder, or with the detector that ships."""
    return detects.detect(paths, chosen(checkpoint, work), progress)


@contextmanager
def served(checkpoint: Path | None, work: Path | None, address: str, port: int, hosts: Sequence[str]) -> Iterator[Page]:
    """The page of `detect --serve`, bound and with its detector loaded, for as long as the context lasts."""
    keeper = Keeper(chosen(checkpoint, work))
    try:
        page = Page(keeper, address, port, hosts)
    except UsageError:
        keeper.close()
        raise
    try:
        yield page
    finally:
        page.close()


def chosen(checkpoint: Path | None, work: Path | None) -> Path | None:
    """The checkpoint to look with; None is the one that ships."""
    return _trained(work, "*") if checkpoint is None and work is not None else checkpoint


def _trained(work: Path, name: str) -> Path:
    found = sorted((work / "baseline").glob(f"{name}/seed-*/model.safetensors"))
    if not found:
        what = "nothing" if name == "*" else f"no '{name}'"
        raise UsageError(
            f"{what} is trained in {work}: build-imaginet baseline train --work {work}, or name a checkpoint with --checkpoint"
        )
    return found[0].parent
