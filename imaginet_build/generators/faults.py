"""Faults put into any torch network from outside, to see what a generator makes of them: no memory, no numbers, a watermark."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WATERMARKERS = (
    ("imwatermark", "WatermarkEncoder", "encode"),
    ("diffusers.pipelines.stable_diffusion_xl.watermark", "StableDiffusionXLWatermarker", "apply_watermark"),
    ("diffusers.pipelines.deepfloyd_if.watermark", "IFWatermarker", "apply_watermark"),
)
"""Module, class and method of what is known to mark images."""


class Sizes:
    """How many rows each network was given at most: what one image needs. Those made anew for each call are known by class."""

    def __init__(self) -> None:
        self.rows: dict[object, int] = {}

    def add(self, module: Any, rows: int) -> None:
        """It was given so many."""
        for key in (id(module), type(module)):
            self.rows[key] = max(self.rows.get(key, 0), rows)

    def of(self, module: Any) -> int:
        """The most it was given; 0 where neither it nor any of its class was called."""
        return self.rows.get(id(module), self.rows.get(type(module), 0))


@contextmanager
def watched(sizes: Sizes) -> Iterator[None]:
    """Note how many rows every network is given meanwhile. Nothing without torch."""

    def look(module: Any, given: tuple[Any, ...]) -> None:
        sizes.add(module, _rows(given))

    with _hook("register_module_forward_pre_hook", look):
        yield


@contextmanager
def no_memory(fits: Sizes) -> Iterator[None]:
    """A network that is given more rows than while `fits` watched, or whose kind was not called then, runs out of memory."""
    import torch

    def refuse(module: Any, given: tuple[Any, ...]) -> None:
        if _rows(given) > fits.of(module):
            raise torch.OutOfMemoryError("out of memory (not truly: this is a test of conformance)")

    with _hook("register_module_forward_pre_hook", refuse):
        yield


@contextmanager
def no_numbers() -> Iterator[None]:
    """Every network answers with values that are not numbers, as half precision does when it overflows."""
    import torch

    def spoil(module: Any, given: tuple[Any, ...], answer: Any) -> Any:  # noqa: ARG001 - as torch calls it
        return torch.full_like(answer, torch.nan) if torch.is_tensor(answer) and answer.is_floating_point() else answer

    with _hook("register_module_forward_hook", spoil):
        yield


@contextmanager
def marked() -> Iterator[list[str]]:
    """The names of the known watermarkers that are called meanwhile."""
    called: list[str] = []
    put_back: list[tuple[type, str, Any]] = []
    for module, name, method in WATERMARKERS:
        owner = getattr(sys.modules.get(module), name, None)
        if owner is not None and hasattr(owner, method):
            put_back.append((owner, method, vars(owner)[method]))
            setattr(owner, method, _noted(vars(owner)[method], f"{module}.{name}", called))
    try:
        yield called
    finally:
        for owner, method, was in put_back:
            setattr(owner, method, was)


def _noted(method: Any, name: str, called: list[str]) -> Any:
    def noted(*given: Any, **named: Any) -> Any:
        called.append(name)
        return method(*given, **named)

    return noted


@contextmanager
def _hook(register: str, function: Any) -> Iterator[None]:
    if "torch" not in sys.modules:
        yield
        return
    handle = getattr(sys.modules["torch"].nn.modules.module, register)(function)
    try:
        yield
    finally:
        handle.remove()


def _rows(given: tuple[Any, ...]) -> int:
    first = next((value for value in given if hasattr(value, "shape") and getattr(value, "ndim", 0) > 0), None)
    return 1 if first is None else int(first.shape[0])
