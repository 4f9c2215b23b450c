"""Generator networks of GANs as plain PyTorch modules: inference only, no custom CUDA, no pickles.

`build(config)` turns a `config.json` into a module. A module has `latent_size`, `classes` (0: unconditional) and
`resolution`, and its `forward(z, label, truncation)` maps (n, latent_size) float latents to (n, 3, resolution, resolution) in
[-1, 1]. A new architecture is one function here (or one module beside this one) and a line in `_ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from imaginet_build.errors import UsageError, suggest

if TYPE_CHECKING:
    from torch import nn


def build(config: Mapping[str, Any], name: str = "this model") -> nn.Module:
    """The network that `config["architecture"]` names, with fresh weights; the other keys are its sizes.

    Raises UsageError where the architecture is unknown or a size is missing or not understood; `name` is for the message.
    """
    settings = dict(config)
    architecture = str(settings.pop("architecture", ""))
    if architecture not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        near = suggest(architecture, _ARCHITECTURES)
        raise UsageError(f"{name}: config.json names the architecture '{architecture}'{near}; known here: {known}")
    try:
        return _ARCHITECTURES[architecture](**settings)
    except TypeError as e:
        raise UsageError(f"{name}: config.json does not fit the architecture '{architecture}': {e}") from e


def _skip_layer(resolution: int, latent_size: int, widths: list[int]) -> nn.Module:
    """A convolutional generator with gated up-sampling blocks and skip-layer excitation (after FastGAN, arXiv:2101.04775).

    `widths`: channels at 4, 8, 16, … up to `resolution`, so that `4 * 2**(len(widths) - 1) == resolution`.
    """
    import torch
    from torch import nn

    if 4 * 2 ** (len(widths) - 1) != resolution:
        raise TypeError(f"{len(widths)} widths make {4 * 2 ** (len(widths) - 1)} pixels, not {resolution}")

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
        """Input (n, latent_size), output (n, 3, resolution, resolution)."""

        def __init__(self) -> None:
            super().__init__()
            self.latent_size, self.resolution, self.classes = latent_size, resolution, 0
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

        def forward(self, z: torch.Tensor, _label: torch.Tensor | None = None, truncation: float = 1.0) -> torch.Tensor:
            # With a normal latent and no mapping network, truncation shrinks the latent towards the mean image.
            z = truncation * nn.functional.normalize(z, dim=1) * latent_size**0.5
            levels = [self.first(z[:, :, None, None])]
            for i, block in enumerate(self.blocks, start=1):
                x = block(levels[-1])
                levels.append(self.excite[str(i)](levels[i - 3], x) if str(i) in self.excite else x)
            return torch.tanh(self.last(levels[-1]))

    return SkipLayerGenerator()


_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"skip-layer": _skip_layer}
