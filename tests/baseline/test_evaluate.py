from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imaginet_build import catalog
from imaginet_build.baseline import judge
from imaginet_build.baseline.evaluate import Evaluation, evaluate
from imaginet_build.baseline.export import export
from imaginet_build.baseline.testset import Around, prepare
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item, Scores


@pytest.fixture(scope="module")
def judged(tiny: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    out = tmp_path_factory.mktemp("results")
    return evaluate(tiny, out, checkpoints=[trained], bootstrap=40), out


def test_the_document_is_the_promised_one(judged: tuple[Evaluation, Path], trained: Path) -> None:
    document = judged[0].document
    assert {
        "detector",
        "checkpoint",
        "test",
        "seeds",
        "tracks",
        "by_generator",
        "by_content_type",
        "controls",
    } <= document.keys()
    assert (document["detector"], document["checkpoint"], document["seeds"]) == ("small", [str(trained)], [0])
    origin = document["tracks"]["origin"]
    assert {"auc", "ap", "balanced_accuracy", "tpr_at_fpr_1e-2", "ece", "threshold", "ci95"} <= origin.keys()
    assert origin["auc"] > 0.9
    assert origin["ci95"][0] <= origin["auc"] <= origin["ci95"][1]
    assert 0 < origin["threshold"] < 1
    assert origin["reasons"]["tpr_at_fpr_1e-2"] == "needs 1000 negatives, the test has 16"
    for track in ("by_generator", "by_family"):
        assert {"accuracy", "balanced_accuracy", "macro_auc"} <= document["tracks"]["generator"][track].keys()
    assert set(document["by_generator"]) == {"soft", "softer"}
    assert set(document["by_content_type"]) == {"faces", "photos"}
    assert set(document["by_family"]) == {"gan", "sd"}
    assert set(document["by_source"]) == {"unknown"}
    assert set(document["by_size"]) == {"below 256"}
    assert document["by_release"]["undated"] == ["soft", "softer"]
    head = document["headline"]
    assert head["worst"]["auc"]["value"] == min(f["auc"] for f in document["by_generator"].values())
    assert origin["threshold_from"] == "calibration split of tiny0 (24 images)"
    assert set(origin["intervals"]) == {"auc", "ap", "balanced_accuracy", "eer", "ece", "brier", "cllr"}
    named = document["tracks"]["generator"]["by_generator"]
    assert np.sum(named["confusion"]["counts"]) == 16
    assert named["open_set"]["oscr"] is None
    assert set(document["tracks"]["generator"]["tree"]) == {"gan", "sd"}


def test_the_controls_stand_beside_the_figures(judged: tuple[Evaluation, Path]) -> None:
    controls = judged[0].document["controls"]
    permuted = controls["permuted_labels"]
    assert permuted["times"] == 200
    assert permuted["range95"][0] < permuted["mean"] < permuted["range95"][1]
    assert abs(permuted["mean"] - 0.5) < 0.15
    assert {controls[f"real_{k}"]["n"] for k in ("untouched", "blurred", "resized")} == {16}
    # In this release smooth means synthetic, and nothing else: the control must say so.
    assert controls["smoothness"]["verdict"] == "learned smoothness"
    assert controls["real_blurred"]["called_synthetic"] > controls["real_untouched"]["called_synthetic"] + 0.5


def test_the_files_hold_the_same_figures(judged: tuple[Evaluation, Path]) -> None:
    found, out = judged
    assert json.loads((out / "results.json").read_text()) == found.document
    table = pd.read_csv(out / "results.csv")
    auc = table[(table.part == "origin") & (table.figure == "auc")].value.item()
    assert float(auc) == found.document["tracks"]["origin"]["auc"]
    missing = table[(table.part == "origin") & (table.figure == "tpr_at_fpr_1e-2")]
    assert missing.reason.item().startswith("needs 1000")
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == 32
    assert set(scores.label) == {"real", "synthetic"}
    assert (scores.seed == 0).all()


def test_two_folders_are_judged_with_the_detectors_own_threshold(trained: Path, tmp_path: Path) -> None:
    for k in range(6):
        for name in ("real", "fake/tool"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 40), 20 + k).convert("RGB").save(tmp_path / name / f"{k}.png")
    (tmp_path / "real" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    found = evaluate((tmp_path / "real", tmp_path / "fake"), checkpoints=[trained], bootstrap=10)
    origin = found.document["tracks"]["origin"]
    assert (origin["threshold"], origin["n_real"]) == (0.5, 6)
    assert origin["reasons"]["threshold"].startswith("no calibration split")
    assert len(found.unreadable) == 1
    assert set(found.document["by_generator"]) == {"tool"}
    assert found.document["tracks"]["generator"]["by_generator"]["unknown"] == 6


@pytest.mark.parametrize("name", ["spectral", "nopixel"])
def test_detectors_without_weights_learn_from_the_train_split(name: str, tiny: Path) -> None:
    document = evaluate(tiny, detector=name, bootstrap=10).document
    auc = document["tracks"]["origin"]["auc"]
    # Every file has the same form here, so who does not look cannot know.
    assert auc > 0.95 if name == "spectral" else auc == 0.5
    assert document["tracks"]["generator"]["by_generator"]["reason"] == "the detector names no generator"


def test_an_exported_detector_gives_the_same_figures(
    tiny: Path, trained: Path, judged: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    export(trained, tmp_path / "onnx", runtime="onnxruntime", rounds=1)
    found = evaluate(tiny, checkpoints=[tmp_path / "onnx"], bootstrap=40).document
    here, there = (d["tracks"]["origin"] for d in (found, judged[0].document))
    for figure in ("auc", "ap", "balanced_accuracy", "ece", "threshold"):
        assert here[figure] == pytest.approx(there[figure], abs=1e-3)


def test_what_cannot_be_judged_is_named(tiny: Path, write_release: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no test split"):
        evaluate(write_release(tmp_path / "r", {"train": 8}))
    with pytest.raises(UsageError, match="did you mean 'spectral'"):
        evaluate(tiny, detector="spectrl")
    with pytest.raises(UsageError, match="is not a checkpoint"):
        evaluate(tiny, checkpoints=[tmp_path])


def test_every_test_image_may_go_through_a_condition_first(tiny: Path) -> None:
    from imaginet_build import perturb
    from imaginet_build.baseline.testset import Around, prepare

    plain, chained = prepare(tiny), prepare(tiny, around=Around(condition="social"))
    assert {tuple(size) for size in chained.rows.size.tolist()} == {(256, 256)}
    wanted = perturb.perturbed_file(plain.rows.image(3), "social", plain.rows.ids[3])
    assert chained.rows.read(3) == wanted, "drawn from the image's own name"
    document = evaluate(chained, detector="nopixel", bootstrap=5, permutations=5).document
    assert document["test"]["condition"] == document["published"]["condition"] == "social"
    with pytest.raises(UsageError, match="did you mean 'social'"):
        prepare(tiny, around=Around(condition="socal"))


class Says:
    """A detector that gives one answer for everything."""

    def __init__(self, p: float, names: int | None = None) -> None:
        self.p, self.names = p, names

    def score(self, items: Sequence[Item]) -> Scores:
        named = None if self.names is None else np.full((len(items), self.names), 0.5)
        return Scores(np.full(len(items), self.p), named, ("gan", "sd"))


@pytest.mark.parametrize("p", [float("nan"), float("inf"), -0.2, 1.5])
def test_an_answer_that_is_no_probability_is_refused_by_image(p: float) -> None:
    items = [Item("a.png", b"", Image.new("RGB", (8, 8)))]
    with pytest.raises(BuildError, match=r"Says.score gave \S+ for a.png, which is no probability"):
        judge.score(Says(p), items)
    with pytest.raises(BuildError, match="2 names of generators"):
        judge.score(Says(0.5, names=3), items)
    assert judge.score(Says(1 + 1e-7, names=2), items).p_synthetic.shape == (1,)


def test_a_card_without_a_commit_is_judged_at_the_one_that_is_recorded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit, lock = "a" * 40, tmp_path / "cards.lock"
    lock.write_text(f'["detectors/dinov2"]\nmodel = "facebook/dinov2-base"\nrevision = "{commit}"\n', encoding="utf-8")
    asked: list[str | None] = []

    def build(_card: object, *, revision: str | None = None) -> Says:
        asked.append(revision)
        return Says(0.5)

    monkeypatch.setattr(catalog, "build", build)
    test = prepare(tiny, around=Around(lock=lock))
    document = evaluate(test, detector="dinov2", bootstrap=0, permutations=2).document
    assert (asked, document["revision"]) == ([commit], commit)
    judge.judges("dinov2", (), None, None)
    assert "nothing records one here" in caplog.text
