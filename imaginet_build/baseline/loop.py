"""The training loop: one step after another, on one device or many, and again from the last saved state after a kill."""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaginet_build.baseline import gradients
from imaginet_build.baseline.data import Crops, Draws
from imaginet_build.baseline.settings import Settings
from imaginet_build.detectors import selfcon
from imaginet_build.detectors.selfcon_networks import build, fit, multi_label_loss
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import seed_of

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)
STATE = "state.pt"
EVENTS = "tensorboard"
History = list[dict[str, float | int]]


def accelerator_for(settings: Settings) -> Any:
    """Where the training runs: the devices and processes that `accelerate launch` gave, or the one device there is.

    Raises `MissingExtra` without accelerate, `UsageError` where the batch cannot be shared equally.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise MissingExtra("baseline train", "accelerate", "baseline") from None
    accelerator = Accelerator(mixed_precision=settings.precision)
    if settings.batch % accelerator.num_processes:
        raise UsageError(
            f"a batch of {settings.batch} cannot be shared by {accelerator.num_processes} processes; set "
            f"baseline.options.batch to a multiple of {accelerator.num_processes}"
        )
    return accelerator


class Run:
    """One training run. `named`: every row's generator or family; `names`: those that the second head tells apart."""

    def __init__(
        self,
        settings: Settings,
        crops: Crops,
        named: tuple[str, ...],
        names: tuple[str, ...],
        out: Path,
        run: str,
        accelerator: Any,
    ) -> None:
        import torch

        self.settings, self.crops, self.out, self.run, self.accelerator = settings, crops, out, run, accelerator
        torch.manual_seed(seed_of(str(settings.seed), "baseline/weights"))
        network = build(settings.shape(names), settings.initial)
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda" and not settings.frozen_norm:
            network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network: nn.Module = network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = self._average()
        self.optimizer = accelerator.prepare(self._optimizer())
        self.draws = Draws(crops.rows, crops.usable, settings.seed, settings.batch, settings.evenness)
        if self.draws.batch % accelerator.num_processes:
            raise UsageError(f"{self.draws.batch} images cannot be shared by {accelerator.num_processes} processes; use fewer")
        self.origin = torch.from_numpy(crops.rows.label)
        self.name = torch.tensor([names.index(n) if n in names else -1 for n in named])
        self.total = settings.steps + settings.head_steps
        chunk = min(settings.chunk or self._share, self._share)
        if not settings.frozen_norm and (chunk == 1 or self._share % chunk == 1):
            raise UsageError(
                f"{self._share} images of a step fall to each process, {chunk} at a time: batch norm cannot learn from one "
                "alone. Set baseline.options.batch or .chunk so that none is left over, or baseline.options.frozen_norm"
            )
        self.history: History = []
        if 0 < settings.chunk < self._share and not settings.frozen_norm:
            log.warning(
                "chunks of %d: batch norm sees %d images at a time, so this is not the gradient of one batch of %d; it is with "
                "baseline.options.frozen_norm", settings.chunk, settings.chunk, self.draws.batch,
            )  # fmt: skip

    @property
    def _share(self) -> int:
        """Images of a step that fall to each process."""
        return int(self.draws.batch // self.accelerator.num_processes)

    def _average(self) -> Any:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        if not self.settings.ema:
            return None
        mean = get_ema_multi_avg_fn(self.settings.ema)  # type: ignore[no-untyped-call]
        return AveragedModel(self.network, multi_avg_fn=mean, use_buffers=True)

    def _optimizer(self) -> Any:
        import torch

        heads = [p for k, p in self.network.named_parameters() if k.startswith(("origin.", "named."))]
        rest = [p for k, p in self.network.named_parameters() if not k.startswith(("origin.", "named."))]
        if self.settings.joint:
            return torch.optim.AdamW([*rest, *heads], lr=self.settings.rate, weight_decay=self.settings.weight_decay)
        return torch.optim.SGD(rest, lr=self.settings.rate, momentum=0.9, weight_decay=self.settings.weight_decay)

    def go(self) -> tuple[nn.Module, History, int]:
        """The trained network in eval mode, the log, and the step the run was taken up at (0 for a fresh one)."""
        import torch
        from tqdm import tqdm

        resumed_at = step = self._resume()
        main = self.accelerator.is_main_process
        events: Any = _events(self.out / EVENTS, step) if main else None
        progress = tqdm(
            total=self.total, initial=step, unit="step", desc=f"seed {self.settings.seed}", disable=None if main else True
        )
        try:
            while step < self.total:
                if step == self.settings.steps and not self.settings.joint:
                    self._freeze()
                said = self._step(step)
                self.history.append({"step": step} | said)
                for name, value in said.items() if events else ():
                    events.add_scalar(name, value, step)
                step += 1
                progress.update()
                if step % self.settings.save_every == 0 and step < self.total:
                    self._save(step)
        finally:
            progress.close()
            if events:
                events.close()
        self._same_statistics()
        network: nn.Module = self.network if self.average is None else self.average.module
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return network.eval(), self.history, resumed_at

    def _same_statistics(self) -> None:
        """Every process keeps the same batch norm, in the weights' average too."""
        for network in filter(None, (self.network, self.average)):
            gradients.averaged_statistics(network, self.accelerator)

    def _freeze(self) -> None:
        """Second stage: the paper's Adam on the heads; the encoder keeps its weights, its batch norm goes on adapting."""
        import torch

        heads = []
        for key, parameter in self.network.named_parameters():
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

        rate = self._rate(step)
        for group in self.optimizer.param_groups if rate is not None else ():
            group["lr"] = rate
        drawn = self.draws.step(step)
        first = self._share * self.accelerator.process_index
        mine = drawn[first : first + self._share]
        x = torch.from_numpy(self.crops.batch(mine)).to(self.accelerator.device)
        chunks = torch.split(x.contiguous(memory_format=torch.channels_last), self.settings.chunk or len(mine))
        self._train_mode()
        index = torch.tensor([row for row, _ in drawn])
        parts: dict[str, float] = {}
        self.optimizer.zero_grad()
        loss = gradients.backward(
            self.network,
            chunks,
            lambda chunk, number: self._answers(chunk, step, number),
            lambda answers: self._loss(answers, index, step, parts),
            self.accelerator,
        )
        if not torch.isfinite(loss):
            raise BuildError(f"the loss is {loss.item()} at step {step}; lower baseline.options.rate ({self.settings.rate})")
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return {"loss": float(loss.item()), **parts, "rate": rate or 1e-4}

    def _train_mode(self) -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        self.network.train()
        for module in self.network.modules() if self.settings.frozen_norm else ():
            if isinstance(module, _BatchNorm):
                module.eval()

    def _answers(self, chunk: Tensor, step: int, number: int) -> gradients.Answers:
        """What the loss needs: projections while the encoder learns, the heads' logits while they do."""
        import torch

        network: Any = self.network
        heads_only = step >= self.settings.steps
        # Dropout's mask belongs to the step, the process and the chunk, so that a second pass repeats it.
        place = f" {self.accelerator.process_index} {number}" if number or self.accelerator.process_index else ""
        torch.manual_seed(seed_of(f"{self.settings.seed} {step}{place}", "baseline/dropout"))
        with self.accelerator.autocast():
            with torch.set_grad_enabled(torch.is_grad_enabled() and not heads_only):
                deep, shallow = network.views(chunk)
            answers: gradients.Answers = ()
            if self._contrasts(step):
                answers += (network.project(deep, shallow),)
            if heads_only or self.settings.joint:
                answers += tuple(network.heads(deep))
        return answers

    def _contrasts(self, step: int) -> bool:
        return step < self.settings.steps and self.settings.contrast > 0

    def _loss(self, answers: gradients.Answers, index: Tensor, step: int, said: dict[str, float]) -> Tensor:
        """The loss of the whole batch; `said` gets its parts."""
        import torch
        from torch.nn import functional

        origin, name = (values[index].to(answers[0].device) for values in (self.origin, self.name))
        parts: dict[str, Tensor] = {}
        if self._contrasts(step):
            parts["selfcon"] = self.settings.contrast * multi_label_loss(answers[0], origin, name)
        if step >= self.settings.steps or self.settings.joint:
            logit, named = answers[-2:]
            parts["origin"] = functional.binary_cross_entropy_with_logits(logit, origin.to(logit.dtype))
            synthetic = origin == 1
            if synthetic.any():
                parts["named"] = 0.5 * functional.cross_entropy(named[synthetic], name[synthetic])
        said |= {key: float(value.item()) for key, value in parts.items()}
        return torch.stack(list(parts.values())).sum()

    def _save(self, step: int) -> None:
        import torch

        self._same_statistics()
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "run": self.run,
            "step": step,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        held = io.BytesIO()
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
        fit(self.network, state["network"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.history = state["history"]
        return step


def _events(folder: Path, step: int) -> Any:
    """A TensorBoard log that goes on at `step`; None where TensorBoard is not installed (log.csv says the same)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)
