"""ProGAN (Karras et al., arXiv:1710.10196), fully grown: pixel norms, nearest-neighbour up-sampling, equalised rates."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from imaginet_build.generators.networks.base import PLAIN, Network, Sampling, Shapes, Width
from imaginet_build.generators.networks.operations import SQRT2, leaky, unit

if TYPE_CHECKING:
    import torch


class ProGAN(Network):
    """`widths`: channels at 4, 8, 16, … pixels up to the image's side. Latents lie on a sphere: nothing to truncate."""

    widths: Annotated[list[Width], Field(min_length=2, max_length=11)]
    tanh: bool = False

    @model_validator(mode="after")
    def _levels(self) -> ProGAN:
        if (side := 4 * 2 ** (len(self.widths) - 1)) != self.resolution:
            raise ValueError(f"{len(self.widths)} widths make {side} pixels, not {self.resolution}")
        return self

    def shapes(self) -> Shapes:
        """Every weight's name and shape."""
        found: Shapes = {"levels.0.first.weight": (self.widths[0], self.latent_size + self.classes, 4, 4)}
        for i, (low, high) in enumerate(pairwise(self.widths), start=1):
            found[f"levels.{i}.first.weight"] = (high, low, 3, 3)
        for i, width in enumerate(self.widths):
            found[f"levels.{i}.second.weight"] = (width, width, 3, 3)
            found |= {f"levels.{i}.{which}.bias": (width,) for which in ("first", "second")}
        return found | {"rgb.weight": (3, self.widths[-1], 1, 1), "rgb.bias": (3,)}

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None, _how: Sampling = PLAIN) -> torch.Tensor:
        """Draw."""
        import torch
        from torch.nn import functional

        x = unit(z)
        if label is not None:
            # The latent's length is that of its dimensions' number beside the class's 1, before both are normalised.
            x = torch.cat([x * self.latent_size**0.5, functional.one_hot(label, self.classes).to(x)], 1)
        x = x[:, :, None, None]
        for i in range(len(self.widths)):
            x = unit(x)
            if i:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = leaky(self._convolution(x, f"levels.{i}.first", padding=1 if i else 3), 1.0)
            x = leaky(self._convolution(unit(x), f"levels.{i}.second", padding=1), 1.0)
        image = self._convolution(unit(x), "rgb", gain=1.0)
        return torch.tanh(image) if self.tanh else image

    def _convolution(self, x: torch.Tensor, name: str, *, padding: int = 0, gain: float = SQRT2) -> torch.Tensor:
        from torch.nn import functional

        weight = self._weights[f"{name}.weight"]
        fan_in = weight.shape[1] * weight.shape[2] * weight.shape[3]
        return functional.conv2d(x, weight * (gain / fan_in**0.5), self._weights[f"{name}.bias"], padding=padding)
