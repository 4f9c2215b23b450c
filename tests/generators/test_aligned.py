"""Fakes over real images: same size, same content, the model's traces."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imaginet_build import catalog
from imaginet_build.errors import UsageError
from imaginet_build.generators import stack
from imaginet_build.generators.aligned import Autoencoder, ImageToImage, Inpaint, pad
from imaginet_build.records import Order, Refusal, SourceImage, make_id


def order_of(image: Image.Image, name: str = "a", fmt: str = "PNG", **save) -> Order:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **save)
    source = SourceImage(make_id(name), "0" * 64, *image.size, "g", buffer.getvalue())
    return Order(make_id("order", name), "tiny-vae", "photos", 7, *image.size, None, source)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2))


@pytest.fixture(scope="module")
def vae():
    return catalog.build(catalog.card("generators", "tiny-vae"))


@pytest.fixture(scope="module")
def cat():
    """A photograph that no shipped model was trained on."""
    from skimage import data

    return Image.fromarray(data.chelsea()).crop((100, 20, 293, 171))


def test_a_photograph_never_seen_comes_back_recognisable_but_not_the_same(vae, cat):
    (fake,) = vae.draw([order_of(cat)])
    assert fake.size == cat.size == (193, 151)
    assert 24 < psnr(fake, cat) < 45


def test_the_answer_does_not_depend_on_neighbours(vae, cat):
    orders = [order_of(cat), order_of(cat.rotate(90, expand=True), "b"), order_of(cat.crop((0, 0, 64, 64)), "c")]
    together = [image.tobytes() for image in vae.draw(orders)]
    assert together == [next(vae.draw([order])).tobytes() for order in orders]


def test_the_source_is_read_upright(vae, cat):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = order_of(cat.rotate(90, expand=True), "d", "JPEG", quality=95, exif=exif)
    upright = replace(turned, width=cat.width, height=cat.height)
    (fake,) = vae.draw([upright])
    assert psnr(fake, cat) > 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda order: replace(order, source=None), "no-source"),
        (lambda order: replace(order, source=replace(order.source, data=b"")), "no-source"),
        (lambda order: replace(order, width=order.width + 8), "bad-size"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(vae, cat, change, reason):
    (answer,) = vae.draw([change(order_of(cat))])
    assert isinstance(answer, Refusal)
    assert answer.reason == reason


def test_a_broken_source_is_refused_with_the_decoders_reason(vae, cat):
    order = order_of(cat)
    (answer,) = vae.draw([replace(order, source=replace(order.source, data=order.source.data[:500]))])
    assert isinstance(answer, Refusal)
    assert answer.reason


def test_several_autoencoders_in_one_card_share_the_orders(tiny_sd, tiny_sdxl, cat):
    both = Autoencoder(models=[str(tiny_sd), str(tiny_sdxl)], subfolder="vae")
    chosen = [a.info["params"]["model"] for a in both.draw([order_of(cat.crop((0, 0, 32, 32)), str(i)) for i in range(12)])]
    assert set(chosen) == {str(tiny_sd), str(tiny_sdxl)}
    with pytest.raises(UsageError, match="a card for each"):
        Autoencoder(models=["a/b", "c/d"], revision="123")
    with pytest.raises(UsageError, match="give a model"):
        Autoencoder(name="empty")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_what_lies_in_the_hubs_cache_is_used_without_a_network_and_its_commit_recorded(tiny_sd, tmp_path, cat, monkeypatch):
    for name in ("one", "two"):
        place = tmp_path / f"models--somebody--{name}"
        shutil.copytree(tiny_sd, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    both = Autoencoder(models=["somebody/one", "somebody/two"], subfolder="vae")
    made = [next(both.draw([order_of(cat.crop((0, 0, 32, 32)), str(i))])).info["params"] for i in range(6)]
    assert {one["model"] for one in made} == {"somebody/one", "somebody/two"}
    assert {one["revision"] for one in made} == {COMMIT}
    drawn = ImageToImage("somebody/one", revision=COMMIT, steps=4).draw([order_of(cat.crop((0, 0, 64, 48)))])
    assert next(drawn).size == (64, 48)


def test_any_autoencoder_of_diffusers_will_do(tmp_path, cat):
    """One frame of a film, quantised codes, packed latents, a decoder larger than its encoder."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    deep = {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    level = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    kinds = {
        "AutoencoderTiny": {
            "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4, "num_encoder_blocks": (1,) * 4,
            "num_decoder_blocks": (1,) * 4,
        },
        "VQModel": {**blocks, "block_out_channels": (8, 8), "norm_num_groups": 4, "num_vq_embeddings": 16},
        "AsymmetricAutoencoderKL": {
            **blocks, "down_block_out_channels": (8, 8), "up_block_out_channels": (8, 8), "norm_num_groups": 4,
        },
        "AutoencoderKLFlux2": {**blocks, "block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4},
        "AutoencoderKLQwenImage": {**deep, **level, "dim_mult": [1, 2, 2, 2]},
        "AutoencoderKLWan": {**deep, **level, "dim_mult": [1, 1, 1, 1]},
        "AutoencoderKLTemporalDecoder": {
            "block_out_channels": (32, 32), "layers_per_block": 1, "down_block_types": ("DownEncoderBlock2D",) * 2,
        },
        "AutoencoderKLCogVideoX": {
            "block_out_channels": (8,) * 4, "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    order = order_of(cat.crop((0, 0, 61, 47)))
    for kind, settings in kinds.items():
        with stack.no_vendor_warnings():
            getattr(diffusers, kind)(**settings).save_pretrained(tmp_path / kind)
        drawn = [next(Autoencoder(str(tmp_path / kind), sample=sample).draw([order])) for sample in (False, True)]
        assert [image.size for image in drawn] == [(61, 47)] * 2, kind


def test_a_model_that_is_no_autoencoder_is_refused(tiny_sd):
    with pytest.raises(UsageError, match="does not encode and decode"):
        Autoencoder(str(tiny_sd), subfolder="unet")


def test_padding_repeats_the_edge():
    grown = pad(np.arange(6).reshape(2, 3, 1), 4)
    assert grown.shape == (4, 4, 1)
    assert grown[:2, :3].ravel().tolist() == list(range(6))
    assert grown[3, 3, 0] == 5


def test_image_to_image_records_its_strength(tiny_sd, cat):
    made = ImageToImage(str(tiny_sd), strength=0.5, steps=4, prompt="a cat")
    (fake,) = made.draw([order_of(cat.crop((0, 0, 61, 47)))])
    assert fake.size == (61, 47)
    assert made.params()["strength"] == 0.5
    with pytest.raises(UsageError, match="strength is 0"):
        ImageToImage(str(tiny_sd), strength=0.0)


def test_inpainting_leaves_everything_outside_its_box_alone(tiny_sd, cat):
    made = Inpaint(str(tiny_sd), steps=2, area=(0.2, 0.3))
    source = cat.crop((0, 0, 61, 47))
    (fake,) = made.draw([order_of(source)])
    left, top, right, bottom = fake.info["params"]["box"]
    fraction = (right - left) * (bottom - top) / (61 * 47)
    assert fake.info["params"]["fake_fraction"] == pytest.approx(fraction, abs=1e-4)
    assert 0.15 < fraction < 0.35
    changed = (np.asarray(fake) != np.asarray(source)).any(-1)
    inside = np.zeros_like(changed)
    inside[top:bottom, left:right] = True
    assert not (changed & ~inside).any()
    assert changed[inside].mean() > 0.5
