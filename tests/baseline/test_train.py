"""Training: it learns, it repeats, and a kill costs nothing but the steps since the last save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from imaginet_build.baseline import loop
from imaginet_build.baseline.data import splits
from imaginet_build.baseline.loop import EVENTS, STATE
from imaginet_build.baseline.settings import Settings
from imaginet_build.baseline.train import train
from imaginet_build.detectors.selfcon import SelfCon
from imaginet_build.errors import UsageError
from imaginet_build.records import Item


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_a_short_run_learns_what_is_there(tiny: Path, trained: Path) -> None:
    rows = splits(tiny)["test"]
    p = SelfCon(model=str(trained)).score([Item(rows.ids[i], b"", rows.image(i)) for i in range(len(rows))]).p_synthetic
    assert p[rows.label == 1].mean() > p[rows.label == 0].mean() + 0.3


def test_a_checkpoint_says_what_it_is(trained: Path, tiny: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert (config["preset"], config["card"], config["names"]) == ("small", "small", ["soft", "softer"])
    assert config["families"] == {"soft": "gan", "softer": "sd"}
    assert config["calibration"]["rows"] == 24
    assert config["trained"]["images"] == 64
    log = pd.read_csv(trained / "log.csv")
    assert list(log.step) == list(range(24))
    assert log[["loss", "selfcon", "origin", "named"]].notna().all().all()
    assert sorted(p.name for p in trained.iterdir()) == ["config.json", "log.csv", "model.safetensors", EVENTS]


def test_the_same_seed_gives_the_same_weights_and_another_others(
    tiny: Path, trained: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    assert same(trained, train(tiny, tmp_path / "again", Settings(**quick)).checkpoint)
    assert not same(trained, train(tiny, tmp_path / "other", Settings(**quick | {"seed": 1})).checkpoint)


@pytest.mark.parametrize("joint", [True, False])
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    joint: bool, tiny: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**quick | ({} if joint else {"joint": False, "steps": 12, "head_steps": 12}))
    whole = train(tiny, tmp_path / "whole", settings)
    step = loop.Run._step

    def die(self: Any, number: int) -> dict[str, float]:
        if number == 23:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, tmp_path / "killed", settings)
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [STATE, EVENTS], "no half-made checkpoint is left"
    resumed = train(tiny, tmp_path / "killed", settings)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 20)
    assert same(whole.checkpoint, resumed.checkpoint)
    assert (whole.checkpoint / "log.csv").read_bytes() == (resumed.checkpoint / "log.csv").read_bytes()


def test_two_stages_freeze_the_encoder_but_not_its_statistics(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    base = quick | {"joint": False, "steps": 6}
    bare = weights(train(tiny, tmp_path / "bare", Settings(**base)).checkpoint)
    headed = weights(train(tiny, tmp_path / "headed", Settings(**base | {"head_steps": 4})).checkpoint)
    moved = {k for k in bare if not np.array_equal(bare[k], headed[k])}
    frozen = {k for k in bare if not k.startswith(("origin.", "named.")) and "running_" not in k and "num_batches" not in k}
    assert not moved & frozen
    assert {"origin.4.weight", "named.4.weight", "encoder.early.1.running_mean"} <= moved


def test_a_finished_checkpoint_is_left_alone_and_another_runs_is_not(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    settings = Settings(**quick | {"steps": 4})
    first = train(tiny, tmp_path / "a", settings)
    written = (first.checkpoint / "model.safetensors").stat().st_mtime_ns
    assert train(tiny, tmp_path / "a", settings).loss == first.loss
    assert (first.checkpoint / "model.safetensors").stat().st_mtime_ns == written
    train(tiny, tmp_path / "a", Settings(**quick | {"steps": 5}))
    assert json.loads((first.checkpoint / "config.json").read_text())["trained"]["settings"]["steps"] == 5


def test_accelerate_places_the_network_and_does_the_backward_pass(
    tiny: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    backward = accelerate.Accelerator.backward
    monkeypatch.setattr(accelerate.Accelerator, "backward", lambda self, loss: (calls.append(loss), backward(self, loss)))
    train(tiny, tmp_path / "a", Settings(**quick | {"steps": 3}))
    assert len(calls) == 3


def test_the_imaginet_preset_is_the_papers() -> None:
    paper = Settings.of("imaginet")
    assert (paper.batch, paper.crop, paper.rate, paper.weight_decay, paper.joint) == (200, 96, 5e-3, 1e-4, False)
    assert (paper.names, paper.augmentation) == ("family", "paper")
    assert Settings.of("imaginet", steps=7).steps == 7


def test_wrong_settings_and_releases_are_named(tiny: Path, write_release: Any, quick: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        Settings.of("small", stesp=3)
    with pytest.raises(UsageError, match="no preset 'smal'; did you mean 'small'"):
        Settings.of("smal")
    with pytest.raises(UsageError, match="no train split"):
        train(write_release(tmp_path / "only", {"test": 8}), tmp_path / "a", Settings(**quick))
    with pytest.raises(UsageError, match="64 pixels or more"):
        train(tiny, tmp_path / "b", Settings(**quick | {"crop": 64}))
