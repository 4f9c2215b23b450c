"""Generative adversarial networks: latent in, image out, in plain PyTorch from safetensors and a config.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from imaginet_build.errors import UsageError
from imaginet_build.generators import networks, stack
from imaginet_build.generators.stack import Answer
from imaginet_build.records import Order, Refusal, random_of

log = logging.getLogger(__name__)


class Gan:
    """Draws from a folder (or hub id) with `config.json` (architecture and sizes, see `networks`) and `model.safetensors`.

    `truncation`: 1.0 draws from the whole distribution; less trades variety for typical images. `classes`: which classes
    of a class-conditional model to draw, all of them by default; each order's id picks its own. `width`, `height`: what
    orders ask for where the recipe does not say; the model has one size. The latent comes from the order's seed, on the CPU.

    UsageError or MissingExtra when weights are missing, do not fit the architecture, or are not numbers.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "none"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        name: str = "",
        truncation: float = 1.0,
        classes: list[int] | None = None,
        dtype: str = "auto",
        width: int | None = None,
        height: int | None = None,
    ) -> None:
        self.who = name or model
        if not 0 < truncation <= 1:
            raise UsageError(f"{self.who}: truncation is {truncation}; it lies above 0 and at most at 1")
        self.model, self.revision, self.truncation = model, revision, truncation
        self.width, self.height, self._classes = width, height, classes
        stack.require(self.who, "torch", "safetensors")
        self._device = stack.choose(self.who, dtype)
        self._net = self._load()

    def _load(self) -> Any:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = self._folder()
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            state = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as e:
            raise UsageError(f"{self.who}: '{folder}' is not a GAN's folder: {stack.first_line(e)}") from e
        net = networks.build(config, self.who)
        # Values, not only shapes: unconverged spectral norms have given NaN of the right shape before.
        if bad := sorted(k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()):
            raise UsageError(f"{self.who}: the weights hold values that are not numbers, first in {bad[0]}")
        try:
            net.load_state_dict(state)
        except RuntimeError as e:
            raise UsageError(f"{self.who}: the weights do not fit '{config['architecture']}': {e}") from e
        return net.to(self._device.kind, self._device.dtype).eval().requires_grad_(False)

    def _folder(self) -> Path:
        if (folder := stack.folder_of(self.model)) is not None:
            return folder
        stack.require(self.who, "huggingface_hub")
        from huggingface_hub import snapshot_download

        wanted = ["config.json", "model.safetensors"]
        return Path(
            stack.fetch(
                self.who, self.model, self.revision, lambda where: snapshot_download(self.model, allow_patterns=wanted, **where)
            )
        )

    def params(self) -> dict[str, Any]:
        """What decides the pixels besides the order and the card: device, dtype, versions, truncation."""
        return self._device.facts() | {"truncation": self.truncation}

    def draw(self, orders: Sequence[Order]) -> Iterator[Answer]:
        """One answer per order, in order; those of one call are drawn together."""
        side = self._net.resolution
        answers: dict[int, Answer] = {}
        good: list[int] = []
        for i, order in enumerate(orders):
            if (order.width, order.height) == (side, side):
                good.append(i)
            else:
                detail = f"{self.who} draws {side} x {side} pixels, not {order.width} x {order.height}"
                answers[i] = Refusal("bad-size", detail)
        drawn = self._draw_within_memory([orders[i] for i in good], len(good)) if good else []
        answers |= zip(good, drawn, strict=True)
        yield from stack.in_order(orders, answers)

    def _draw_within_memory(self, orders: list[Order], asked: int) -> list[Answer]:
        try:
            return self._draw_together(orders, {"drawn_together": len(orders)} if len(orders) < asked else {})
        except Exception as e:
            if not stack.is_out_of_memory(e):
                raise
            if len(orders) == 1:
                return [Refusal("out-of-memory", stack.first_line(e))]
        half = len(orders) // 2
        log.warning("%s: no memory for %d images at once; drawn in halves (recorded)", self.who, len(orders))
        return self._draw_within_memory(orders[:half], asked) + self._draw_within_memory(orders[half:], asked)

    def _draw_together(self, orders: list[Order], facts: dict[str, Any]) -> list[Answer]:
        import torch

        net, device = self._net, self._device
        z = torch.stack([torch.randn(net.latent_size, generator=g) for g in stack.noise_of(orders)])
        extras: list[dict[str, Any]] = [facts for _ in orders]
        label = None
        if net.classes:
            allowed = self._classes or list(range(net.classes))
            drawn = [allowed[int(random_of(order.id, "class").integers(len(allowed)))] for order in orders]
            extras = [extra | {"class": c} for extra, c in zip(extras, drawn, strict=True)]
            label = torch.tensor(drawn, device=device.kind)
        with torch.inference_mode():
            x = net(z.to(device.kind, device.dtype), label, self.truncation)
        pixels = (x.float() * 0.5 + 0.5).permute(0, 2, 3, 1).cpu().numpy()
        size = (net.resolution, net.resolution)
        return [stack.finish(p, extra, size) for p, extra in zip(pixels, extras, strict=True)]
