"""Fakes over real images: same size, same content, the model's traces."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from imaginet_build import catalog
from imaginet_build.errors import UsageError
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
