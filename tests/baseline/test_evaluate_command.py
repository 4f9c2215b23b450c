"""`baseline evaluate` as a user types it: one detector, several, on somebody else's images, and what a wrong call is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import run
from PIL import Image

from imaginet_build import report
from imaginet_build.errors import UsageError
from imaginet_build.running import evaluation, evaluationtext
from imaginet_build.running.evaluation import Asked
from imaginet_build.running.workspace import Session, open_session

FAST = ("--set", "audit.bootstrap=20")


@pytest.fixture(scope="module")
def work(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a release, and beside it a folder of other images, two of which are in its train split."""
    from imaginet_build.baseline.data import splits

    place = tmp_path_factory.mktemp("command")
    shutil.copytree(tiny, place / "work" / "release")
    (place / "work" / "release" / "release.json").write_text(json.dumps({"digest": "d" * 64, "files": {}}))
    for k in range(8):
        for half in ("real", "fake/tool"):
            path = place / "theirs" / half / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((64, 64), 12 + 9 * k + len(half)).convert("RGB").save(path)
    train = splits(tiny)["train"]
    (place / "theirs" / "real" / "held.jpg").write_bytes(train.read(train.label.tolist().index(0)))
    return place


def session(work: Path) -> Session:
    return open_session(None, work / "work", ["audit.bootstrap=20"])


def test_one_detector_with_one_more_training_for_each_generator(work: Path) -> None:
    shown = evaluationtext.text(evaluation.evaluate(session(work), Asked(["spectral"], leave_one_out=True)))
    for said in (
        "worst generator",
        "mean of 2",
        "frozen on the calibration split of release (24 images)",
        "leave one generator out",
    ):
        assert said in shown
    assert "smoothness, learned smoothness: of 16 real images" in shown
    assert "permuted labels reach an AUC of" in shown
    found = json.loads((work / "work" / "baseline" / "results.json").read_text())
    assert set(found["leave_one_out"]["generators"]) == {"soft", "softer"}
    assert "leave_one_out,softer,auc" in (work / "work" / "baseline" / "results.csv").read_text()
    page = report.report(work / "work").read_text()
    assert "The worst generator beside the mean" in page
    assert "Leave one generator out" in page


def test_several_are_a_leaderboard_on_somebody_elses_images(work: Path) -> None:
    done = run(
        "baseline", "evaluate", "--work", "work", "--detector", "spectral", "--detector", "onnx", "--on", "theirs",
        "--out", "board", "--json", *FAST, cwd=work,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {row["detector"] for row in found["leaderboard"]} == {"spectral", "onnx", "nopixel"}
    assert found["contamination"]["left_out"] == ["real/held.jpg"]
    assert "real/held.jpg" in done.stderr
    assert "theirs:" not in done.stderr
    assert {path.name for path in (work / "board").iterdir()} == {
        "leaderboard.json", "leaderboard.csv", "leaderboard.html", "scores.csv",
    }  # fmt: skip
    assert found["detectors"]["spectral"]["tracks"]["origin"]["threshold_from"].startswith("calibration split of release")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(["spectrl"]), "did you mean 'spectral'"),
        (Asked(["small"]), "'small' is not trained yet"),
        (Asked(["spectral", "onnx"], checkpoint=Path("x")), "--checkpoint belongs to one detector"),
        (Asked(["spectral"], on="theirs", leave_one_out=True), "no --on"),
        (Asked(["spectral"], checkpoint=Path("x"), leave_one_out=True), "a checkpoint is none of them"),
        (Asked(["spectral"], real=Path("nowhere")), "is a release, which has real images of its own"),
        (Asked(["spectral"], on="theirs", condition="zzz"), "no condition 'zzz'. There are: centre"),
        (Asked(["spectral"], on="theirs", sketched=[Path("nowhere")]), "no sketch at nowhere"),
        (Asked(["spectral"], on="thiers"), "no file or folder thiers"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(work: Path, asked: Asked, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluation.evaluate(session(work), asked)


def test_a_checkpoint_folder_is_a_detector_too(work: Path, trained: Path) -> None:
    found = evaluation.evaluate(session(work), Asked([str(trained)]))
    assert (found["detector"], found["checkpoint"]) == (str(trained), [str(trained)])
    assert found["tracks"]["generator"]["by_generator"]["accuracy"] is not None
    assert "Who was taken for whom, by generator" in report.report(work / "work").read_text()
