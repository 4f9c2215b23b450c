"""The three small generators that ship: small, described, trained, and their training command works."""

from __future__ import annotations

import json

import numpy as np
import pytest

from imaginet_build import cards, catalog
from imaginet_build.generators import conformance
from imaginet_build.models import adversary, figures, photographs, train_generators, whitening

NAMES = ["tiny-vae", "tiny-gan", "tiny-diffusion"]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_at_most_4_mb_and_all_are_at_most_10(name):
    sizes = {n: sum(p.stat().st_size for p in cards.bundled(f"bundled:{n}").rglob("*") if p.is_file()) for n in NAMES}
    assert sizes[name] <= 4_000_000
    assert sum(sizes.values()) <= 10_000_000
    assert not [p for p in cards.bundled(f"bundled:{name}").rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_was_trained_on_and_the_held_out_are_not_among_it(name):
    facts = json.loads((cards.bundled(f"bundled:{name}") / "training.json").read_text())
    assert facts["steps"] > 1000
    assert facts["seconds"] > 60
    assert facts["figures"]
    assert all(p["licence"].startswith(("MIT", "BSD", "Apache", "CC0")) for p in facts["photographs"])
    assert not [p for p in facts["photographs"] if p["name"].endswith(tuple(facts["held_out"]))]


@pytest.mark.parametrize("name", ["tiny-gan", "tiny-diffusion"])
def test_what_they_draw_has_the_statistics_of_photographs_and_neither_collapses_nor_repeats_them(name):
    made = catalog.build(catalog.card("generators", name))
    drawn = np.stack([np.asarray(image) for image in made.draw(conformance.orders(24, 128, 128))])
    train, held = photographs.load(None)
    measured = figures.likeness(
        drawn,
        photographs.crops(train, 256, 128, train_generators.WHOLE, seed=1),
        photographs.crops(held, 64, 128, train_generators.WHOLE, seed=2),
    )
    # Both networks after 20 steps: a spectrum above 3; noise: a spread below 0.2, nearest below 0.3.
    assert measured["spectrum"] < 1.1
    assert measured["spread"] > 0.5
    assert measured["nearest"] > 0.5


def test_photographs_are_there_without_anything_beside_the_repository():
    train, held = photographs.load(None)
    assert len(train) == 16
    assert [p.name.split(": ")[1] for p in held] == list(photographs.HELD_OUT)
    assert all(p.pixels.ndim == 3 and p.pixels.dtype == np.uint8 for p in train + held)


def test_crops_depend_on_their_seed_alone():
    train, _ = photographs.load(None)
    first = photographs.crops(train, 6, 64, (0.3, 1.0), seed=1)
    assert first.shape == (6, 64, 64, 3)
    assert np.array_equal(first, photographs.crops(train, 6, 64, (0.3, 1.0), seed=1))
    assert not np.array_equal(first, photographs.crops(train, 6, 64, (0.3, 1.0), seed=2))


def test_the_gradient_passes_through_the_augmentation():
    import torch

    x = torch.rand(3, 3, 128, 128, requires_grad=True)
    scores = adversary.discriminator()(adversary.augment(x))
    scores.sum().backward()
    assert scores.shape == (3, 25)
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_whitening_changes_the_latent_and_not_the_picture():
    import torch
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    one = {"attention_head_dim": 8, "latent_channels": 4}
    for side in ("encoder", "decoder"):
        one |= {f"{side}_block_types": "ResBlock", f"{side}_block_out_channels": (8, 16), f"{side}_layers_per_block": (1, 1)}
        one |= {f"{side}_qkv_multiscales": ((), ())}
    vae = AutoencoderDC(**one).eval()
    x = torch.rand(6, 3, 32, 32) * 2 - 1
    white = whitening.whitened(vae, x)
    with torch.no_grad():
        z = white.encode(x).latent
        assert torch.allclose(white.decode(z).sample, vae.decode(vae.encode(x).latent).sample, atol=1e-4)
    moments = torch.einsum("nihw,njhw->ij", z, z) / (z.numel() / 4)
    assert torch.allclose(moments, torch.eye(4), atol=0.02)


def test_figures_tell_noise_copies_and_collapse_from_photographs():
    train, held = photographs.load(None)
    pool, other = (photographs.crops(p, 64, 64, (0.4, 1.0), seed=3) for p in (train, held))
    noise = np.random.default_rng(0).integers(0, 256, pool.shape, dtype=np.uint8)
    assert figures.likeness(noise, pool, other)["spread"] < 0.5
    assert figures.likeness(pool, pool, other)["nearest"] == 0
    assert figures.likeness(np.repeat(pool[:1], 64, axis=0), pool, other)["spread"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae", "gan", "diffusion"])
def test_the_training_command_works_on_the_packages_photographs_alone(model, tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "imaginet_build.models.train_generators", model, "--steps", "2"]
    subprocess.run([*command, "--out", str(tmp_path / model), "--shared", str(tmp_path)], check=True, capture_output=True)
    assert json.loads((tmp_path / model / "training.json").read_text())["steps"] == 2
