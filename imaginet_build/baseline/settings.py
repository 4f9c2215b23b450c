"""How a network is trained: the settings of each preset."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from imaginet_build.baseline.augment import Augmentation
from imaginet_build.detectors.selfcon_networks import NetworkConfig, Preset, Sees
from imaginet_build.errors import UsageError, suggest

LEAST_CROP = 32
"""Pixels: a quarter of it, eight, is what the coarsest statistics of `small` look at, and `resnet50` halves it five times."""
_RANGES: dict[str, tuple[float, float]] = {
    "steps": (0, math.inf), "head_steps": (0, math.inf), "batch": (1, math.inf), "crop": (LEAST_CROP, math.inf),
    "width": (1, math.inf), "threads": (1, math.inf), "save_every": (1, math.inf), "chunk": (0, math.inf),
    "contrast": (0, math.inf), "weight_decay": (0, math.inf), "evenness": (-10, 11), "ema": (0, 1),
}  # fmt: skip
PRESETS = ("small", "imaginet", "resnet50")
Precision = Literal["no", "fp16", "bf16"]

_PAPER: dict[str, Any] = {
    # arXiv 2407.20020: batch 200, SGD 0.005, 400 epochs of 160,000 images; then the heads with Adam.
    "steps": 320_000,
    "head_steps": 2_000,
    "joint": False,
    "batch": 200,
    "rate": 5e-3,
    "contrast": 1.0,
    "weight_decay": 1e-4,
    "evenness": 0.0,
    "augmentation": "paper",
    "names": "family",
    "save_every": 1000,
}
_OWN: dict[str, dict[str, Any]] = {
    "small": {},
    "imaginet": _PAPER,
    # The plain classifier that detectors are compared with (CNNDetection, arXiv 1912.11035: Adam 1e-4, batch 64).
    "resnet50": {
        "steps": 50_000,
        "joint": True,
        "batch": 64,
        "crop": 224,
        "rate": 1e-4,
        "contrast": 0.0,
        "weight_decay": 0.0,
        "evenness": 0.0,
        "augmentation": "paper",
        "save_every": 1000,
    },
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train. The defaults are the `small` preset's; `Settings.of` gives each preset's own.

    `steps`: of the encoder (and, when `joint`, of everything). `head_steps`: of the heads on the frozen encoder. `batch`:
    images a step, over all processes. `contrast`: weight of SelfCon's loss. `rate`: highest learning rate. `sees`:
    what `small` looks at. `evenness`: see `data.Draws`. `names`: what the second head tells apart, and the second labeling.
    `threads`: CPU threads, part of what decides the weights. `initial`: an ImageNet ResNet-50. `precision`: of the forward
    pass. `chunk`: at most so many images are in memory with their activations at once, 0 for all (gradient caching; exact with
    `frozen_norm`). `frozen_norm`: batch norm keeps the statistics it began with. `ema`: the weights' moving average is what is
    kept, each step counting 1 - `ema`; 0 for the last weights. `deterministic`: kernels that give the same bits each time, or
    an error where there is none.
    """

    preset: Preset = "small"
    seed: int = 0
    steps: int = 1000
    head_steps: int = 0
    joint: bool = True
    batch: int = 64
    crop: int = 96
    width: int = 32
    sees: Sees = "residual"
    rate: float = 4e-3
    contrast: float = 0.05
    weight_decay: float = 1e-2
    evenness: float = 0.5
    augmentation: Augmentation = "light"
    names: str = "generator"
    threads: int = 2
    save_every: int = 100
    initial: str | None = None
    precision: Precision = "no"
    chunk: int = 0
    frozen_norm: bool = False
    ema: float = 0.0
    deterministic: bool = True

    @classmethod
    def of(cls, preset: str = "small", **changes: Any) -> Self:
        """A preset's settings with some changed.

        Raises `UsageError` for a preset or a setting that does not exist, or a value out of range.
        """
        if preset not in PRESETS:
            raise UsageError(f"no preset '{preset}'{suggest(preset, PRESETS)}; there are {', '.join(PRESETS)}")
        known = [f.name for f in dataclasses.fields(cls)]
        if wrong := [k for k in changes if k not in known]:
            raise UsageError(f"baseline has no setting '{wrong[0]}'{suggest(wrong[0], known)}. There are: {', '.join(known)}")
        values: dict[str, Any] = {"preset": preset} | _OWN[preset] | changes
        for name, allowed in (
            ("precision", ("no", "fp16", "bf16")),
            ("augmentation", ("paper", "light", "none")),
            ("names", ("generator", "family")),
            ("sees", ("residual", "rgb")),
        ):
            if (value := values.get(name, allowed[0])) not in allowed:
                raise UsageError(f"baseline.options.{name} is '{value}'; it is one of {', '.join(allowed)}")
        try:
            made = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "options"
            said = first["msg"].replace("Input should", "it should")
            raise UsageError(f"baseline.options.{name} is {values.get(name)!r}; {said}") from None
        made._in_range()
        return made

    def _in_range(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= (value := getattr(self, name)) < high:
                above = "" if high == math.inf else f" and below {high}"
                raise UsageError(f"baseline.options.{name} is {value}; it is {low} or more{above}")
        if not 0 < self.rate < math.inf:
            raise UsageError(f"baseline.options.rate is {self.rate}; a learning rate is more than 0")
        if not self.steps + self.head_steps:
            raise UsageError("baseline.steps and baseline.options.head_steps are both 0: nothing would be learned; set one")
        if self.steps and not self.joint and not self.contrast:
            raise UsageError(
                "baseline.options: with contrast 0 and joint false the encoder has nothing to learn from; set one of them, or "
                "baseline.steps 0"
            )
        if self.initial is not None and self.preset == "small":
            raise UsageError(f"baseline.options.initial is {self.initial}, a ResNet-50; the preset small begins with none")

    def shape(self, names: tuple[str, ...]) -> NetworkConfig:
        """The network to train, whose second head tells `names` apart."""
        return NetworkConfig(self.preset, names, self.crop, self.width, self.sees)
