"""Generative adversarial networks: latent in, image out, in plain PyTorch from safetensors and a config.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from imaginet_build.errors import UsageError, suggest
from imaginet_build.generators import networks, stack
from imaginet_build.generators.networks import Network, Noise, Sampling
from imaginet_build.generators.stack import Answer
from imaginet_build.records import Order, Refusal, random_of

log = logging.getLogger(__name__)


class Gan:
    """Draws from a folder (or hub id) with `config.json` (architecture and sizes, see `networks`) and `model.safetensors`.

    `truncation`: 1.0 draws from the whole distribution; less trades variety for typical images, `cutoff` for the first so many
    styles only. `noise`: StyleGAN2's noise inputs, `const` (as trained with, the default), `random` (from the order's seed) or
    `none`. `classes`: which classes of a class-conditional model to draw, all by default; each order's id picks its own.
    `width`, `height`: what orders ask for where the recipe does not say; the model has one size. The latent comes from the
    order's seed, on the CPU. `upstream`: where the makers' own file is to be had, to be named where the folder is missing.

    UsageError or MissingExtra when weights are missing, do not fit the architecture, are not numbers, or were never trained.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "none"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        name: str = "",
        truncation: float = 1.0,
        cutoff: int | None = None,
        noise: Noise | None = None,
        classes: list[int] | None = None,
        dtype: str = "auto",
        width: int | None = None,
        height: int | None = None,
        upstream: str | None = None,
    ) -> None:
        self.who = name or model
        if not 0 < truncation <= 1:
            raise UsageError(f"{self.who}: truncation is {truncation}; it lies above 0 and at most at 1")
        if cutoff is not None and (type(cutoff) is not int or cutoff < 1):
            raise UsageError(f"{self.who}: cutoff is {cutoff}; it is a number of styles, 1 or more")
        if noise is not None and noise not in (kinds := get_args(Noise)):
            raise UsageError(f"{self.who}: noise is '{noise}'{suggest(str(noise), kinds)}; one of {', '.join(kinds)}")
        if dtype not in ("auto", "float32"):
            raise UsageError(f"{self.who}: dtype is '{dtype}'; GANs are drawn in float32, which their sines and norms need")
        self.model, self.revision, self.upstream = model, revision, upstream
        self.width, self.height, self._classes = width, height, classes
        folder = self._local()
        stack.require(self.who, "torch", "safetensors")
        self._device = stack.choose(self.who, "float32")
        self._net = self._load(folder or self._fetched())
        self.how = Sampling(truncation, cutoff, noise or "const")
        self._fits(noise)

    def _local(self) -> Path | None:
        """The folder, None for a hub id; where there is none, how to make one."""
        try:
            return stack.folder_of(self.model)
        except UsageError as e:
            source = f"get {self.upstream}" if self.upstream else "get its makers' file"
            raise UsageError(
                f"{self.who}: there are no weights at '{self.model}': {source}, then: "
                f"build-imaginet convert FILE --sha256 DIGEST --trust --out {self.model}"
            ) from e

    def _fetched(self) -> Path:
        stack.require(self.who, "huggingface_hub")
        from huggingface_hub import snapshot_download

        wanted = ["config.json", "model.safetensors"]
        return Path(
            stack.fetch(
                self.who, self.model, self.revision, lambda where: snapshot_download(self.model, allow_patterns=wanted, **where)
            )
        )

    def _load(self, folder: Path) -> Network:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            state = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as e:
            raise UsageError(f"{self.who}: '{folder}' is not a GAN's folder: {stack.first_line(e)}") from e
        if not isinstance(config, dict):
            raise UsageError(f"{self.who}: '{folder}' is not a GAN's folder: config.json holds no table")
        self.architecture = str(config.get("architecture"))
        net = networks.build(config, self.who)
        net.load(state, self.who)
        net.to(self._device.kind, self._device.dtype)
        return net

    def _fits(self, noise: Noise | None) -> None:
        """Refuse what the architecture does not know, rather than record what had no effect."""
        given = {"truncation": self.how.truncation != 1, "cutoff": self.how.cutoff is not None, "noise": noise is not None}
        for option, asked in given.items():
            if asked and option not in self._net.options:
                raise UsageError(f"{self.who}: {option} means nothing to a {self.architecture}: leave it out of the card")
        count = self._net.classes
        if self._classes is not None and (bad := [c for c in self._classes if c not in range(count)] or not self._classes):
            known = f"classes are 0 to {count - 1}" if count else "the model has no classes"
            raise UsageError(f"{self.who}: classes {bad if isinstance(bad, list) else self._classes}: {known}")

    def params(self) -> dict[str, Any]:
        """What decides the pixels besides the order and the card: device, dtype, versions, truncation, cutoff, noise."""
        how = {"truncation": self.how.truncation, "cutoff": self.how.cutoff, "noise": self.how.noise}
        return self._device.facts() | {k: v for k, v in how.items() if k in self._net.options}

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
        generators = stack.noise_of(orders)
        z = torch.stack([torch.randn(net.latent_size, generator=g) for g in generators])
        extras: list[dict[str, Any]] = [facts for _ in orders]
        label = None
        if net.classes:
            allowed = self._classes or list(range(net.classes))
            drawn = [allowed[int(random_of(order.id, "class").integers(len(allowed)))] for order in orders]
            extras = [extra | {"class": c} for extra, c in zip(extras, drawn, strict=True)]
            label = torch.tensor(drawn, device=device.kind)
        how = Sampling(self.how.truncation, self.how.cutoff, self.how.noise, generators)
        with torch.inference_mode():
            x = net.forward(z.to(device.kind, device.dtype), label, how)
        pixels = (x.float() * 0.5 + 0.5).permute(0, 2, 3, 1).cpu().numpy()
        size = (net.resolution, net.resolution)
        return [stack.finish(p, extra, size) for p, extra in zip(pixels, extras, strict=True)]
