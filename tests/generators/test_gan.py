"""GANs from a folder of safetensors and a config.json."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from imaginet_build import cards
from imaginet_build.errors import UsageError
from imaginet_build.generators import conformance, networks
from imaginet_build.generators.gan import Gan

TINY = cards.bundled("bundled:tiny-gan")
ORDERS = conformance.orders(6, 128, 128)


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "gan"
    shutil.copytree(TINY, folder)
    return folder


def test_truncation_makes_pictures_more_alike():
    def spread(truncation):
        drawn = [np.asarray(image, dtype=float) for image in Gan(str(TINY), truncation=truncation).draw(ORDERS)]
        return np.mean([np.abs(a - b).mean() for i, a in enumerate(drawn) for b in drawn[i + 1 :]])

    assert spread(0.5) < spread(1.0)
    assert Gan(str(TINY), truncation=0.5).params()["truncation"] == 0.5
    with pytest.raises(UsageError, match="truncation"):
        Gan(str(TINY), truncation=0.0)


def test_another_size_is_refused():
    (answer,) = Gan(str(TINY)).draw(conformance.orders(1, 256, 128))
    assert (answer.reason, answer.detail.split(" draws ")[1]) == ("bad-size", "128 x 128 pixels, not 256 x 128")


def test_weights_with_values_that_are_not_numbers_are_refused(copy):
    state = load_file(copy / "model.safetensors")
    state["last.bias"][1] = float("nan")
    save_file(state, copy / "model.safetensors")
    with pytest.raises(UsageError, match=r"not numbers, first in last\.bias"):
        Gan(str(copy))


def test_weights_of_another_shape_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"latent_size": 64}))
    with pytest.raises(UsageError, match="do not fit"):
        Gan(str(copy))


def test_damaged_or_missing_files_are_named(copy):
    (copy / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UsageError, match="not a GAN's folder"):
        Gan(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(UsageError, match=r"config\.json"):
        Gan(str(copy))


def test_an_unknown_architecture_gets_a_near_match():
    with pytest.raises(UsageError, match="did you mean 'skip-layer'"):
        networks.build({"architecture": "skip-layers"})
    with pytest.raises(UsageError, match="3 widths make 16 pixels, not 128"):
        networks.build({"architecture": "skip-layer", "resolution": 128, "latent_size": 8, "widths": [8, 8, 8]})


def test_out_of_memory_halves_the_batch_and_says_so():
    gan = Gan(str(TINY))
    sizes, forward = [], gan._net.forward

    def full(z, *args):
        sizes.append(len(z))
        if len(z) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(z, *args)

    gan._net.forward = full
    answers = list(gan.draw(ORDERS))
    assert sizes == [6, 3, 3]
    assert [a.info["params"]["drawn_together"] for a in answers] == [3] * 6
