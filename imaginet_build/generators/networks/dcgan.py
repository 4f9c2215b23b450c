"""DCGAN (Radford et al., arXiv:1511.06434), with or without classes: transposed convolutions, batch norm, ReLU, tanh."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from imaginet_build.generators.networks.base import PLAIN, Network, Sampling, Shapes, Width

if TYPE_CHECKING:
    import torch

EPSILON = 1e-5


class DCGAN(Network):
    """`widths`: channels at 4, 8, 16, … pixels, up to half the image's side. A class is one of the first layer's inputs.

    Truncation shrinks the latent towards zero, since there is no mapping network whose mean could be gone to.
    """

    options: ClassVar[frozenset[str]] = frozenset({"truncation"})
    widths: Annotated[list[Width], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _levels(self) -> DCGAN:
        if (side := 4 * 2 ** len(self.widths)) != self.resolution:
            raise ValueError(f"{len(self.widths)} widths make {side} pixels, not {self.resolution}")
        return self

    def shapes(self) -> Shapes:
        """Every weight's name and shape."""
        channels = [self.latent_size + self.classes, *self.widths, 3]
        found: Shapes = {f"convolutions.{i}.weight": (low, high, 4, 4) for i, (low, high) in enumerate(pairwise(channels))}
        for i, width in enumerate(self.widths):
            found |= {f"norms.{i}.{what}": (width,) for what in ("weight", "bias", "mean", "variance")}
        return found

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None, how: Sampling = PLAIN) -> torch.Tensor:
        """Draw."""
        import torch
        from torch.nn import functional

        weights, x = self._weights, z * how.truncation
        if label is not None:
            x = torch.cat([x, functional.one_hot(label, self.classes).to(x)], 1)
        x = x[:, :, None, None]
        for i in range(len(self.widths)):
            x = functional.conv_transpose2d(x, weights[f"convolutions.{i}.weight"], stride=2 if i else 1, padding=1 if i else 0)
            mean, variance, scale, bias = (weights[f"norms.{i}.{what}"] for what in ("mean", "variance", "weight", "bias"))
            x = functional.relu(functional.batch_norm(x, mean, variance, scale, bias, eps=EPSILON))
        last = weights[f"convolutions.{len(self.widths)}.weight"]
        return torch.tanh(functional.conv_transpose2d(x, last, stride=2, padding=1))
