"""StyleGAN3 (Karras et al., arXiv:2106.12423), configs T and R: Fourier features, and a low-pass filter on both sides of every
non-linearity, so that an image moves with what it shows. StyleGAN-XL (Sauer et al., arXiv:2202.00273) has the same layers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from imaginet_build.generators.networks.base import PLAIN, Network, Sampling, Shapes, Width
from imaginet_build.generators.networks.filters import Frequency, Layer, Size
from imaginet_build.generators.networks.mapping import Mapping
from imaginet_build.generators.networks.operations import SQRT2, dense, leaky, modulated, resample

if TYPE_CHECKING:
    import torch

CLAMP = 256.0
FINEST = 16_384
"""Samples along a side that a layer may work at: twice what an image of 4,096 pixels needs."""


class Fourier(BaseModel):
    """The input: waves over a square of `size` samples at `rate` samples a side, no faster than `bandwidth`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: Width
    size: Size
    rate: Frequency
    bandwidth: Frequency


class StyleGAN3(Network):
    """`layers` and `first` as `filters.plan` makes them, or as the converted network had them; `output_scale`: of the image."""

    options: ClassVar[frozenset[str]] = frozenset({"truncation", "cutoff"})
    mapping: Mapping
    first: Fourier
    layers: Annotated[list[Layer], Field(min_length=1, max_length=200)]
    output_scale: Annotated[float, Field(gt=0)] = 0.25
    _filters: list[tuple[torch.Tensor | None, torch.Tensor | None]] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _chain(self) -> StyleGAN3:
        if self.layers[0].in_channels != self.first.channels or self.layers[0].in_size != self.first.size:
            raise ValueError("the first layer does not take what the Fourier features give")
        for i, (one, two) in enumerate(pairwise(self.layers)):
            if (one.out_channels, one.out_size, one.out_rate) != (two.in_channels, two.in_size, two.in_rate):
                raise ValueError(f"layer {i + 1} does not take what layer {i} gives")
        last = self.layers[-1]
        if (last.out_channels, last.out_size, last.rgb) != (3, self.resolution, True):
            raise ValueError(f"the last layer does not give an image of {self.resolution} pixels")
        for i, layer in enumerate(self.layers):
            if layer.work_rate % layer.in_rate or layer.work_rate % layer.out_rate:
                raise ValueError(f"layer {i}: its working rate is no multiple of its others")
            if (finest := (layer.in_size + layer.kernel - 1) * layer.up) > FINEST:
                raise ValueError(f"layer {i} works at {finest} samples a side; the most is {FINEST}")
        return self

    def shapes(self) -> Shapes:
        """Every weight's name and shape."""
        size, waves = self.mapping.style_size, self.first.channels
        found = self.mapping.shapes(self.latent_size, self.classes) | {
            "input.weight": (waves, waves),
            "input.frequencies": (waves, 2),
            "input.phases": (waves,),
            "input.transform": (3, 3),
            "input.place.weight": (4, size),
            "input.place.bias": (4,),
        }
        for i, layer in enumerate(self.layers):
            low, high = layer.in_channels, layer.out_channels
            found[f"layers.{i}.weight"] = (high, low, layer.kernel, layer.kernel)
            found[f"layers.{i}.bias"] = (high,)
            found[f"layers.{i}.magnitude"] = ()
            found[f"layers.{i}.style.weight"] = (low, size)
            found[f"layers.{i}.style.bias"] = (low,)
        return found

    def loaded(self) -> None:
        """Design the filters."""
        import torch

        self._filters.clear()
        for layer in self.layers:
            up, down = (None if f is None else torch.from_numpy(f).float() for f in layer.filters())
            self._filters.append((up, down))

    def to(self, kind: str, dtype: torch.dtype) -> None:
        """Move everything to a device."""
        super().to(kind, dtype)
        self._filters[:] = [
            (None if up is None else up.to(kind, dtype), None if down is None else down.to(kind, dtype))
            for up, down in self._filters
        ]

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None, how: Sampling = PLAIN) -> torch.Tensor:
        """Draw."""
        styles = self.mapping.styles(self._weights, z, label, len(self.layers) + 1, how).unbind(1)
        x = self._waves(styles[0])
        for i, (layer, style) in enumerate(zip(self.layers, styles[1:], strict=True)):
            x = self._layer(x, i, layer, style)
        return x * self.output_scale

    def _waves(self, style: torch.Tensor) -> torch.Tensor:
        """Sines over the plane, turned and moved as the style says and as `input.transform` (the inverse of a 3 x 3 matrix that
        acts on the image) says: (n, channels, size, size)."""
        import torch

        weights, first = self._weights, self.first
        t = dense(style, weights["input.place.weight"], weights["input.place.bias"])
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cos, sin, right, down = t.unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        move = torch.stack([one, zero, -right, zero, one, -down, zero, zero, one], 1).view(-1, 3, 3)
        placed = turn @ move @ weights["input.transform"]
        phases = weights["input.phases"] + (weights["input.frequencies"] @ placed[:, :2, 2:]).squeeze(2)
        frequencies = weights["input.frequencies"] @ placed[:, :2, :2]
        # A transform may push waves out of the band: they fade towards half the sampling rate.
        room = first.rate / 2 - first.bandwidth
        loud = (1 - (frequencies.norm(dim=2) - first.bandwidth) / room).clamp(0, 1)
        at = (torch.arange(first.size, device=style.device, dtype=style.dtype) + 0.5 - first.size / 2) / first.rate
        along_x = (frequencies[:, :, 0, None] * at)[:, :, None, :]
        along_y = (frequencies[:, :, 1, None] * at)[:, :, :, None]
        waves = torch.sin(2 * torch.pi * (along_x + along_y + phases[:, :, None, None])) * loud[:, :, None, None]
        mixed: torch.Tensor = torch.einsum("oi,nihw->nohw", weights["input.weight"] / first.channels**0.5, waves)
        return mixed

    def _layer(self, x: torch.Tensor, i: int, layer: Layer, style: torch.Tensor) -> torch.Tensor:
        weights = self._weights
        weight = weights[f"layers.{i}.weight"]
        scale = dense(style, weights[f"layers.{i}.style.weight"], weights[f"layers.{i}.style.bias"])
        if layer.rgb:
            scale = scale / (layer.in_channels * layer.kernel**2) ** 0.5
        else:
            # Both norms cancel in the demodulation; without them its sum of squares could overflow in half precision.
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            scale = scale * scale.square().mean(1, keepdim=True).rsqrt()
        gain = weights[f"layers.{i}.magnitude"].rsqrt()
        x = modulated(x, weight, scale, demodulate=not layer.rgb, padding=layer.kernel - 1, gain=gain)
        x = x + weights[f"layers.{i}.bias"][:, None, None]
        up, down = self._filters[i]
        x = resample(x, up, up=layer.up, padding=layer.padding, gain=layer.up**2)
        x = x.clamp(-CLAMP, CLAMP) if layer.rgb else leaky(x, SQRT2, CLAMP)
        return resample(x, down, down=layer.down)


class StyleGANXL(StyleGAN3):
    """StyleGAN3's layers, grown stage by stage, behind a mapping with fixed vectors and a mean style for each class."""
