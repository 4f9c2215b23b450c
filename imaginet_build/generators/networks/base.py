"""What every generator network is: sizes that are checked, weights that must match them exactly, and one way to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from imaginet_build.errors import UsageError

if TYPE_CHECKING:
    import torch

Noise = Literal["const", "random", "none"]
Width = Annotated[int, Field(ge=1, le=16_384)]
Side = Annotated[int, Field(ge=4, le=4_096)]
Shapes = dict[str, tuple[int, ...]]
Weights = Mapping[str, "torch.Tensor"]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw. `truncation`: psi in (0, 1], 1 for the whole distribution; `cutoff`: for how many of the first styles it
    counts (None: all). `noise`: StyleGAN2's inputs of noise as stored, fresh from `generators` (one an image), or left out."""

    truncation: float = 1.0
    cutoff: int | None = None
    noise: Noise = "const"
    generators: Sequence[torch.Generator] = ()


PLAIN = Sampling()


class Network(BaseModel):
    """A generator as its sizes (`config.json`) and, once loaded, its weights. There are none to begin with: a network without
    a file of weights cannot draw."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    options: ClassVar[frozenset[str]] = frozenset()
    """Which fields of `Sampling` mean something here: `truncation`, `cutoff`, `noise`."""

    resolution: Side
    latent_size: Width
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    _weights: dict[str, torch.Tensor] = PrivateAttr(default_factory=dict)

    def shapes(self) -> Shapes:
        """Every weight's name and shape."""
        raise NotImplementedError

    def forward(self, z: torch.Tensor, label: torch.Tensor | None = None, how: Sampling = PLAIN) -> torch.Tensor:
        """(n, latent_size) normal latents, and (n,) class numbers where there are classes, as (n, 3, side, side) in [-1, 1]."""
        raise NotImplementedError

    def load(self, state: Weights, who: str = "this model") -> None:
        """Take `state` as the weights. UsageError unless each name and shape fits, all are numbers, and training shows."""
        check(self.shapes(), state, who)
        self._weights.clear()
        self._weights.update(state)
        self.loaded()

    def loaded(self) -> None:
        """What follows from the weights and sizes alone, such as filters."""

    def to(self, kind: str, dtype: torch.dtype) -> None:
        """Move everything to a device; floating-point weights become `dtype`."""
        for name, value in self._weights.items():
            self._weights[name] = value.to(kind, dtype) if value.is_floating_point() else value.to(kind)


def check(shapes: Shapes, state: Weights, who: str) -> None:
    """UsageError naming what is missing, too much, of another shape, not a number, or as it was before any training."""
    import torch

    faults = [f"{name} is missing" for name in sorted(shapes.keys() - state.keys())]
    faults += [f"{name} is not a weight of this architecture" for name in sorted(state.keys() - shapes.keys())]
    faults += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if faults:
        more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
        raise UsageError(f"{who}: the weights do not fit config.json: {'; '.join(faults[:_SHOWN])}{more}")
    # Values, not only shapes: unconverged spectral norms have given NaN of the right shape before.
    if bad := sorted(k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()):
        raise UsageError(f"{who}: the weights hold values that are not numbers, first in {bad[0]}")
    # Training moves every bias; a network that was only initialised has none but its initial values.
    biases = [v for k, v in state.items() if k.endswith("bias") and not k.endswith("place.bias")]
    if biases and all(bool((v == v.flatten()[0]).all()) for v in biases):
        raise UsageError(f"{who}: these weights were never trained: all {len(biases)} biases are at their initial values")
    # Some layers draw their biases at random; what training sees on its way, it averages from 0.
    means = [v for k, v in state.items() if k.rpartition(".")[2] in ("mean", "running_mean")]
    if means and not any(bool(v.any()) for v in means):
        raise UsageError(f"{who}: these weights were never trained: all {len(means)} running means are 0")
