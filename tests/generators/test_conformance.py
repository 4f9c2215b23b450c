"""Every generator passes the suite that ships, and the suite catches generators that do not deserve to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from imaginet_build import catalog
from imaginet_build.generators import conformance
from imaginet_build.generators.aligned import Autoencoder, ImageToImage, Inpaint
from imaginet_build.generators.diffusion import Diffusion
from imaginet_build.records import Refusal, random_of

MODULES = ["diffusion", "aligned", "gan", "conformance", "networks", "pipelines", "stack"]


@pytest.mark.parametrize(
    ("card", "size", "needs"),
    [("tiny-vae", (90, 71), "source"), ("tiny-gan", (128, 128), "none"), ("tiny-diffusion", (128, 128), "none")],
)
def test_the_generators_that_ship(card, size, needs):
    def make():
        return catalog.build(catalog.card("generators", card))

    assert make().needs == needs
    assert conformance.check(make, conformance.orders(3, *size, needs=needs)) == []


@pytest.mark.parametrize("model", ["tiny_sd", "tiny_sdxl", "tiny_flux"])
def test_text_to_image_pipelines(model, request):
    folder = str(request.getfixturevalue(model))
    wanted = conformance.orders(3, 64, 48, needs="prompt")
    assert conformance.check(lambda: Diffusion(folder, steps=2, guidance=5.0), wanted) == []


@pytest.mark.parametrize("adapter", [ImageToImage, Inpaint])
def test_pipelines_that_start_from_a_real_image(adapter, tiny_sd):
    wanted = conformance.orders(3, 61, 47, needs="source")
    assert conformance.check(lambda: adapter(str(tiny_sd), steps=4, strength=0.5, prompt="a photograph"), wanted) == []


def test_an_autoencoder_inside_a_pipeline(tiny_sdxl):
    wanted = conformance.orders(3, 61, 47, needs="source")
    assert conformance.check(lambda: Autoencoder(str(tiny_sdxl), subfolder="vae", sample=True), wanted) == []


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_generator_is_light_and_silent(module):
    assert conformance.check_import(f"imaginet_build.generators.{module}") == []


class Honest:
    needs = "none"

    def draw(self, orders):
        for order in orders:
            yield self.one(order) if order.width > 8 else Refusal("bad-size", "too small")

    def one(self, order):
        coarse = random_of(order.id, "draw").integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((order.width, order.height))


class Swaps(Honest):
    def draw(self, orders):
        answers = list(super().draw(orders))
        return iter(answers[1:] + answers[:1] if len(answers) == 3 and orders[0].id < orders[-1].id else answers)


class Forgets(Honest):
    def draw(self, orders):
        return iter(list(super().draw(orders))[:-1])


class Wanders(Honest):
    calls = 0

    def one(self, order):
        Wanders.calls += 1
        return super().one(replace(order, id=f"{order.id}{Wanders.calls}"))


class Blank(Honest):
    def one(self, order):
        return Image.new("RGB", (order.width, order.height))


class Small(Honest):
    def one(self, order):
        return super().one(replace(order, width=order.width // 2))


class Raises(Honest):
    def draw(self, orders):
        if any(order.width < 8 for order in orders):
            raise ValueError("too small")
        return super().draw(orders)


class Html(Honest):
    def one(self, order):
        return b"<html>429</html>"


def test_an_honest_generator_passes():
    assert conformance.check(Honest, conformance.orders(3, 32, 32)) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Swaps, "out of order"),
        (Forgets, "2 answers for 3 orders"),
        (Wanders, "gave other bytes"),
        (Blank, "is blank"),
        (Small, "got 16 x 32"),
        (Raises, "raised ValueError"),
        (Html, "do not decode"),
    ],
)
def test_the_suite_catches(broken, said):
    faults = conformance.check(broken, conformance.orders(3, 32, 32))
    assert any(said in fault for fault in faults), faults
