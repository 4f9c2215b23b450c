"""GANs from a folder of safetensors and a config.json."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import upstream_gans
from safetensors.torch import load_file, save_file

from imaginet_build import cards, catalog
from imaginet_build.converting import upstream
from imaginet_build.errors import UsageError
from imaginet_build.generators import conformance, stack
from imaginet_build.generators.gan import Gan
from imaginet_build.generators.networks import skiplayer

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


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch):
    gan = Gan(str(TINY))
    sizes, forward = [], type(gan._net).forward

    def full(net, z, *args):
        sizes.append(len(z))
        if len(z) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(net, z, *args)

    monkeypatch.setattr(type(gan._net), "forward", full)
    answers = list(gan.draw(ORDERS))
    assert sizes == [6, 3, 3]
    assert [a.info["params"]["drawn_together"] for a in answers] == [3] * 6


# --- style-based networks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    """A folder with a StyleGAN2 of 32 pixels and five classes, and one with a StyleGAN3."""
    found = {}
    made = {"two": upstream_gans.stylegan2(32, classes=5), "three": upstream_gans.stylegan3("T", 32)}
    for name, (tensors, described) in made.items():
        modules = {path: {k: getattr(v, "tolist", lambda v=v: v)() for k, v in own.items()} for path, own in described.items()}
        plan = upstream.plan({key: tuple(value.shape) for key, value in tensors.items()}, modules)
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(plan.config))
        save_file({ours: tensors[theirs].contiguous() for theirs, ours in plan.names.items()}, folder / "model.safetensors")
        found[name] = str(folder)
    return found


SMALL = conformance.orders(4, 32, 32)


def pixels(model, **options):
    return np.stack([np.asarray(image, dtype=float) for image in Gan(model, **options).draw(SMALL)])


def test_noise_is_as_trained_or_the_orders_own_or_none(styled):
    const, none, fresh = (pixels(styled["two"], noise=noise) for noise in ("const", "none", "random"))
    np.testing.assert_array_equal(const, pixels(styled["two"]))
    np.testing.assert_array_equal(fresh, pixels(styled["two"], noise="random"))
    for one, two in ((const, none), (const, fresh), (none, fresh)):
        assert np.abs(one - two).mean() > 1
    # the noise of an order is its own: drawn alone, or after others, it is the same
    (alone,) = Gan(styled["two"], noise="random").draw(SMALL[2:3])
    assert np.abs(np.asarray(alone, dtype=float) - fresh[2]).max() <= 1
    assert Gan(styled["two"], noise="random").params()["noise"] == "random"


def test_truncation_goes_to_the_mean_style_and_the_cutoff_spares_the_last_ones(styled):
    whole, near = pixels(styled["three"]), pixels(styled["three"], truncation=0.001)
    assert near.std(0).mean() < 0.05 * whole.std(0).mean()
    coarse = pixels(styled["three"], truncation=0.001, cutoff=3)
    assert near.std(0).mean() < 0.2 * coarse.std(0).mean()
    # What the first styles place is the mean's for all; the last ones alone are each image's own.
    layout = [pixels(styled["three"], truncation=0.001, cutoff=cutoff) for cutoff in (1, 6)]
    assert layout[1].std(0).mean() < layout[0].std(0).mean()
    np.testing.assert_array_equal(pixels(styled["three"], cutoff=3), whole)
    assert (
        Gan(styled["three"], truncation=0.5, cutoff=3).params() | {"truncation": 0.5, "cutoff": 3}
        == Gan(styled["three"], truncation=0.5, cutoff=3).params()
    )


def test_classes_are_drawn_by_the_orders_id_among_those_of_the_card(styled):
    many = conformance.orders(60, 32, 32)
    drawn = [image.info["params"]["class"] for image in Gan(styled["two"]).draw(many)]
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert drawn == [image.info["params"]["class"] for image in Gan(styled["two"]).draw(many)]
    assert {image.info["params"]["class"] for image in Gan(styled["two"], classes=[3]).draw(many[:5])} == {3}
    same = [np.asarray(next(iter(Gan(styled["two"], classes=[c]).draw(SMALL[:1]))), dtype=float) for c in (0, 1)]
    assert np.abs(same[0] - same[1]).mean() > 1


@pytest.mark.parametrize("name", ["two", "three"])
def test_style_based_networks_conform(styled, name):
    assert conformance.check(lambda: Gan(styled[name], truncation=0.7), SMALL) == []


@pytest.mark.parametrize(
    ("which", "options", "said"),
    [
        ("three", {"noise": "random"}, "noise means nothing to a stylegan3"),
        ("tiny", {"truncation": 0.5, "cutoff": 2}, "cutoff means nothing to a skip-layer"),
        ("two", {"cutoff": 0}, "cutoff is 0"),
        ("two", {"cutoff": 2.5}, r"cutoff is 2\.5"),
        ("two", {"noise": "randm"}, "noise is 'randm'; did you mean 'random'"),
        ("two", {"classes": [1, 1.5]}, r"classes \[1\.5\]: classes are 0 to 4"),
        ("two", {"classes": ["1"]}, r"classes \['1'\]: classes are 0 to 4"),
        ("two", {"classes": [4, 5]}, r"classes \[5\]: classes are 0 to 4"),
        ("two", {"classes": []}, r"classes \[\]: classes are 0 to 4"),
        ("three", {"classes": [0]}, "the model has no classes"),
        ("two", {"dtype": "float16"}, "GANs are drawn in float32"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(styled, which, options, said):
    with pytest.raises(UsageError, match=said):
        Gan(styled.get(which, str(TINY)), **options)


def test_weights_that_were_never_trained_are_refused(copy):
    state = load_file(copy / "model.safetensors")
    save_file({k: torch.zeros_like(v) if k.endswith("bias") else v for k, v in state.items()}, copy / "model.safetensors")
    with pytest.raises(UsageError, match="never trained: all 11 biases are at their initial values"):
        Gan(str(copy))


def test_a_network_fresh_from_its_constructor_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    fresh = skiplayer.module(config["latent_size"], config["widths"])
    save_file(fresh.state_dict(), copy / "model.safetensors")
    with pytest.raises(UsageError, match=r"never trained: all \d+ running means are 0"):
        Gan(str(copy))


def test_float32_on_a_gpu_is_not_rounded_to_less(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("benchmark", True), ("deterministic", False), ("allow_tf32", True)):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    assert stack.choose("it", "float32") == stack.Device("cuda", torch.float32)
    assert not torch.backends.cudnn.allow_tf32


def test_missing_weights_name_convert_as_the_next_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as missing:
        Gan("./weights/faces", name="faces", upstream="https://example.org/faces.pkl")
    assert str(missing.value) == (
        "faces: there are no weights at './weights/faces': get https://example.org/faces.pkl, then: "
        "build-imaginet convert FILE --sha256 DIGEST --trust --out ./weights/faces"
    )
    for name in ("stylegan2-ffhq", "stylegan3-r-ffhq", "progan-bedroom"):
        card = catalog.card("generators", name)
        with pytest.raises(UsageError, match=f"get .*https://.*, then: build-imaginet convert .* --out ./weights/{name}"):
            catalog.build(card)
        assert any(f"convert FILE --sha256 DIGEST --trust --out ./weights/{name}" in need for need in catalog.missing(card))
        assert card.about.licence_url
        assert card.about.licence_read


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["two", "three"])
def test_a_gpu_draws_what_the_cpu_draws(styled, name, monkeypatch):
    there = pixels(styled[name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert np.abs(there - pixels(styled[name])).max() <= 2
