"""StyleGAN2 (Karras et al., arXiv:1912.04958) and its ADA version: modulated convolutions, noise, images summed by skips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from imaginet_build.generators.networks.base import PLAIN, Network, Sampling, Shapes, Width
from imaginet_build.generators.networks.mapping import Mapping
from imaginet_build.generators.networks.operations import SQRT2, dense, leaky, modulated, resample

if TYPE_CHECKING:
    import torch

FIR = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
"""The low-pass filter of every up-sampling, one axis of it."""


class StyleGAN2(Network):
    """`widths`: channels at 4, 8, 16, … pixels. `output`: how levels make the image: `skip` sums one from each, `resnet` passes
    residuals on to the last, `orig` does neither. `clamp`: activations are cut to +- that. `noisy`: whether there is noise."""

    options: ClassVar[frozenset[str]] = frozenset({"truncation", "cutoff", "noise"})
    widths: Annotated[list[Width], Field(min_length=1, max_length=11)]
    mapping: Mapping
    output: Literal["skip", "resnet", "orig"] = "skip"
    clamp: Annotated[float, Field(gt=0)] | None = None
    noisy: bool = True

    @model_validator(mode="after")
    def _levels(self) -> StyleGAN2:
        if (side := 4 * 2 ** (len(self.widths) - 1)) != self.resolution:
            raise ValueError(f"{len(self.widths)} widths make {side} pixels, not {self.resolution}")
        return self

    def _sides(self) -> list[int]:
        return [4 * 2**i for i in range(len(self.widths))]

    def _draws(self, side: int) -> bool:
        return self.output == "skip" or side == self.resolution

    def shapes(self) -> Shapes:
        """Every weight's name and shape."""
        size = self.mapping.style_size
        found = self.mapping.shapes(self.latent_size, self.classes) | {"constant": (self.widths[0], 4, 4)}
        before = 0
        for side, width in zip(self._sides(), self.widths, strict=True):
            level = f"levels.{side}"
            layers = {"same": (width, width, 3), **({"up": (before, width, 3)} if before else {})}
            if self._draws(side):
                layers["rgb"] = (width, 3, 1)
            for name, (low, high, kernel) in layers.items():
                found[f"{level}.{name}.weight"] = (high, low, kernel, kernel)
                found[f"{level}.{name}.bias"] = (high,)
                found[f"{level}.{name}.style.weight"] = (low, size)
                found[f"{level}.{name}.style.bias"] = (low,)
                if self.noisy and name != "rgb":
                    found[f"{level}.{name}.noise"] = (side, side)
                    found[f"{level}.{name}.strength"] = ()
            if before and self.output == "resnet":
                found[f"{level}.skip.weight"] = (width, before, 1, 1)
            before = width
        return found

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None, how: Sampling = PLAIN) -> torch.Tensor:
        """Draw."""
        from torch.nn import functional

        weights, gain = self._weights, 1.0
        sides = self._sides()
        # A level's image takes the style of the next level's first convolution; the last one's has its own.
        count = 2 * len(sides)
        styles: Iterator[torch.Tensor] = iter(self.mapping.styles(weights, z, label, count, how).unbind(1))
        taps = z.new_tensor(FIR)
        x = weights["constant"].expand(len(z), -1, -1, -1)
        x = self._layer(x, "levels.4.same", next(styles), how)
        style = next(styles)
        image = self._image(x, 4, style) if self._draws(4) else None
        for side in sides[1:]:
            residual = None
            if self.output == "resnet":
                gain = 1 / SQRT2
                skip = weights[f"levels.{side}.skip.weight"]
                flat = functional.conv2d(x, skip * (gain / skip.shape[1] ** 0.5))
                residual = resample(flat, taps, up=2, padding=(2, 1), gain=4)
            x = self._layer(x, f"levels.{side}.up", style, how, taps=taps)
            x = self._layer(x, f"levels.{side}.same", next(styles), how, gain=gain)
            x = x if residual is None else residual + x
            style = next(styles)
            if image is not None:
                image = resample(image, taps, up=2, padding=(2, 1), gain=4)
            if self._draws(side):
                drawn = self._image(x, side, style)
                image = drawn if image is None else image + drawn
        assert image is not None
        return image

    def _layer(
        self,
        x: torch.Tensor,
        name: str,
        style: torch.Tensor,
        how: Sampling,
        *,
        taps: torch.Tensor | None = None,
        gain: float = 1.0,
    ) -> torch.Tensor:
        """A modulated 3 x 3 convolution, at twice the size where there are `taps`, noise, bias and leaky ReLU."""
        weights = self._weights
        scale = dense(style, weights[f"{name}.style.weight"], weights[f"{name}.style.bias"])
        weight = weights[f"{name}.weight"]
        if taps is None:
            x = modulated(x, weight, scale, padding=1)
        else:
            x = resample(modulated(x, weight, scale, doubled=True), taps, padding=(1, 1), gain=4)
        if self.noisy and how.noise != "none":
            x = x + self._noise(name, x, how) * weights[f"{name}.strength"]
        x = x + weights[f"{name}.bias"][:, None, None]
        return leaky(x, SQRT2 * gain, None if self.clamp is None else self.clamp * gain)

    def _noise(self, name: str, x: torch.Tensor, how: Sampling) -> torch.Tensor:
        import torch

        if how.noise == "const":
            return self._weights[f"{name}.noise"]
        size = (1, *x.shape[2:])
        return torch.stack([torch.randn(size, generator=g) for g in how.generators]).to(x)

    def _image(self, x: torch.Tensor, side: int, style: torch.Tensor) -> torch.Tensor:
        weights, name = self._weights, f"levels.{side}.rgb"
        weight = weights[f"{name}.weight"]
        scale = dense(style, weights[f"{name}.style.weight"], weights[f"{name}.style.bias"]) / weight.shape[1] ** 0.5
        y = modulated(x, weight, scale, demodulate=False) + weights[f"{name}.bias"][:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)
