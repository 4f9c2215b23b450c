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
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imaginet_build.baseline import certainty
from imaginet_build.baseline.data import Crops, Rows, splits
from imaginet_build.baseline.loop import STATE, History, Run, accelerator_for
from imaginet_build.baseline.settings import Settings
from imaginet_build.detectors import selfcon
from imaginet_build.detectors.checkpoint import CONFIG, Calibration
from imaginet_build.detectors.selfcon_networks import NetworkConfig, import_torch
from imaginet_build.errors import UsageError
from imaginet_build.records import Item, make_id

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


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


def train(data: Path, out: Path, settings: Settings | None = None, without: str | None = None) -> Trained:
    """Train on the train split of the release `data`, calibrate on its calibration split, write the checkpoint `out`.

    `out` gets model.safetensors, config.json, log.csv (step, loss, its parts, rate), and TensorBoard's log if that is here.
    `without`: a generator whose images are left out of both splits. Started by `accelerate launch`, several processes share
    each step's batch, and one writes. A finished checkpoint of the same settings and data is left as it is; a killed run goes
    on where its last saved state ends. Raises `UsageError` for a release that cannot be trained on, `MissingExtra` without
    torch, accelerate or transformers.
    """
    settings = settings or Settings()
    import_torch("baseline train")
    found = {name: part.without(without) if without else part for name, part in splits(data).items()}
    if "train" not in found:
        raise UsageError(f"{data} has no train split; balance with more images or other splits")
    rows = found["train"]
    accelerator = accelerator_for(settings)
    # The first process makes what all read.
    with accelerator.main_process_first():
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
    with _steady(settings):
        network, history, resumed_at = Run(settings, crops, named, names, out, run, accelerator).go()
        last = [float(line["loss"]) for line in history[-20:]]
        trained = Trained(out, settings, len(usable), crops.skipped, sum(last) / len(last), resumed_at)
        if accelerator.is_main_process:
            calibration = _calibrate(network, settings, found.get("calibration"))
            families = {g: f for g, f in sorted(set(zip(named, rows.family, strict=True))) if g in names}
            _write(trained, network, history, calibration, settings.shape(names),
                   {"families": families, "run": run, "on": rows.title, "of": data.name})  # fmt: skip
        accelerator.wait_for_everyone()
    return trained


def _write(
    trained: Trained, network: nn.Module, history: History, calibration: Calibration, shape: NetworkConfig, said: dict[str, Any]
) -> None:
    """The finished checkpoint, its config last."""
    out, settings, images = trained.checkpoint, trained.settings, trained.images
    config = {
        "adapter": selfcon.ADAPTER,
        "card": settings.preset,
        **shape.as_json(),
        "names_are": settings.names,
        "families": said["families"],
        "calibration": calibration.as_json(),
        "trained": {
            "run": said["run"],
            "on": said["on"],
            "images": images,
            "loss": trained.loss,
            "settings": asdict(settings),
        },
        "note": f"trained on {images} images of {said['of']}; says nothing of generators that are not among them",
    }
    out.mkdir(parents=True, exist_ok=True)
    selfcon.replace(out / "log.csv", _as_csv(history))
    selfcon.save(out, network, config)
    (out / STATE).unlink(missing_ok=True)


def _finished(out: Path, run: str) -> float | None:
    """The final loss of a finished checkpoint of this very run."""
    try:
        trained = json.loads((out / CONFIG).read_text(encoding="utf-8"))["trained"]
    except (OSError, ValueError, KeyError):
        return None
    return float(trained["loss"]) if trained.get("run") == run and (out / selfcon.WEIGHTS).is_file() else None


@contextmanager
def _steady(settings: Settings) -> Iterator[None]:
    """A fixed number of CPU threads and, unless it is given up for speed, deterministic kernels; put back afterwards."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    _keep_freed_memory()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(settings.deterministic)
    # Read when cuBLAS is first used; without it, deterministic products are refused on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        if settings.deterministic:
            with selfcon.deterministic_convolutions():
                yield
        else:
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
    """Probabilities and the limits of a verdict from the calibration split alone (`certainty`)."""
    if rows is None:
        log.warning("no calibration split: probabilities are the network's own, and no verdict is given")
        return Calibration()
    device = str(next(network.parameters()).device)
    items = (Item(rows.ids[i], b"", rows.image(i)) for i in range(len(rows)))
    logits, _ = selfcon.answers(network, settings.crop, items, device=device)
    return certainty.calibrated(rows.label, logits, rows.group)


def _as_csv(history: History) -> bytes:
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
