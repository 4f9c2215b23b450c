"""Leave one generator out: the detector that judges a generator never saw it, and a killed run is taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imaginet_build.baseline.evaluate import evaluate
from imaginet_build.baseline.leaveout import leave_one_out
from imaginet_build.baseline.settings import Settings
from imaginet_build.baseline.testset import prepare
from imaginet_build.baseline.train import train
from imaginet_build.detectors.checkpoint import read_config
from imaginet_build.errors import UsageError


def test_each_generator_is_judged_by_a_detector_that_never_saw_it(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    taught: list[str] = []

    def teach(generator: str, folder: Path) -> list[Path]:
        done = train(tiny, folder / "seed-0", Settings(**quick | {"steps": 4}), without=generator)
        taught.append(f"{generator} {done.images} {done.resumed_at}")
        return [done.checkpoint]

    test = prepare(tiny)
    seen = {"soft": {"auc": 1.0}, "softer": {"auc": 1.0}}
    found = leave_one_out(test, "small", teach, tmp_path, seen, 10)
    assert set(found["generators"]) == {"soft", "softer"}
    assert taught == ["soft 48 0", "softer 48 0"], "a quarter of the 64 training images is each generator's"
    assert read_config(tmp_path / "soft" / "seed-0")["names"] == ["softer"]
    for figures in found["generators"].values():
        assert (figures["n_real"], figures["n_synthetic"], figures["seen"]) == (16, 8, 1.0)
        assert figures["lost"] == pytest.approx(1 - figures["auc"], abs=1e-6)
        assert figures["family_named"] == 0, "its family was left out with it"
    assert found["mean"] == pytest.approx(sum(f["auc"] for f in found["generators"].values()) / 2, abs=1e-6)
    assert found["generators"][found["worst"]]["auc"] == min(f["auc"] for f in found["generators"].values())
    opened = evaluate(test, checkpoints=[tmp_path / "soft" / "seed-0"], bootstrap=10, permutations=5).document
    open_set = opened["tracks"]["generator"]["by_generator"]["open_set"]
    assert open_set["unknown"] == ["soft"]
    assert 0 <= open_set["oscr"] <= 1
    assert 0 <= open_set["rejected"] <= 1
    again = leave_one_out(test, "small", teach, tmp_path, seen, 10)
    assert again == found
    assert taught[2:] == ["soft 48 4", "softer 48 4"], "what was finished is left as it is"


def test_what_is_fitted_is_fitted_without_it(tiny: Path, tmp_path: Path) -> None:
    test = prepare(tiny)
    seen = evaluate(test, detector="spectral", bootstrap=10, permutations=5).document["by_generator"]
    found = leave_one_out(test, "spectral", None, tmp_path, seen, 10)
    # Both generators of this release blur, one less and one more: who knows one finds the stronger.
    assert found["generators"]["softer"]["auc"] > 0.9
    assert {name: f["seen"] for name, f in found["generators"].items()} == {name: f["auc"] for name, f in seen.items()}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_left_out_is_said(tiny: Path, write_release: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'onnx' does not learn here"):
        leave_one_out(prepare(tiny), "onnx", None, tmp_path, {}, 10)
    with pytest.raises(UsageError, match="the test has none"):
        leave_one_out(prepare(write_release(tmp_path / "a", {"test": 16})), "spectral", None, tmp_path, {}, 10)
    with pytest.raises(UsageError, match="needs two generators in the train split, there is soft"):
        leave_one_out(prepare(write_release(tmp_path / "b", {"train": 3, "test": 16})), "spectral", None, tmp_path, {}, 10)
