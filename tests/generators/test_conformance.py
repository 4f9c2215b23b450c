"""Every generator passes the suite that ships, and the suite catches generators that do not deserve to."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from imaginet_build import catalog
from imaginet_build.generators import conformance, stack
from imaginet_build.generators.aligned import Autoencoder, ImageToImage, Inpaint
from imaginet_build.generators.diffusion import Diffusion
from imaginet_build.records import Refusal, random_of

prove = pytest.mark.prove
MODULES = [path.stem for path in sorted(Path(conformance.__file__).parent.glob("[!_]*.py"))]


@pytest.mark.parametrize(
    ("card", "size", "needs"),
    [("tiny-vae", (90, 71), "source"), ("tiny-gan", (128, 128), "none"), ("tiny-diffusion", (128, 128), "none")],
)
def test_the_generators_that_ship(card, size, needs):
    def make():
        few = {"steps": 2} if card == "tiny-diffusion" else {}
        return catalog.build(catalog.card("generators", card), **few)

    assert make().needs == needs
    assert conformance.check(make, conformance.orders(3, *size, needs=needs)) == []


@pytest.mark.parametrize("model", ["tiny_sdxl", pytest.param("tiny_sd", marks=prove), pytest.param("tiny_flux", marks=prove)])
def test_text_to_image_pipelines(model, request):
    folder = str(request.getfixturevalue(model))
    wanted = conformance.orders(3, 64, 48, needs="prompt")
    assert conformance.check(lambda: Diffusion(folder, steps=2, guidance=5.0), wanted) == []


@pytest.mark.parametrize("adapter", [Inpaint, pytest.param(ImageToImage, marks=prove)])
def test_pipelines_that_start_from_a_real_image(adapter, tiny_sd):
    wanted = conformance.orders(3, 61, 47, needs="source")
    assert conformance.check(lambda: adapter(str(tiny_sd), steps=4, strength=0.5, prompt="a photograph"), wanted) == []


@prove
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


class Net(Honest):
    """Draws with a torch network, all orders of a call together."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Conv2d(1, 3, 3, padding=1)

    def draw(self, orders):
        answers = {i: Refusal("bad-size", "too small") for i, order in enumerate(orders) if order.width < 8}
        good = [(i, order) for i, order in enumerate(orders) if order.width >= 8]
        if good:
            answers |= zip((i for i, _ in good), self.together([order for _, order in good]), strict=True)
        return iter([answers[i] for i in range(len(orders))])

    def together(self, orders):
        try:
            return [stack.finish(values, {}, (orders[0].width, orders[0].height)) for values in self.values(orders)]
        except torch.OutOfMemoryError as error:
            if len(orders) == 1:
                return [Refusal("out-of-memory", str(error))]
        return [answer for order in orders for answer in self.together([order])]

    def values(self, orders):
        noise = [torch.randn(1, o.height, o.width, generator=torch.Generator().manual_seed(o.seed)) for o in orders]
        with torch.inference_mode():
            return self.net(torch.stack(noise)).permute(0, 2, 3, 1).numpy()


class Crammed(Net):
    """Knows no way out when the device is full."""

    def together(self, orders):
        return [stack.finish(values, {}, (orders[0].width, orders[0].height)) for values in self.values(orders)]


class GivesUp(Net):
    """Refuses a whole batch that does not fit, though each image would."""

    def together(self, orders):
        try:
            return Crammed.together(self, orders)
        except torch.OutOfMemoryError as error:
            return [Refusal("out-of-memory", str(error)) for _ in orders]


class Black(Net):
    """Turns what is not a number into an image."""

    def values(self, orders):
        return np.nan_to_num(super().values(orders), nan=0.5) + np.linspace(0, 0.2, orders[0].width)[None, None, :, None]


class Marks(Honest):
    """Draws as SDXL does where its watermarker can be imported."""

    def one(self, order):
        import imwatermark

        imwatermark.WatermarkEncoder().encode(None, "dwtDct")
        return super().one(order)


@pytest.fixture
def watermarker(monkeypatch):
    """The package `imwatermark`, in name."""

    class WatermarkEncoder:
        def encode(self, image, method):
            return image

    monkeypatch.setitem(sys.modules, "imwatermark", SimpleNamespace(WatermarkEncoder=WatermarkEncoder))


class Html(Honest):
    def one(self, order):
        return b"<html>429</html>"


@pytest.mark.parametrize("honest", [Honest, Net])
def test_an_honest_generator_passes(honest):
    assert conformance.check(honest, conformance.orders(3, 32, 32)) == []


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
        (Crammed, "memory for one image at a time: raised OutOfMemoryError"),
        (GivesUp, "3 of 3 orders were refused (out-of-memory"),
        (Black, "were images nevertheless"),
        (Marks, "imwatermark.WatermarkEncoder puts a watermark"),
    ],
)
@pytest.mark.usefixtures("watermarker")
def test_the_suite_catches(broken, said):
    faults = conformance.check(broken, conformance.orders(3, 32, 32))
    assert any(said in fault for fault in faults), faults
