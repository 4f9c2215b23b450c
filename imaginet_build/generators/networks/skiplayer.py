"""The generator of the tiny GAN that ships: gated up-sampling and skip-layer excitation (after FastGAN, arXiv:2101.04775)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr, model_validator

from imaginet_build.generators.networks.base import PLAIN, Network, Sampling, Shapes, Width

if TYPE_CHECKING:
    import torch
    from torch import nn


class SkipLayer(Network):
    """`widths`: channels at 4, 8, 16, … pixels up to the image's side. Truncation shrinks the latent towards the mean image."""

    options: ClassVar[frozenset[str]] = frozenset({"truncation"})
    widths: Annotated[list[Width], Field(min_length=1, max_length=10)]
    _module: list[Any] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _levels(self) -> SkipLayer:
        if (side := 4 * 2 ** (len(self.widths) - 1)) != self.resolution:
            raise ValueError(f"{len(self.widths)} widths make {side} pixels, not {self.resolution}")
        return self

    def shapes(self) -> Shapes:
        """Every weight's name and shape."""
        import torch

        with torch.device("meta"):
            return {name: tuple(value.shape) for name, value in module(self.latent_size, self.widths).state_dict().items()}

    def loaded(self) -> None:
        """Put the weights into the module."""
        made = module(self.latent_size, self.widths)
        made.load_state_dict(self._weights)
        self._module[:] = [made.eval().requires_grad_(False)]

    def to(self, kind: str, dtype: torch.dtype) -> None:
        """Move the module to a device."""
        self._module[0].to(kind, dtype)

    def forward(self, z: torch.Tensor, _label: torch.Tensor | None = None, how: Sampling = PLAIN) -> torch.Tensor:
        """Draw."""
        drawn: torch.Tensor = self._module[0](z, how.truncation)
        return drawn


def module(latent_size: int, widths: list[int]) -> nn.Module:
    """The network itself with fresh weights, to be trained: (n, latent_size), and a truncation, to (n, 3, side, side)."""
    import torch
    from torch import nn

    class Excite(nn.Module):
        """Channel gates at a high resolution, computed from a low one: 4 x 4 pixels hold the composition."""

        def __init__(self, low: int, high: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(4), nn.Conv2d(low, high, 4), nn.SiLU(), nn.Conv2d(high, high, 1), nn.Sigmoid()
            )

        def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
            gated: torch.Tensor = high * self.gate(low)
            return gated

    class SkipLayerGenerator(nn.Module):
        """Input (n, latent_size), output (n, 3, side, side)."""

        def __init__(self) -> None:
            super().__init__()
            first = widths[0]
            self.first = nn.Sequential(
                nn.ConvTranspose2d(latent_size, 2 * first, 4, bias=False), nn.BatchNorm2d(2 * first), nn.GLU(1)
            )
            self.blocks = nn.ModuleList(
                nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="nearest"),
                    nn.Conv2d(low, 2 * high, 3, padding=1, bias=False),
                    nn.BatchNorm2d(2 * high),
                    nn.GLU(1),
                )
                for low, high in pairwise(widths)
            )
            # 8 -> 64 and 16 -> 128: far apart, so that the gates carry what the convolutions between cannot.
            self.excite = nn.ModuleDict({str(i + 3): Excite(widths[i], widths[i + 3]) for i in range(1, len(widths) - 3)})
            self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

        def forward(self, z: torch.Tensor, truncation: float = 1.0) -> torch.Tensor:
            # With a normal latent and no mapping network, truncation shrinks the latent towards the mean image.
            z = truncation * nn.functional.normalize(z, dim=1) * latent_size**0.5
            levels = [self.first(z[:, :, None, None])]
            for i, block in enumerate(self.blocks, start=1):
                x = block(levels[-1])
                levels.append(self.excite[str(i)](levels[i - 3], x) if str(i) in self.excite else x)
            return torch.tanh(self.last(levels[-1]))

    return SkipLayerGenerator()
