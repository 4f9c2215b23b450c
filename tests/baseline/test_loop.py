"""The loop on small memory, on several processes, in half precision: the same training, or it says what differs."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sharing
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.numpy import load_file

from imaginet_build.baseline import gradients, loop
from imaginet_build.baseline.loop import EVENTS
from imaginet_build.baseline.settings import Settings
from imaginet_build.baseline.train import train
from imaginet_build.errors import UsageError


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def farthest(a: Path, b: Path) -> float:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    return max(float(np.abs(one[k].astype(np.float64) - other[k]).max()) for k in one if one[k].dtype != np.int64)


def test_the_gradient_of_chunks_is_that_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    x = torch.randn(12, 5, dtype=torch.float64)

    def loss(answers: gradients.Answers) -> torch.Tensor:
        z = torch.nn.functional.normalize(answers[0], dim=1)
        return (z @ z.T).logsumexp(1).mean() + answers[1].pow(2).sum()

    def answer(chunk: torch.Tensor, number: int) -> gradients.Answers:
        out = network(chunk)
        return out, out[:, 0]

    found = []
    for size in (12, 4, 5, 1):
        network.zero_grad()
        value = gradients.backward(network, x.split(size), answer, loss, Accelerator())
        found.append((value, [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    network.zero_grad()
    plain = loss(answer(x, 0))
    plain.backward()
    wanted = [p.grad for p in network.parameters()]
    for value, grads in found:
        assert abs(float(value - plain.detach())) < 1e-12
        assert len(grads) == len(wanted) == 4
        for mine, theirs in zip(grads, wanted, strict=True):
            assert theirs is not None
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("joint", [True, False])
def test_chunks_train_the_same_weights_with_frozen_norm(
    joint: bool, tiny: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "build", sharing.without_dropout)
    stages = {} if joint else {"joint": False, "steps": 4, "head_steps": 3}
    base = quick | {"steps": 7, "frozen_norm": True, "rate": 1e-3} | stages
    whole = train(tiny, tmp_path / "whole", Settings(**base)).checkpoint
    cut = train(tiny, tmp_path / "cut", Settings(**base | {"chunk": 5})).checkpoint
    start = train(tiny, tmp_path / "start", Settings(**base | {"steps": 1, "head_steps": 0})).checkpoint
    assert farthest(whole, start) > 1e-3, "nothing was learned, so nothing is compared"
    assert farthest(whole, cut) < 2e-5


def test_chunks_without_frozen_norm_say_that_they_differ_and_count_each_image_once(
    tiny: Path, quick: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        done = train(tiny, tmp_path / "a", Settings(**quick | {"steps": 3, "chunk": 8}))
    assert "batch norm sees 8 images at a time" in caplog.text
    counted = {int(v) for k, v in weights(done.checkpoint).items() if k.endswith("num_batches_tracked")}
    assert counted == {3 * 2}, "two chunks a step, the first pass leaves no trace"


def test_dropout_is_the_same_in_both_passes(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    """Otherwise the gradient would be that of other answers than the loss has seen, and a repetition would differ."""
    runs = [train(tiny, tmp_path / n, Settings(**quick | {"steps": 4, "chunk": 8, "frozen_norm": True})) for n in "ab"]
    assert farthest(*(run.checkpoint for run in runs)) == 0


def test_the_average_of_the_weights_is_kept(
    tiny: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    step = loop.Run._step

    def watched(self: loop.Run, number: int) -> dict[str, float]:
        said = step(self, number)
        seen.append({k: v.clone() for k, v in self.network.state_dict().items()})
        return said

    monkeypatch.setattr(loop.Run, "_step", watched)
    done = weights(train(tiny, tmp_path / "a", Settings(**quick | {"steps": 5, "ema": 0.8})).checkpoint)
    for key in ("origin.4.weight", "encoder.early.1.running_mean"):
        wanted = seen[0][key]
        for later in seen[1:]:
            wanted = 0.8 * wanted + 0.2 * later[key]
        np.testing.assert_allclose(done[key], wanted.numpy(), atol=1e-6)
        assert not np.allclose(done[key], seen[-1][key].numpy(), atol=1e-6)


def test_a_killed_run_with_an_average_ends_as_if_undisturbed(
    tiny: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**quick | {"steps": 13, "save_every": 5, "ema": 0.9, "chunk": 8})
    whole = train(tiny, tmp_path / "whole", settings).checkpoint
    step = loop.Run._step

    def die(self: loop.Run, number: int) -> dict[str, float]:
        if number == 12:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, tmp_path / "killed", settings)
    resumed = train(tiny, tmp_path / "killed", settings)
    assert resumed.resumed_at == 10
    assert farthest(whole, resumed.checkpoint) == 0


def test_tensorboard_says_what_the_log_says(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = train(tiny, tmp_path / "a", Settings(**quick | {"steps": 6}))
    events = accumulator.EventAccumulator(str(done.checkpoint / EVENTS))
    events.Reload()
    log = pd.read_csv(done.checkpoint / "log.csv")
    for name in ("loss", "selfcon", "origin", "named", "rate"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in told] == list(log.step)
        np.testing.assert_allclose([value for _, value in told], log[name], rtol=1e-5)


def test_bfloat16_trains_and_keeps_full_weights(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        done = train(tiny, tmp_path / "a", Settings(**quick | {"steps": 6, "precision": "bf16"}))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    kept = weights(done.checkpoint)
    assert {v.dtype for v in kept.values()} == {np.dtype(np.float32), np.dtype(np.int64)}
    assert all(np.isfinite(v).all() for v in kept.values())
    exact = train(tiny, tmp_path / "b", Settings(**quick | {"steps": 6})).checkpoint
    assert farthest(done.checkpoint, exact) > 0
    losses = [pd.read_csv(tmp_path / run / "log.csv").loss for run in "ab"]
    np.testing.assert_allclose(*losses, rtol=0.05)


def test_half_precision_does_not_reach_what_the_small_network_looks_at() -> None:
    """The residual of one grey level on a bright ground would be rounded away."""
    from imaginet_build.detectors.selfcon_networks import NetworkConfig, build

    torch.manual_seed(0)
    encoder: Any = build(NetworkConfig("small", ("a",), crop=32, width=8)).eval().encoder
    chance = torch.Generator().manual_seed(1)
    x = torch.randint(200, 255, (8, 3, 1, 1), generator=chance) + torch.randint(0, 2, (8, 3, 32, 32), generator=chance).float()
    with torch.no_grad():
        exact = encoder(x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(x)[0].float()
    assert (half - exact).abs().max() < 0.02, "0.2 where the filters are in half precision"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp8"}, "one of no, fp16, bf16"),
        ({"ema": 1.0}, "ema is 1.0; it is 0 or more and below 1"),
        ({"batch": "x"}, "batch is 'x'; it should be a valid integer"),
        ({"steps": 2.5}, "steps is 2.5; it should be a valid integer"),
        ({"steps": -5}, "steps is -5; it is 0 or more"),
        ({"steps": 0}, "are both 0: nothing would be learned"),
        ({"rate": -1.0}, "a learning rate is more than 0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"width": 0}, "width is 0; it is 1 or more"),
        ({"crop": 9}, "crop is 9; it is 32 or more"),
        ({"joint": False, "contrast": 0.0}, "the encoder has nothing to learn from"),
        ({"initial": "weights.pt"}, "the preset small begins with none"),
        ({"chunk": -1}, "chunk is -1; it is 0 or more"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Settings.of("small", **changes)


def test_a_plain_resnet_has_its_down_sampling() -> None:
    from imaginet_build.detectors.selfcon_networks import NetworkConfig, build

    network: Any = build(NetworkConfig("resnet50", ("a", "b")))
    with torch.no_grad():
        seen = network.encoder.backbone(torch.zeros(1, 3, 64, 64)).last_hidden_state
    assert seen.shape[-2:] == (2, 2), "a 32nd of each side"
    assert Settings.of("resnet50").contrast == 0


@pytest.mark.prove
@pytest.mark.parametrize("joint", [True, False])
def test_two_processes_train_what_one_does(joint: bool, tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    """Real processes and real messages between them (gloo on loopback)."""
    stages = {} if joint else {"joint": False, "steps": 5, "head_steps": 4}
    settings = quick | {"steps": 9, "frozen_norm": True, "rate": 1e-3, "save_every": 4} | stages
    for count in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        runs = []
        for rank in range(count):
            shared = {"WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            place = {key: str(value) for key, value in shared.items()} if count > 1 else {}
            command = [sys.executable, sharing.__file__, tiny, tmp_path / str(count), json.dumps(settings)]
            environment = os.environ | place | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
            runs.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        for run in runs:
            _, said = run.communicate(timeout=300)
            assert run.returncode == 0, said
    assert farthest(tmp_path / "1", tmp_path / "2") < 2e-5
    logs = [pd.read_csv(tmp_path / str(count) / "log.csv") for count in (1, 2)]
    np.testing.assert_allclose(logs[0].loss, logs[1].loss, rtol=1e-4)


def test_a_crop_left_alone_by_the_chunks_is_said_before_training(tiny: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch norm cannot learn from one alone"):
        train(tiny, tmp_path / "out", Settings.of("small", **quick | {"batch": 16, "chunk": 5}))
