"""`baseline evaluate`: detectors found by name or by checkpoint, a test found by path or name, and both tied together."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imaginet_build import catalog
from imaginet_build import sketch as sketches
from imaginet_build.duplicates import contamination
from imaginet_build.errors import UsageError
from imaginet_build.running.workspace import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to judge, on what, and how. `detectors`: card names or checkpoint folders; `checkpoint`: of the one detector; `on`:
    a path or a data set of the Hub, the work folder's release without it; `real`, `images`, `calibration`: what a set of
    somebody else does not bring; `sketched`: sketches of training data; `keep`: images that training held stay;
    `leave_one_out`: one more training a generator; `condition`: what every test image goes through; `out`: where the results
    go."""

    detectors: Sequence[str] = ()
    checkpoint: Path | None = None
    on: str | None = None
    real: Path | None = None
    images: Path | None = None
    calibration: Path | None = None
    sketched: Sequence[Path] = ()
    keep: bool = False
    leave_one_out: bool = False
    condition: str | None = None
    out: Path | None = None


def release_of(session: Session) -> Path:
    """The work folder's release. Raises `UsageError` where there is none."""
    folder = session.store.root / "release"
    if not (folder / "release.json").is_file():
        raise UsageError(f"no release in {session.store.root}: run build-imaginet publish first")
    return folder


def evaluate(session: Session, asked: Asked | None = None) -> dict[str, Any]:
    """Judge one detector, or several as a leaderboard. Raises `UsageError` for what cannot be judged."""
    from imaginet_build.baseline.evaluate import evaluate as judged
    from imaginet_build.baseline.leaderboard import leaderboard
    from imaginet_build.baseline.testset import prepare

    asked = asked or Asked()
    names = list(dict.fromkeys(asked.detectors or [session.recipe.baseline.detector]))
    if asked.checkpoint is not None and len(names) > 1:
        raise UsageError(
            "--checkpoint belongs to one detector; name checkpoints by their folders: --detector DIR --detector DIR"
        )
    detectors = [_detector(session, name, asked.checkpoint) for name in names]
    if asked.leave_one_out and (len(detectors) > 1 or asked.on is not None):
        raise UsageError("--leave-one-out trains on the work folder's release: one --detector, and no --on")
    if asked.leave_one_out and (asked.checkpoint or [Path(names[0])] == detectors[0][1]):
        raise UsageError(
            "--leave-one-out trains detectors as the recipe says, and a checkpoint is none of them: name a card with "
            "--detector, and no checkpoint"
        )
    test = prepare(asked.on or release_of(session), around=_around(session, asked))
    bootstrap, out = session.recipe.audit.bootstrap, asked.out
    if len(detectors) > 1:
        place = out or (session.store.root / "baseline" / "leaderboard" if asked.on is None else None)
        return leaderboard(test, detectors, place, bootstrap)
    (name, checkpoints) = detectors[0]
    out = out or (session.store.root / "baseline" if asked.on is None else None)
    document = judged(test, out, detector=name, checkpoints=checkpoints, bootstrap=bootstrap).document
    return _leave_one_out(session, name, test, document, bootstrap, out) if asked.leave_one_out else document


def _detector(session: Session, name: str, checkpoint: Path | None) -> tuple[str, list[Path]]:
    """A detector's name and its checkpoints: one given, those trained in the work folder, or none for a card that is ready."""
    if checkpoint is not None:
        return name, [checkpoint]
    if (Path(name) / "config.json").is_file():
        return name.rstrip("/"), [Path(name)]
    card = catalog.card("detectors", name)
    trained = sorted((session.store.root / "baseline" / name).glob("seed-*"))
    if "preset" in card.options and not trained:
        raise UsageError(
            f"'{name}' is not trained yet in {session.store.root}: run build-imaginet baseline train --detector {name} first, "
            "or name a checkpoint: --checkpoint DIR"
        )
    return name, trained


def _around(session: Session, asked: Asked) -> Any:
    from imaginet_build.baseline.testset import Around

    try:
        home = release_of(session)
    except UsageError:
        home = None
    return Around(
        home=home,
        kept=session.store.root / "baseline" if home is not None else None,
        sketches=[contamination.read(path) for path in asked.sketched],
        measure=sketches.measured,
        keep=asked.keep,
        real=asked.real,
        images=asked.images,
        calibration=asked.calibration,
        condition=asked.condition,
        lock=session.store.root / "cards.lock",
    )


def _leave_one_out(
    session: Session, name: str, test: Any, document: dict[str, Any], bootstrap: int, out: Path | None
) -> dict[str, Any]:
    from imaginet_build.baseline import results
    from imaginet_build.baseline.leaveout import leave_one_out
    from imaginet_build.store import write_text

    card = catalog.card("detectors", name)
    teach = partial(_taught, session, card.options["preset"]) if "preset" in card.options else None
    folder = session.store.root / "baseline" / name / "leave-one-out"
    document["leave_one_out"] = leave_one_out(test, name, teach, folder, document["by_generator"], bootstrap)
    if out is not None:
        write_text(out / results.RESULTS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        write_text(out / results.TABLE, results.table(document))
    return document


def _taught(session: Session, preset: str, generator: str, folder: Path) -> list[Path]:
    """One checkpoint that never saw a generator; a finished one is left as it is, a killed one taken up."""
    from imaginet_build.baseline.settings import Settings
    from imaginet_build.baseline.train import train

    wanted = session.recipe.baseline
    changes = dict(wanted.options) | ({"steps": wanted.steps} if wanted.steps else {})
    place = folder / f"seed-{session.recipe.seed}"
    train(release_of(session), place, Settings.of(preset, seed=session.recipe.seed, **changes), without=generator)
    return [place]
