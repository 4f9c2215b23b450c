"""The parts of the generator networks against plain versions: numpy, scipy, and what the papers promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import upstream_gans
from scipy import signal

from imaginet_build.converting import upstream
from imaginet_build.errors import UsageError
from imaginet_build.generators import networks
from imaginet_build.generators.networks import filters
from imaginet_build.generators.networks.operations import modulated, resample


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- operations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_is_each_images_own_convolution(demodulate):
    x, weight, style = rand(3, 5, 9, 9), rand(7, 5, 3, 3, seed=1), rand(3, 5, seed=2)
    got = modulated(x, weight, style, demodulate=demodulate, padding=1)
    for n in range(3):
        own = weight * style[n][None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        for o in range(7):
            one = sum(signal.correlate2d(x[n, i].numpy(), own[o, i].numpy(), "same") for i in range(5))
            np.testing.assert_allclose(got[n, o].numpy(), one, atol=1e-10)


def test_demodulated_activations_have_unit_deviation():
    x, weight = rand(2, 64, 40, 40), rand(48, 64, 3, 3, seed=1)
    style = rand(2, 64, seed=2) * torch.tensor([[0.01], [300.0]], dtype=torch.float64)
    inside = modulated(x, weight, style, padding=1)[:, :, 1:-1, 1:-1]
    np.testing.assert_allclose(inside.std((1, 2, 3)).numpy(), 1, rtol=0.03)


@pytest.mark.parametrize(
    ("up", "down", "padding"), [(1, 1, (0, 0)), (2, 1, (2, 1)), (1, 2, (3, 4)), (4, 2, (5, -6)), (2, 1, (-3, 7))]
)
def test_resampling_is_scipys(up, down, padding):
    x, taps = rand(1, 2, 11, 11), rand(6, seed=3)
    got = resample(x, taps, up=up, down=down, padding=padding, gain=1.5).numpy()
    for channel in range(2):
        y = x[0, channel].numpy()
        for axis in (0, 1):
            # upfirdn ends with the last sample's own response: the zeros after it are put back before cutting.
            full = signal.upfirdn(taps.numpy(), y, up, axis=axis)
            full = np.moveaxis(full, axis, -1)
            full = np.pad(full, ((0, 0), (12, 12 + up - 1)))
            begin = 12 + len(taps) - 1 - padding[0]
            count = y.shape[axis] * up + sum(padding) - len(taps) + 1
            y = np.moveaxis(full[:, begin : begin + count : down], -1, axis)
        np.testing.assert_allclose(got[0, channel], 1.5 * y, atol=1e-10)
    both = resample(x, torch.outer(taps, taps), up=up, down=down, padding=padding, gain=1.5).numpy()
    np.testing.assert_allclose(both, got, atol=1e-10)


def test_a_convolution_with_doubling_is_zeros_then_a_true_convolution():
    x, weight, style = rand(2, 3, 4, 4), rand(5, 3, 3, 3, seed=1), rand(2, 3, seed=2)
    got = modulated(x, weight, style, doubled=True, demodulate=False)
    spread = torch.zeros(2, 3, 7, 7, dtype=torch.float64)
    spread[:, :, ::2, ::2] = x * style[:, :, None, None]
    for n in range(2):
        for o in range(5):
            one = sum(signal.convolve2d(spread[n, i].numpy(), weight[o, i].numpy(), "full") for i in range(3))
            np.testing.assert_allclose(got[n, o].numpy(), one, atol=1e-10)


# --- filters -----------------------------------------------------------------------------------------------------------


def response(taps, rate, at):
    place = (np.arange(len(taps)) - (len(taps) - 1) / 2) / rate
    return np.array([abs((taps * np.exp(-2j * np.pi * f * place)).sum()) for f in at])


def test_a_low_pass_filter_passes_halves_and_stops():
    taps = filters.lowpass(24, cutoff=4, width=4, rate=32)
    keeps, half, stops = (
        response(taps, 32, [0, 1, 4, 8, 10, 14])[[0, 1]],
        *response(taps, 32, [4]),
        response(taps, 32, [8, 10, 14]),
    )
    np.testing.assert_allclose(keeps, 1, atol=0.02)
    assert half == pytest.approx(0.5, abs=0.02)
    assert (20 * np.log10(stops) < -25).all()
    assert filters.lowpass(1, 4, 4, 32) is None


@pytest.mark.parametrize("count", [12, 13])
def test_a_radial_filter_is_alike_in_every_direction(count):
    taps = filters.lowpass(count, cutoff=4, width=6, rate=32, radial=True)
    assert taps.sum() == pytest.approx(1)
    np.testing.assert_allclose(taps, taps.T)
    np.testing.assert_allclose(taps, taps[::-1])
    place = (np.arange(count) - (count - 1) / 2) / 32

    def at(frequency, angle):
        x, y = frequency * np.cos(angle), frequency * np.sin(angle)
        return abs((taps * np.exp(-2j * np.pi * (x * place[:, None] + y * place[None, :]))).sum())

    for frequency in (2, 4, 6):
        around = [at(frequency, angle) for angle in np.linspace(0, np.pi / 2, 7)]
        assert np.ptp(around) < 0.03
    separable = filters.lowpass(count, cutoff=4, width=6, rate=32)
    assert not np.allclose(taps, np.outer(separable, separable), atol=1e-3)


def test_the_plan_of_layers_is_that_of_the_published_networks():
    """The layers that NVIDIA's training prints for its published networks of 1024 pixels, config R."""
    first, layers = filters.plan(1024, base=65_536, most=1024, kernel=1, radial=True)
    assert first == {"channels": 1024, "size": 36, "rate": 16, "bandwidth": 2.0}
    assert " ".join(f"L{i}_{layer.out_size}_{layer.out_channels}" for i, layer in enumerate(layers)) == (
        "L0_36_1024 L1_36_1024 L2_52_1024 L3_52_1024 L4_84_1024 L5_148_1024 L6_148_1024 L7_276_645 L8_276_406 L9_532_256 "
        "L10_1044_161 L11_1044_102 L12_1044_64 L13_1024_64 L14_1024_3"
    )
    assert [layer.radial for layer in layers] == [True] * 12 + [False] * 3


# --- equivariance ------------------------------------------------------------------------------------------------------


def alias_free(config):
    """A network of 32 pixels with random weights: what its filters promise holds for any weights."""
    tensors, modules = upstream_gans.stylegan3(config)
    modules = {name: {k: getattr(v, "tolist", lambda v=v: v)() for k, v in own.items()} for name, own in modules.items()}
    plan = upstream.plan({name: tuple(value.shape) for name, value in tensors.items()}, modules)
    network = networks.build(plan.config)
    network.load({ours: tensors[theirs] for theirs, ours in plan.names.items()})
    return network


def draw(network, transform):
    before = network._weights["input.transform"]
    network._weights["input.transform"] = torch.tensor(transform)
    try:
        return network.forward(torch.randn(2, network.latent_size, generator=torch.Generator().manual_seed(5)))
    finally:
        network._weights["input.transform"] = before


def decibels(wanted, got, margin):
    wanted, got = wanted[..., margin:-margin, margin:-margin], got[..., margin:-margin, margin:-margin]
    return float(10 * torch.log10(wanted.var() / (wanted - got).square().mean()))


STILL = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]


def moved(network, right):
    """EQ-T of the paper's appendix E for a shift by whole pixels, in decibels over the image's own variance."""
    there = draw(network, [[1.0, 0, -right / 32], [0, 1, 0], [0, 0, 1]])
    return decibels(torch.roll(draw(network, STILL), right, 3), there, 4 + right)


@pytest.mark.parametrize("config", ["T", "R"])
def test_images_move_with_what_they_show_as_long_as_the_filters_are_good(config):
    network = alias_free(config)
    good = moved(network, 1)
    network._filters[:] = [tuple(None if f is None else torch.zeros_like(f) for f in pair) for pair in network._filters]
    for layer, pair in zip(network.layers, network._filters, strict=True):
        for taps, width in zip(pair, (layer.up, 1), strict=True):
            if taps is not None:
                middle = slice(len(taps) // 2 - width // 2, len(taps) // 2 - width // 2 + width)
                taps[(middle,) * taps.ndim] = 1 / width**taps.ndim
    spoiled = moved(network, 1)
    assert good > 45
    assert spoiled < 25


def test_config_r_turns_too_and_config_t_does_not():
    quarter = [[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]
    turned = {c: decibels(torch.rot90(draw(n, STILL), 3, (2, 3)), draw(n, quarter), 4) for c in "TR" for n in [alias_free(c)]}
    assert turned["R"] > 60
    assert turned["T"] < 25


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "stylgan2"}, "did you mean 'stylegan2'"),
        (
            {"architecture": "skip-layer", "resolution": 128, "latent_size": 8, "widths": [8, 8, 8]},
            "3 widths make 16 pixels, not 128",
        ),
        ({"architecture": "dcgan", "resolution": 64, "latent_size": 8, "widths": [8]}, "1 widths make 8 pixels, not 64"),
        ({"architecture": "progan", "resolution": 64, "latent_size": 8, "widths": [8, 8]}, "2 widths make 8 pixels, not 64"),
        ({"architecture": "dcgan", "resolution": -64, "latent_size": 10**9, "widths": [], "depth": 3}, "depth: no such key"),
    ],
)
def test_sizes_that_do_not_fit_are_named(config, said):
    with pytest.raises(UsageError, match=said):
        networks.build(config)


def test_layers_that_do_not_chain_are_refused():
    config = {"architecture": "stylegan3", **alias_free("T").model_dump()}
    config["layers"][2]["in_channels"] += 1
    with pytest.raises(UsageError, match="layer 2 does not take what layer 1 gives"):
        networks.build(config)
