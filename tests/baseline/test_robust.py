"""A detector under the robustness set: a figure for each condition, curves by strength, the threshold left where it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tested

from imaginet_build import perturb, report
from imaginet_build.baseline import robust
from imaginet_build.baseline.data import Rows
from imaginet_build.baseline.evaluate import evaluate
from imaginet_build.records import random_of
from imaginet_build.releases import robustness

SOME = (
    "centre",
    "social",
    "jpeg-40",
    "jpeg-100",
    "webp-70",
    "resize-12-12",
    "resize-12-5",
    "blur-0.5",
    "noise-8",
    "crop-to-96",
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tested.equalized(tmp_path_factory.mktemp("robust"), 10, side=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturb, "CONDITIONS", {name: perturb.CONDITIONS[name] for name in SOME})
        robustness.write(folder, robustness.Wanted("all"))
    return folder


def seeing(rows: Rows) -> np.ndarray:
    """Two seeds of a detector that is right everywhere but under JPEG at 40, where it guesses; noise makes it call all real."""
    condition = rows.title.rpartition(":")[2]
    guess = np.stack([[random_of(name, f"seed {seed}").random() for name in rows.ids] for seed in (0, 1)])
    if condition == "jpeg-40":
        return guess
    right = 0.6 * rows.label + 0.2 + 0.1 * guess
    return right / 2 if condition.startswith("noise") else right


def test_every_condition_has_its_rows_and_their_bytes(release: Path) -> None:
    parts = robust.conditions(release)
    assert list(parts) == list(SOME)
    for name, rows in parts.items():
        assert (len(rows), int(rows.label.sum()), len(set(rows.group))) == (10, 5, 10)
        side = int(name.removeprefix("crop-to-")) if name.startswith("crop-to-") else 256
        assert rows.image(9).size == tuple(rows.size[9]) == (side, side)


def test_figures_curves_and_the_worst_condition(release: Path) -> None:
    found = robust.judged(robust.scored(release, seeing), bootstrap=50)
    assert found is not None
    conditions = found["conditions"]
    assert list(conditions) == list(SOME)
    assert (found["worst"], found["plain"]) == ("jpeg-40", "centre")
    assert conditions["centre"]["auc"] == conditions["social"]["auc"] == 1
    assert conditions["jpeg-40"]["auc"] < 0.9
    assert conditions["jpeg-40"]["ci95"][0] < conditions["jpeg-40"]["auc"] < conditions["jpeg-40"]["ci95"][1]
    # The threshold stays: under noise every image is called real, though the order is still right.
    assert (conditions["noise-8"]["auc"], conditions["noise-8"]["balanced_accuracy"]) == (1, 0.5)
    assert (conditions["noise-8"]["found"], conditions["noise-8"]["false_alarms"]) == (0, 0)
    assert (conditions["blur-0.5"]["found"], conditions["blur-0.5"]["false_alarms"]) == (1, 0)
    # All called real: as one-sided as an error can be. A guess errs on both sides.
    assert (conditions["noise-8"]["lean"], conditions["blur-0.5"]["lean"]) == (1, 0)
    assert abs(conditions["jpeg-40"]["lean"]) < 0.7
    assert (found["one_sided"]["score"], found["one_sided"]["worst"]) == (1, "noise-8")
    curves = found["curves"]
    assert {kind: [point[0] for point in points] for kind, points in curves.items()} == {
        "jpeg": [40, 100], "webp": [70], "resize": [1, 2.4], "blur": [0.5], "noise": [8], "crop": [96],
    }  # fmt: skip
    assert curves["jpeg"][0] == [40, conditions["jpeg-40"]["auc"], *conditions["jpeg-40"]["ci95"]]


def test_the_report_draws_each_sweep_with_its_band(release: Path) -> None:
    found = report.sweeps({"robustness": robust.judged(robust.scored(release, seeing), bootstrap=20)})
    assert [one["kind"] for one in found] == ["jpeg", "resize"], "a sweep of one point is no curve"
    jpeg, resize = found
    assert len(jpeg["line"].split()) == 2
    assert len(jpeg["band"].split()) == 4
    assert jpeg["line"].split()[1] == "300.0,0.0", "quality 100: AUC 1, at the top"
    assert [text for _, text in resize["ticks"]] == ["1", "2.4"]
    assert report.sweeps(None) == []


def test_a_release_without_the_set_has_no_figures(tmp_path: Path) -> None:
    assert robust.judged(robust.scored(tested.equalized(tmp_path, 2), seeing), 10) is None


def test_a_trained_detector_is_judged_on_it_and_the_report_shows_it(tiny: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    shutil.copytree(tiny, folder)
    robustness.write(folder, robustness.Wanted("social"))
    found = evaluate(folder, tmp_path / "baseline", checkpoints=[trained], bootstrap=20).document
    social = found["robustness"]["conditions"]
    assert list(social) == ["social"]
    assert social["social"]["n_real"] == social["social"]["n_synthetic"] == 16
    assert 0 <= social["social"]["auc"] <= 1
    assert "robustness,social,auc" in (tmp_path / "baseline" / "results.csv").read_text()
    assert "Robustness: under each condition" in [b["title"].partition(",")[0] for b in report._breakdowns(found)]
