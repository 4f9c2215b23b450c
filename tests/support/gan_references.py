"""The generators again, slowly: one image at a time in double precision with numpy and scipy, straight from the papers' words,
over tensors under their upstream names. What the package draws must be this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import signal

Array = np.ndarray[Any, Any]


class Upstream:
    """Tensors by upstream name, in double precision."""

    def __init__(self, tensors: Mapping[str, Any], modules: Mapping[str, Mapping[str, Any]]) -> None:
        self.tensors = {name: value.double().numpy() for name, value in tensors.items()}
        self.modules = modules

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str) -> Array | None:
        return self.tensors.get(name)

    def dense(self, name: str, x: Array, rate: float = 1.0) -> Array:
        weight = self[f"{name}.weight"]
        return weight @ x * rate / np.sqrt(weight.shape[1]) + self[f"{name}.bias"] * rate


def leaky(x: Array, gain: float = np.sqrt(2)) -> Array:
    return np.where(x > 0, x, 0.2 * x) * gain


def unit(x: Array) -> Array:
    return x / np.sqrt(np.mean(x**2) + 1e-8)


def fir(x: Array, h: Array | None, up: int = 1, down: int = 1, before: int = 0, after: int = 0) -> Array:
    """(c, h, w): zeros between samples, `before` and `after` put around (or cut), then `signal.upfirdn` along both axes."""
    rows = []
    for channel in x:
        spread = np.zeros((channel.shape[0] * up, channel.shape[1] * up))
        spread[::up, ::up] = channel
        wide = np.pad(spread, ((max(before, 0), max(after, 0)),) * 2)
        cut = [slice(max(-before, 0), wide.shape[axis] - max(-after, 0)) for axis in (0, 1)]
        wide = wide[tuple(cut)]
        if h is None:
            rows.append(wide[::down, ::down])
        elif h.ndim == 2:
            rows.append(signal.convolve2d(wide, h, "valid")[::down, ::down])
        else:
            for axis in (0, 1):
                full = signal.upfirdn(h, wide, 1, 1, axis=axis)
                wide = np.take(full, range(len(h) - 1, full.shape[axis] - len(h) + 1, down), axis=axis)
            rows.append(wide)
    return np.stack(rows)


def convolve(x: Array, weight: Array, mode: str) -> Array:
    """Every output channel as the sum of correlations over input channels."""
    return np.stack([sum(signal.correlate2d(x[i], w[i], mode) for i in range(len(x))) for w in weight])


def styled(net: Upstream, name: str, style: Array, demodulate: bool = True, gain: float = 1.0) -> Array:
    """One image's own weights of a modulated convolution."""
    weight = net[f"{name}.weight"] * (net.dense(f"{name}.affine", style) * gain)[None, :, None, None]
    return weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8) if demodulate else weight


def mapping(net: Upstream, z: Array, label: int | None, psi: float = 1.0) -> Array:
    x, mean = unit(z), net["mapping.w_avg"]
    if label is not None:
        if "mapping.embed_proj.weight" in net:
            embedded = leaky(net.dense("mapping.embed_proj", net["mapping.embed.weight"][label]))
            mean = mean[label]
        else:
            one_hot = np.eye(net["mapping.embed.weight"].shape[1])[label]
            embedded = net.dense("mapping.embed", one_hot)
        x = np.concatenate([x, unit(embedded)])
    i = 0
    while f"mapping.fc{i}.weight" in net:
        x = leaky(net.dense(f"mapping.fc{i}", x, 0.01))
        i += 1
    return mean + psi * (x - mean)


def stylegan2(net: Upstream, z: Array, label: int | None = None, psi: float = 1.0, noise: bool = True) -> Array:
    w = mapping(net, z, label, psi)
    h = np.array([1, 3, 3, 1]) / 8
    side, x, image = 4, net["synthesis.b4.const"], None
    while f"synthesis.b{side}.conv1.weight" in net:
        block = f"synthesis.b{side}"
        resnet = f"{block}.skip.weight" in net
        gain = np.sqrt(0.5) if resnet else 1.0
        residual = 0.0
        if resnet:
            skip = net[f"{block}.skip.weight"] / np.sqrt(net[f"{block}.skip.weight"].shape[1])
            residual = gain * convolve(fir(x, h, 2, 1, 2, 1) * 4, skip, "valid")
        for name in ("conv0", "conv1"):
            layer = f"{block}.{name}"
            if f"{layer}.weight" not in net:
                continue
            weight = styled(net, layer, w)
            if name == "conv0":
                # Up-sampled first, then filtered, then convolved (true convolution: the kernel is turned around).
                x = convolve(fir(x, h, 2, 1, 3, 2) * 4, weight[:, :, ::-1, ::-1], "valid")
            else:
                x = convolve(x, weight, "same")
            if noise:
                x = x + net[f"{layer}.noise_const"] * net[f"{layer}.noise_strength"]
            x = leaky(x + net[f"{layer}.bias"][:, None, None]) * (gain if name == "conv1" else 1.0)
        x = x + residual
        image = None if image is None else fir(image, h, 2, 1, 2, 1) * 4
        if f"{block}.torgb.weight" in net:
            size = net[f"{block}.torgb.weight"].shape[1]
            drawn = convolve(x, styled(net, f"{block}.torgb", w, False, 1 / np.sqrt(size)), "valid")
            drawn = drawn + net[f"{block}.torgb.bias"][:, None, None]
            image = drawn if image is None else image + drawn
        side *= 2
    assert image is not None
    return image


def fourier(net: Upstream, w: Array, transform: Array | None = None) -> Array:
    about = net.modules["synthesis.input"]
    cos, sin, right, down = net.dense("synthesis.input.affine", w)
    norm = np.hypot(cos, sin)
    cos, sin, right, down = cos / norm, sin / norm, right / norm, down / norm
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    move = np.array([[1, 0, -right], [0, 1, -down], [0, 0, 1]])
    placed = turn @ move @ (net["synthesis.input.transform"] if transform is None else transform)
    size, rate, bandwidth = int(about["size"][0]), float(about["sampling_rate"]), float(about["bandwidth"])
    at = (np.arange(size) + 0.5 - size / 2) / rate
    waves = []
    for frequency, phase in zip(net["synthesis.input.freqs"], net["synthesis.input.phases"], strict=True):
        moved = phase + frequency @ placed[:2, 2]
        turned = frequency @ placed[:2, :2]
        loud = np.clip(1 - (np.hypot(*turned) - bandwidth) / (rate / 2 - bandwidth), 0, 1)
        waves.append(loud * np.sin(2 * np.pi * (turned[0] * at[None, :] + turned[1] * at[:, None] + moved)))
    weight = net["synthesis.input.weight"]
    return np.tensordot(weight / np.sqrt(weight.shape[1]), np.stack(waves), 1)


def stylegan3(net: Upstream, z: Array, label: int | None = None, psi: float = 1.0) -> Array:
    w = mapping(net, z, label, psi)
    x = fourier(net, w)
    for name in net.modules["synthesis"]["layer_names"]:
        layer, about = f"synthesis.{name}", net.modules[f"synthesis.{name}"]
        rgb = about["is_torgb"]
        kernel = about["conv_kernel"]
        weight = styled(net, layer, w, not rgb, 1 / np.sqrt(about["in_channels"]) if rgb else 1.0)
        x = convolve(x / np.sqrt(net[f"{layer}.magnitude_ema"]), weight, "full")
        x = x + net[f"{layer}.bias"][:, None, None]
        up = about["tmp_sampling_rate"] // about["in_sampling_rate"]
        down = about["tmp_sampling_rate"] // about["out_sampling_rate"]
        wanted = (int(about["out_size"][0]) - 1) * down + 1
        total = wanted - (int(about["in_size"][0]) + kernel - 1) * up + about["up_taps"] + about["down_taps"] - 2
        before = (total + up) // 2
        finer = fir(x, net.get(f"{layer}.up_filter"), up, 1, before, total - before) * up**2
        bent = finer if rgb else leaky(finer)
        x = fir(np.clip(bent, -256, 256), net.get(f"{layer}.down_filter"), 1, down)
    return x * net.modules["synthesis"]["output_scale"]


def progan(net: Upstream, z: Array, one_hot: Array | None = None) -> Array:
    def norm(x: Array) -> Array:
        return x / np.sqrt(np.mean(x**2, 0, keepdims=True) + 1e-8)

    def layer(x: Array, name: str, mode: str, gain: float = np.sqrt(2)) -> Array:
        weight = net[f"{name}.weight"]
        return convolve(norm(x), weight * gain / np.sqrt(weight[0].size), mode) + net[f"{name}.bias"][:, None, None]

    # A class's 1 stands beside a latent of the length of its number of dimensions.
    long = unit(z) if one_hot is None else np.concatenate([unit(z) * np.sqrt(len(z)), one_hot])
    x, i = long[:, None, None], 0
    while f"layer{2 * i}.weight" in net:
        if i:
            x = x.repeat(2, 1).repeat(2, 2)
        x = leaky(layer(x, f"layer{2 * i}", "same" if i else "full"), 1.0)
        x = leaky(layer(x, f"layer{2 * i + 1}", "same"), 1.0)
        i += 1
    return layer(x, f"output{i - 1}", "valid", 1.0)
