"""Train the baseline on a release: SelfCon's loss on both labelings, and a head for each track.

The paper does it in two stages: the encoder with SelfCon alone, then the heads on the frozen encoder (its batch norm statistics
go on adapting). `imaginet` follows it. `small` trains everything at once (`joint`), the contrastive loss with a small weight:
on hundreds of images and minutes of CPU that is what reaches furthest. The heads of `imaginet` learn from the train split,
not from the calibration images as in the paper: those stay untouched until the threshold is set.

Steps decide, never the clock. On a CPU the same release, settings and thread count give the same weights, whether or not the
run was killed and taken up again: every step's crops and dropout come from (seed, step) alone, and the state on disk is
replaced whole.
"""

from __future__ import annotations

import csv
import ctypes
import dataclasses
import io
import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from imaginet_build.baseline import metrics
from imaginet_build.baseline.augment import Augmentation
from imaginet_build.baseline.data import Crops, Draws, Rows, splits
from imaginet_build.detectors import selfcon
from imaginet_build.detectors.checkpoint import CONFIG, Calibration
from imaginet_build.detectors.selfcon_networks import NetworkConfig, Preset, build, import_torch, multi_label_loss
from imaginet_build.errors import BuildError, MissingExtra, UsageError, suggest
from imaginet_build.records import Item, make_id, seed_of

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)
STATE = "state.pt"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train. The defaults are the `small` preset's; `Settings.of` gives each preset's own.

    `steps`: of the encoder (and, when `joint`, of everything). `head_steps`: of the heads on the frozen encoder. `contrast`:
    weight of SelfCon's loss. `rate`: highest learning rate. `evenness`: see `data.Draws`. `names`: what the second head tells
    apart, and the second labeling. `threads`: CPU threads, part of what decides the weights. `initial`: an ImageNet ResNet-50.
    """

    preset: Preset = "small"
    seed: int = 0
    steps: int = 1000
    head_steps: int = 0
    joint: bool = True
    batch: int = 64
    crop: int = 96
    width: int = 32
    rate: float = 4e-3
    contrast: float = 0.05
    weight_decay: float = 1e-2
    evenness: float = 0.5
    augmentation: Augmentation = "light"
    names: str = "generator"
    threads: int = 2
    save_every: int = 100
    initial: str | None = None

    @classmethod
    def of(cls, preset: str = "small", **changes: Any) -> Self:
        """A preset's settings with some changed. Raises `UsageError` for a preset or a setting that does not exist."""
        known = [f.name for f in dataclasses.fields(cls)]
        if wrong := [k for k in changes if k not in known]:
            raise UsageError(f"baseline has no setting '{wrong[0]}'{suggest(wrong[0], known)}. There are: {', '.join(known)}")
        if preset == "small":
            return cls(**changes)
        if preset == "imaginet":
            # arXiv 2407.20020: batch 200, SGD 0.005, 400 epochs of 160,000 images; then the heads with Adam.
            paper: dict[str, Any] = {
                "steps": 320_000,
                "head_steps": 2_000,
                "joint": False,
                "batch": 200,
                "rate": 5e-3,
                "contrast": 1.0,
                "weight_decay": 1e-4,
                "evenness": 0.0,
                "augmentation": "paper",
                "names": "family",
                "save_every": 1000,
            }
            return cls(preset="imaginet", **(paper | changes))
        raise UsageError(f"no preset '{preset}'{suggest(preset, ('small', 'imaginet'))}; there are small and imaginet")


@dataclass(frozen=True, slots=True)
class Trained:
    """A checkpoint folder. `images` were used, `skipped` gives the reason for each id that was not. `loss`: mean of the last
    steps."""

    checkpoint: Path
    settings: Settings
    images: int
    skipped: dict[str, str]
    loss: float
    resumed_at: int


def train(data: Path, out: Path, settings: Settings | None = None) -> Trained:
    """Train on the train split of the release `data`, calibrate on its calibration split, write the checkpoint `out`.

    `out` gets model.safetensors, config.json and log.csv (step, loss, its parts, rate). A finished checkpoint of the same
    settings and data is left as it is; a killed run goes on where its last saved state ends. Raises `UsageError` for a release
    that cannot be trained on, `MissingExtra` without torch, accelerate or transformers.
    """
    settings = settings or Settings()
    import_torch("baseline train")
    found = splits(data)
    if "train" not in found:
        raise UsageError(f"{data} has no train split; balance with more images or other splits")
    rows = found["train"]
    crops = Crops(rows, settings.crop, settings.seed, settings.augmentation, out.parent / "pixels")
    usable = np.array(crops.usable, np.int64)
    if len(np.unique(rows.label[usable])) < 2:
        absent = "real" if rows.label[usable].all() else "synthetic"
        raise UsageError(
            f"{rows.title} has no {absent} image of {settings.crop} pixels or more; a detector learns from both: "
            "collect or generate some, then balance and publish, or lower baseline.options.crop"
        )
    named = rows.named(settings.names)
    names = tuple(sorted({named[i] for i in usable if rows.label[i] == 1}))
    run = make_id("baseline", asdict(settings), rows.ids, names)
    finished = _finished(out, run)
    if finished is not None:
        return Trained(out, settings, len(usable), crops.skipped, finished, settings.steps + settings.head_steps)
    with _steady(settings.threads):
        network, history, resumed_at = _Run(settings, crops, named, names, out, run).go()
        calibration = _calibrate(network, settings, found.get("calibration"))
    last = [float(line["loss"]) for line in history[-20:]]
    loss = sum(last) / len(last)
    config = {
        "adapter": selfcon.ADAPTER,
        "card": settings.preset,
        **NetworkConfig(settings.preset, names, settings.crop, settings.width).as_json(),
        "names_are": settings.names,
        "families": {g: f for g, f in sorted(set(zip(named, rows.family, strict=True))) if g in names},
        "calibration": calibration.as_json(),
        "trained": {"run": run, "on": rows.title, "images": len(usable), "loss": loss, "settings": asdict(settings)},
        "note": f"trained on {len(usable)} images of {data.name}; says nothing of generators that are not among them",
    }
    out.mkdir(parents=True, exist_ok=True)
    selfcon.replace(out / "log.csv", _as_csv(history))
    selfcon.save(out, network, config)
    (out / STATE).unlink(missing_ok=True)
    return Trained(out, settings, len(usable), crops.skipped, loss, resumed_at)


def _finished(out: Path, run: str) -> float | None:
    """The final loss of a finished checkpoint of this very run."""
    try:
        trained = json.loads((out / CONFIG).read_text(encoding="utf-8"))["trained"]
    except (OSError, ValueError, KeyError):
        return None
    return float(trained["loss"]) if trained.get("run") == run and (out / selfcon.WEIGHTS).is_file() else None


class _Run:
    """One training run, step by step."""

    def __init__(
        self, settings: Settings, crops: Crops, named: tuple[str, ...], names: tuple[str, ...], out: Path, run: str
    ) -> None:
        import torch

        try:
            from accelerate import Accelerator
        except ImportError:
            raise MissingExtra("baseline train", "accelerate", "baseline") from None
        self.settings, self.crops, self.out, self.run = settings, crops, out, run
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            raise UsageError("baseline train runs in one process; start it without a launcher, one GPU is used")
        torch.manual_seed(seed_of(str(settings.seed), "baseline/weights"))
        network = build(NetworkConfig(settings.preset, names, settings.crop, settings.width), settings.initial)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = self._optimizer(network)
        self.network: nn.Module
        self.network, self.optimizer = self.accelerator.prepare(network, self.optimizer)
        self.draws = Draws(crops.rows, crops.usable, settings.seed, settings.batch, settings.evenness)
        self.origin = torch.from_numpy(crops.rows.label)
        self.name = torch.tensor([names.index(n) if n in names else -1 for n in named])
        self.total = settings.steps + settings.head_steps
        self.history: list[dict[str, float | int]] = []

    def _optimizer(self, network: nn.Module) -> Any:
        import torch

        heads = [p for k, p in network.named_parameters() if k.startswith(("origin.", "named."))]
        rest = [p for k, p in network.named_parameters() if not k.startswith(("origin.", "named."))]
        if self.settings.joint:
            return torch.optim.AdamW([*rest, *heads], lr=self.settings.rate, weight_decay=self.settings.weight_decay)
        return torch.optim.SGD(rest, lr=self.settings.rate, momentum=0.9, weight_decay=self.settings.weight_decay)

    def go(self) -> tuple[nn.Module, list[dict[str, float | int]], int]:
        """The trained network in eval mode, the log, and the step the run was taken up at (0 for a fresh one)."""
        import torch
        from tqdm import tqdm

        resumed_at = step = self._resume()
        progress = tqdm(total=self.total, initial=step, unit="step", desc=f"seed {self.settings.seed}", disable=None)
        while step < self.total:
            if step == self.settings.steps and not self.settings.joint:
                self._freeze()
            torch.manual_seed(seed_of(f"{self.settings.seed} {step}", "baseline/dropout"))
            self.history.append({"step": step} | self._step(step))
            step += 1
            progress.update()
            if step % self.settings.save_every == 0 and step < self.total:
                self._save(step)
        progress.close()
        network: nn.Module = self.accelerator.unwrap_model(self.network)
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return network.eval(), self.history, resumed_at

    def _freeze(self) -> None:
        """Second stage: the paper's Adam on the heads; the encoder keeps its weights, its batch norm goes on adapting."""
        import torch

        heads = []
        for key, parameter in self.accelerator.unwrap_model(self.network).named_parameters():
            is_head = key.startswith(("origin.", "named."))
            parameter.requires_grad_(is_head)
            heads += [parameter] if is_head else []
        self.optimizer = self.accelerator.prepare(torch.optim.Adam(heads, lr=1e-4, weight_decay=1e-3))

    def _rate(self, step: int) -> float | None:
        """Warm-up over the first tenth, then half a cosine; None in the second stage, whose rate stands still."""
        if step >= self.settings.steps:
            return None
        warm = max(1, self.settings.steps // 10)
        if step < warm:
            return self.settings.rate * (step + 1) / warm
        return self.settings.rate * (1 + math.cos(math.pi * (step - warm) / max(1, self.settings.steps - warm))) / 2

    def _step(self, step: int) -> dict[str, float]:
        import torch
        from torch.nn import functional

        rate = self._rate(step)
        for group in self.optimizer.param_groups if rate is not None else ():
            group["lr"] = rate
        device = self.accelerator.device
        drawn = self.draws.step(step)
        index = torch.tensor([row for row, _ in drawn])
        origin, name = self.origin[index].to(device), self.name[index].to(device)
        x = torch.from_numpy(self.crops.batch(drawn)).to(device).contiguous(memory_format=torch.channels_last)
        self.network.train()
        network = self.accelerator.unwrap_model(self.network)
        heads_only = step >= self.settings.steps
        with torch.set_grad_enabled(not heads_only):
            deep, shallow = network.views(x)
        parts: dict[str, Tensor] = {}
        if not heads_only and self.settings.contrast:
            parts["selfcon"] = self.settings.contrast * multi_label_loss(network.project(deep, shallow), origin, name)
        if heads_only or self.settings.joint:
            logit, named = network.heads(deep.detach() if heads_only else deep)
            parts["origin"] = functional.binary_cross_entropy_with_logits(logit, origin.to(logit.dtype))
            synthetic = origin == 1
            if synthetic.any():
                parts["named"] = 0.5 * functional.cross_entropy(named[synthetic], name[synthetic])
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise BuildError(f"the loss is {loss.item()} at step {step}; lower baseline.options.rate ({self.settings.rate})")
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        return {"loss": float(loss.item()), **{k: float(v.item()) for k, v in parts.items()}, "rate": rate or 1e-4}

    def _save(self, step: int) -> None:
        import torch

        held = io.BytesIO()
        state = {
            "run": self.run,
            "step": step,
            "history": self.history,
            "network": self.accelerator.unwrap_model(self.network).state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, held)
        self.out.mkdir(parents=True, exist_ok=True)
        selfcon.replace(self.out / STATE, held.getvalue())

    def _resume(self) -> int:
        import torch

        path = self.out / STATE
        if not path.is_file():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["run"] != self.run:
            log.warning("%s belongs to other settings or data; starting again", path)
            return 0
        step = int(state["step"])
        if step > self.settings.steps and not self.settings.joint:
            self._freeze()
        selfcon.fit(self.accelerator.unwrap_model(self.network), state["network"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        return step


@contextmanager
def _steady(threads: int) -> Iterator[None]:
    """A fixed number of CPU threads and deterministic kernels, put back afterwards."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    _keep_freed_memory()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        with selfcon.deterministic_convolutions():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks rather than give them back and fault them in again: a step takes 0.6 of the time."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library: slower, nothing else
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _calibrate(network: nn.Module, settings: Settings, rows: Rows | None) -> Calibration:
    """Platt's scale and bias from the calibration split alone; the identity, said aloud, where it is too small."""
    if rows is None:
        log.warning("no calibration split: probabilities are the network's own")
        return Calibration()
    device = str(next(network.parameters()).device)
    items = (Item(rows.ids[i], b"", rows.image(i)) for i in range(len(rows)))
    logits, _ = selfcon.answers(network, settings.crop, items, device=device)
    fitted = metrics.platt(rows.label, logits)
    if fitted is None:
        log.warning("%d calibration images are too few, or point the wrong way: probabilities are the network's own", len(rows))
        return Calibration()
    return Calibration(scale=fitted[0], bias=fitted[1], rows=len(rows))


def _as_csv(history: list[dict[str, float | int]]) -> bytes:
    held = io.StringIO()
    writer = csv.DictWriter(held, ["step", "loss", "selfcon", "origin", "named", "rate"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return held.getvalue().encode()


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """A SelfCon checkpoint's config and network; `selfcon.load` for the rest of the baseline."""
    return selfcon.load(folder)


put = selfcon.replace
"""Write a file in one step."""
