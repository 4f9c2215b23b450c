"""Tiny networks as their makers publish them, random but with every value set: tensors under upstream names, what modules say
of themselves, and pickles as NVIDIA's `persistence` writes them, with source code that must never run."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import signal, special

from imaginet_build.generators.networks.filters import Layer, plan

Tensors = dict[str, torch.Tensor]
Modules = dict[str, dict[str, Any]]


class Dice:
    """Values that look trained: none is at what networks are initialised with."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 1.0, around: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * scale + around


def mapping(dice: Dice, z: int, w: int, layers: int, classes: int, vectors: int = 0) -> tuple[Tensors, Modules]:
    """The mapping network of StyleGAN2 and 3, or with `vectors` that of StyleGAN-XL."""
    found: Tensors = {}
    if vectors:
        # The table of class vectors is ImageNet's, however few classes are used, and there even where none is.
        found |= {"mapping.embed.weight": dice(5, vectors)}
    if classes and vectors:
        found |= {"mapping.embed_proj.weight": dice(z, vectors), "mapping.embed_proj.bias": dice(z, scale=0.3)}
    elif classes:
        found |= {"mapping.embed.weight": dice(w, classes), "mapping.embed.bias": dice(w, scale=0.3)}
    sizes = [z + (0 if not classes else z if vectors else w), *[w] * layers]
    for i, (low, high) in enumerate(pairwise(sizes)):
        found[f"mapping.fc{i}.weight"] = dice(high, low, scale=100)
        found[f"mapping.fc{i}.bias"] = dice(high, scale=20)
    found["mapping.w_avg"] = dice(classes, w, scale=0.2) if classes and vectors else dice(w, scale=0.2)
    about: Modules = {"mapping": {"z_dim": z, "c_dim": classes, "w_dim": w, "num_layers": layers}}
    about |= {f"mapping.fc{i}": {"activation": "lrelu", "bias_gain": 0.01} for i in range(layers)}
    return found, about


def stylegan2(side: int = 16, classes: int = 0, resnet: bool = False, clamp: float | None = 256) -> tuple[Tensors, Modules]:
    """As `networks_stylegan2.Generator`."""
    dice, w = Dice(2), 12
    found, about = mapping(dice, 10, w, 3, classes)
    fir = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    before = 0
    for level in range(2, side.bit_length()):
        res, width = 2**level, 4 + level
        block = f"synthesis.b{res}"
        if not before:
            found[f"{block}.const"] = dice(width, 4, 4)
        found[f"{block}.resample_filter"] = fir
        layers = {"conv1": (width, width, 3)} | ({"conv0": (before, width, 3)} if before else {})
        if not resnet or res == side:
            layers["torgb"] = (width, 3, 1)
        for name, (low, high, kernel) in layers.items():
            layer = f"{block}.{name}"
            found[f"{layer}.weight"] = dice(high, low, kernel, kernel)
            found[f"{layer}.bias"] = dice(high, scale=0.2)
            found[f"{layer}.affine.weight"] = dice(low, w)
            found[f"{layer}.affine.bias"] = dice(low, scale=0.1, around=1)
            about[layer] = {"conv_clamp": clamp, "activation": "lrelu"}
            if name != "torgb":
                found[f"{layer}.resample_filter"] = fir
                found[f"{layer}.noise_const"] = dice(res, res)
                found[f"{layer}.noise_strength"] = dice(scale=0.3)
        if before and resnet:
            found[f"{block}.skip.weight"] = dice(width, before, 1, 1)
            found[f"{block}.skip.resample_filter"] = fir
        about[block] = {"architecture": "resnet" if resnet else "skip", "resolution": res}
        before = width
    return found, about


def taps(count: int, cutoff: float, width: float, rate: float, radial: bool) -> torch.Tensor | None:
    """A low-pass filter after the paper: Kaiser-windowed sinc, or jinc, with sum 1."""
    if count == 1:
        return None
    if not radial:
        return torch.tensor(signal.firwin(count, cutoff, width=width, fs=rate), dtype=torch.float32)
    beta = signal.kaiser_beta(signal.kaiser_atten(count, width / (rate / 2)))
    x, y = np.meshgrid(*[(np.arange(count) - (count - 1) / 2) / rate] * 2)
    radius = np.sqrt(x**2 + y**2)
    made = special.j1(2 * np.pi * cutoff * radius) / radius * np.kaiser(count, beta)[:, None] * np.kaiser(count, beta)
    return torch.tensor(made / made.sum(), dtype=torch.float32)


def alias_free(
    first: Mapping[str, Any], layers: list[Layer], names: list[str], classes: int = 0, vectors: int = 0
) -> tuple[Tensors, Modules]:
    """As `networks_stylegan3.Generator` of these layers."""
    dice, w = Dice(3), 12
    found, about = mapping(dice, 10, w, 2, classes, vectors)
    channels = first["channels"]
    found |= {
        "synthesis.input.weight": dice(channels, channels),
        "synthesis.input.freqs": dice(channels, 2, scale=first["bandwidth"] / 2),
        "synthesis.input.phases": dice(channels, scale=0.3),
        "synthesis.input.transform": torch.eye(3),
        "synthesis.input.affine.weight": dice(4, w, scale=0.1),
        "synthesis.input.affine.bias": torch.tensor([1.0, 0.2, 0.1, -0.1]),
    }
    about["synthesis.input"] = {
        "channels": channels,
        "size": np.array([first["size"]] * 2),
        "sampling_rate": np.float64(first["rate"]),
        "bandwidth": np.float64(first["bandwidth"]),
    }
    about["synthesis"] = {"layer_names": names, "output_scale": 0.25, "num_ws": len(layers) + 1}
    for name, layer in zip(names, layers, strict=True):
        path = f"synthesis.{name}"
        found[f"{path}.weight"] = dice(layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        found[f"{path}.bias"] = dice(layer.out_channels, scale=0.2)
        found[f"{path}.magnitude_ema"] = dice(scale=0.1, around=1)
        found[f"{path}.affine.weight"] = dice(layer.in_channels, w)
        found[f"{path}.affine.bias"] = dice(layer.in_channels, scale=0.1, around=1)
        up = taps(layer.up_taps, layer.in_cutoff, 2 * layer.in_half_width, layer.work_rate, False)
        down = taps(layer.down_taps, layer.out_cutoff, 2 * layer.out_half_width, layer.work_rate, layer.radial)
        found |= {f"{path}.{which}_filter": f for which, f in (("up", up), ("down", down)) if f is not None}
        about[path] = {
            "in_channels": layer.in_channels, "out_channels": layer.out_channels, "up_taps": layer.up_taps,
            "down_taps": layer.down_taps, "in_cutoff": np.float64(layer.in_cutoff), "out_cutoff": np.float64(layer.out_cutoff),
            "in_half_width": np.float64(layer.in_half_width), "out_half_width": np.float64(layer.out_half_width),
            "in_size": np.array([layer.in_size] * 2), "out_size": np.array([layer.out_size] * 2), "conv_kernel": layer.kernel,
            "down_radial": layer.radial, "is_torgb": layer.rgb, "in_sampling_rate": layer.in_rate,
            "tmp_sampling_rate": layer.work_rate, "out_sampling_rate": layer.out_rate, "conv_clamp": 256,
        }  # fmt: skip
    return found, about


def stylegan3(config: str = "T", side: int = 32, classes: int = 0) -> tuple[Tensors, Modules]:
    """Config T or R, few layers and channels."""
    more = {"kernel": 1, "radial": True} if config == "R" else {}
    first, layers = plan(side, layers=6, base=192, most=8, **more)
    return alias_free(first, layers, [f"L{i}_{layer.out_size}_{layer.out_channels}" for i, layer in enumerate(layers)], classes)


def stylegan_xl(classes: int = 3) -> tuple[Tensors, Modules]:
    """A stem of 16 pixels whose last, critically sampled layers were cut off, and a super-resolution head to 32."""
    first, stem = plan(16, layers=5, base=96, most=8, margin=6)
    stem = stem[:-3]
    last, heads, side = stem[-1], 4, 32
    share = np.minimum(np.arange(heads + 1) / (heads - 2), 1)
    low = last.out_half_width + last.out_cutoff
    cutoff = last.out_cutoff * (side / 2 / last.out_cutoff) ** share
    stop = low * (side / 2 * 2**0.3 / low) ** share
    rate = np.exp2(np.ceil(np.log2(np.minimum(2 * stop, side)))).astype(int)
    rate[0] = last.out_rate
    half = np.maximum(stop, rate / 2) - cutoff
    size = rate + 2 * 6
    size[-2:] = side
    channels = [last.out_channels, 7, 6, 5, 3]
    layers = list(stem)
    names = [f"L{i}_{layer.out_size}_{layer.out_channels}" for i, layer in enumerate(stem)]
    for i in range(heads + 1):
        before, rgb = max(i - 1, 0), i == heads
        work = int(max(rate[before], rate[i])) * (1 if rgb else 2)
        up, down = work // int(rate[before]), work // int(rate[i])
        in_size = last.out_size if i == 0 else int(size[before])
        layers.append(
            Layer(
                in_channels=channels[before], out_channels=channels[i], in_size=in_size, out_size=int(size[i]),
                in_rate=int(rate[before]), work_rate=work, out_rate=int(rate[i]), in_cutoff=float(cutoff[before]),
                out_cutoff=float(cutoff[i]), in_half_width=float(half[before]), out_half_width=float(half[i]),
                kernel=1 if rgb else 3, up_taps=1 if rgb or up == 1 else 6 * up, down_taps=1 if rgb or down == 1 else 6 * down,
                rgb=rgb,
            )
        )  # fmt: skip
        names.append(f"L{i + len(stem) + 1}_{size[i]}_{channels[i]}")
    return alias_free(first, layers, names, classes, vectors=9)


def progan(side: int = 16, classes: int = 0) -> tuple[Tensors, Modules]:
    """As genforce's `PGGANGenerator`."""
    dice, latent = Dice(4), 10
    found: Tensors = {"lod": torch.zeros(())}
    before = latent + classes
    for i in range(side.bit_length() - 2):
        width = 9 - i
        kernel = 3 if i else 4
        found |= {f"layer{2 * i}.weight": dice(width, before, kernel, kernel), f"layer{2 * i}.bias": dice(width, scale=0.2)}
        found |= {f"layer{2 * i + 1}.weight": dice(width, width, 3, 3), f"layer{2 * i + 1}.bias": dice(width, scale=0.2)}
        found |= {f"output{i}.weight": dice(3, width, 1, 1), f"output{i}.bias": dice(3, scale=0.2)}
        before = width
    return found, {}


class Persistent:
    """An object that is pickled as `torch_utils.persistence` pickles its own."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,), None


def write_pickle(path: Path, tensors: Tensors, modules: Modules, **beside: Any) -> Path:
    """`{"G": None, "D": None, "G_ema": network}` as NVIDIA's training writes it."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("the code of a pickle ran")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": module}
    try:
        data = pickle.dumps({"G": None, "D": None, "G_ema": _nest(tensors, modules), **beside})
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
    path.write_bytes(data)
    return path


def _nest(tensors: Tensors, modules: Modules, path: str = "") -> Persistent:
    """The module at `path` with everything below it; parameters and buffers as torch keeps them."""
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict(),
        "_buffers": OrderedDict(),
        "_modules": OrderedDict(),
    }
    state |= modules.get(path, {})
    for name, value in tensors.items():
        if path and not name.startswith(f"{path}."):
            continue
        here, _, deeper = name.removeprefix(f"{path}." if path else "").partition(".")
        child = f"{path}.{here}" if path else here
        if deeper:
            if here not in state["_modules"]:
                state["_modules"][here] = _nest(tensors, modules, child)
        elif here in ("weight", "bias", "const", "noise_strength"):
            state["_parameters"][here] = torch.nn.Parameter(value.clone())
        else:
            state["_buffers"][here] = value.clone()
    source = "import pathlib\npathlib.Path('ran').touch()\nraise SystemExit('the source of a pickle ran')\n"
    return Persistent({"type": "class", "version": 6, "module_src": source, "class_name": "Module", "state": state})
