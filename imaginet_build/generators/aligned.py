"""Fakes that share a real image's content and size: autoencoder reconstruction, image-to-image, inpainting.

Whatever differs between such a fake and its source was put there by the model (arXiv:2410.11835), so a detector cannot win by
content, size or framing. Sources are padded to the size a model can take and cropped back; never resized.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaginet_build import images
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.generators import stack
from imaginet_build.generators.diffusion import Diffusion
from imaginet_build.generators.pipelines import Loaded, Task
from imaginet_build.generators.stack import Answer
from imaginet_build.records import Order, Refusal, random_of

log = logging.getLogger(__name__)


class Autoencoder:
    """Reconstructs each order's source image at its own size with any autoencoder of diffusers.

    `model` or `models`: folders or hub ids, with `subfolder` where the autoencoder is part of a pipeline (`vae`); with
    several, each order's id picks one, and the choice is recorded. `sample`: draw the latent from the posterior with the
    order's seed instead of taking its mode. One image at a time, so that no neighbour touches its last bits.
    UsageError or MissingExtra where packages or weights are missing.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "source"

    def __init__(
        self,
        model: str | None = None,
        models: list[str] | None = None,
        revision: str | None = None,
        *,
        name: str = "",
        subfolder: str | None = None,
        variant: str | None = None,
        sample: bool = False,
        dtype: str = "auto",
    ) -> None:
        self.models = [*([model] if model else []), *(models or [])]
        self.who = name or ", ".join(self.models)
        if not self.models:
            raise UsageError(f"{name or 'an autoencoder card'}: give a model, or a list of models")
        if revision and revision != "unresolved" and len(self.models) > 1:
            raise UsageError(f"{self.who}: one revision cannot belong to {len(self.models)} models; a card for each")
        self.revision, self.subfolder, self.variant = revision, subfolder, variant
        self.sample = sample
        stack.require(self.who, "torch", "diffusers", "transformers")
        self._device = stack.choose(self.who, dtype)
        self._loaded = {model: self._load(model) for model in self.models}

    def _load(self, model: str) -> Any:
        import diffusers

        given: dict[str, Any] = {"dtype": self._device.dtype, "use_safetensors": True}
        given |= {k: v for k, v in (("subfolder", self.subfolder), ("variant", self.variant)) if v}

        def load(where: Mapping[str, Any]) -> Any:
            return diffusers.AutoModel.from_pretrained(model, **given, **where)

        with stack.quiet():
            vae = stack.fetch(self.who, model, self.revision, load)
        if not (hasattr(vae, "encode") and hasattr(vae, "decode")):
            raise UsageError(f"{self.who}: '{model}' is a {type(vae).__name__}, which does not encode and decode images")
        return vae.to(self._device.kind).eval().requires_grad_(False)

    def params(self) -> dict[str, Any]:
        """What decides the pixels besides the order and the card: device, dtype, versions, how the latent is taken."""
        return self._device.facts("diffusers") | {"latent": "sample" if self.sample else "mode"}

    def draw(self, orders: Sequence[Order]) -> Iterator[Answer]:
        """One answer per order, in order."""
        for order in orders:
            yield self._answer(order)

    def _answer(self, order: Order) -> Answer:
        model = self.models[int(random_of(order.id, "autoencoder").integers(len(self.models)))]
        vae = self._loaded[model]
        source = open_source(self.who, order)
        if isinstance(source, Refusal):
            return source
        try:
            pixels = self._reconstruct(vae, np.asarray(source, dtype=np.float32) / 127.5 - 1, order.seed)
        except Exception as e:
            if not stack.is_out_of_memory(e):
                raise
            return Refusal("out-of-memory", f"{source.width} x {source.height}: {stack.first_line(e)}")
        extra = {"model": model} | stack.commit_of(model, self.subfolder) if len(self.models) > 1 else {}
        return stack.finish(pixels, extra, source.size)

    def _reconstruct(self, vae: Any, pixels: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """(h, w, 3) in [-1, 1] to the same shape in [0, 1], through the latent."""
        import torch

        device = self._device
        height, width = pixels.shape[:2]
        x = torch.from_numpy(pad(pixels, stack.unit_of(vae))).permute(2, 0, 1)[None].to(device.kind, device.dtype)
        # Video autoencoders (Wan, Qwen-Image) take one frame: (n, c, time, h, w).
        video = any(key in vae.config for key in ("temperal_downsample", "temporal_compression_ratio"))
        with torch.inference_mode():
            encoded = vae.encode(x[:, :, None] if video else x)
            posterior = getattr(encoded, "latent_dist", None)
            if posterior is None:
                z = encoded.latents if hasattr(encoded, "latents") else encoded.latent
            else:
                z = posterior.sample(torch.Generator("cpu").manual_seed(seed)) if self.sample else posterior.mode()
            # That of video diffusion asks how many of a batch's images are one film.
            film = {"num_frames": 1} if type(vae).__name__ == "AutoencoderKLTemporalDecoder" else {}
            y = vae.decode(z, **film).sample
        y = (y[:, :, 0] if video else y)[0, :, :height, :width].float() * 0.5 + 0.5
        out: NDArray[np.float32] = y.permute(1, 2, 0).cpu().numpy()
        return out


def pad(pixels: NDArray[Any], unit: int) -> NDArray[Any]:
    """(h, w, …) grown to multiples of `unit` at the right and bottom by repeating the last column and row."""
    grow = [(0, -side % unit) for side in pixels.shape[:2]] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, grow, mode="edge")


def open_source(who: str, order: Order, sized: bool = True) -> Image.Image | Refusal:
    """The order's source image, upright RGB, or why there is none. Where `sized`, its size must be the one ordered."""
    if order.source is None or not order.source.data:
        return Refusal("no-source", f"{who} starts from a real image and order {order.id} carries none")
    try:
        source = images.decode(order.source.data)
    except BadImage as e:
        return Refusal(e.reason, e.detail)
    if sized and source.size != (order.width, order.height):
        detail = f"the source is {source.width} x {source.height} pixels, {order.width} x {order.height} was ordered"
        return Refusal("bad-size", detail)
    return source


@dataclass(frozen=True, slots=True)
class _Box:
    """A masked part in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class ImageToImage(Diffusion):
    """Redraws each source image with noise put in at `strength` (0 nothing changes, 1 nothing is kept), guided by a prompt.

    The prompt is the order's where it has one (a caption of the source), else `prompt`. All else as in `Diffusion`.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "source"
    task: ClassVar[Task | None] = "Image2Image"

    def __init__(
        self, model: str, revision: str | None = None, *, strength: float = 0.5, prompt: str = "", **keywords: Any
    ) -> None:
        super().__init__(model, revision, **keywords)
        if not 0 < strength <= 1:
            raise UsageError(f"{self.who}: strength is {strength}; it lies above 0 and at most at 1")
        self.strength, self.prompt = strength, prompt

    def params(self) -> dict[str, Any]:
        """As for `Diffusion`, with the strength."""
        return super().params() | {"strength": self.strength}

    def fault(self, order: Order) -> Refusal | None:
        """Why an order cannot be drawn, or None."""
        source = open_source(self.who, order)
        return source if isinstance(source, Refusal) else None

    def call(self, loaded: Loaded, orders: list[Order]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The pipeline's keywords for these orders (all of one size), and facts to record with each image."""
        prompts = [o.prompt.text if o.prompt else self.prompt for o in orders]
        keywords, extras = self.words(loaded, orders, prompts)
        keywords |= {"strength": self.strength, "image": self._sources(orders)}
        size = dict(zip(("width", "height"), keywords["image"][0].size, strict=True))
        return keywords | {key: value for key, value in size.items() if key in loaded.accepts}, extras

    def _sources(self, orders: Sequence[Order]) -> list[Image.Image]:
        opened = [open_source(self.who, order) for order in orders]
        return [Image.fromarray(pad(np.asarray(o), self._unit())) for o in opened if isinstance(o, Image.Image)]

    def cropped(self, pixels: NDArray[Any], order: Order) -> NDArray[Any]:
        """A drawn image without the padding."""
        return pixels[: order.height, : order.width]


class Inpaint(ImageToImage):
    """Redraws one box of each source image; everything else is the source's own pixels, put back exactly.

    `area`: the share of the image the box covers, as a range; its place, size and shape come from the order's id. The share
    of pixels drawn by the model is recorded as `fake_fraction`, the box as `box` (left, top, right, bottom).
    """

    task: ClassVar[Task | None] = "Inpainting"

    def __init__(
        self, model: str, revision: str | None = None, *, area: tuple[float, float] = (0.1, 0.5), **keywords: Any
    ) -> None:
        super().__init__(model, revision, **({"strength": 1.0} | keywords))
        if not 0 < area[0] <= area[1] <= 1:
            raise UsageError(f"{self.who}: area is {area}; two shares of the image, the smaller first, above 0 and at most 1")
        self.area = area

    def call(self, loaded: Loaded, orders: list[Order]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The pipeline's keywords for these orders (all of one size), and facts to record with each image."""
        keywords, extras = super().call(loaded, orders)
        masks = []
        for order, source, extra in zip(orders, keywords["image"], extras, strict=True):
            box = self._box(order)
            mask = np.zeros((source.height, source.width), np.uint8)
            mask[box.top : box.bottom, box.left : box.right] = 255
            masks.append(Image.fromarray(mask))
            extra["box"] = [box.left, box.top, box.right, box.bottom]
            extra["fake_fraction"] = round((box.right - box.left) * (box.bottom - box.top) / (order.width * order.height), 4)
        return keywords | {"mask_image": masks}, extras

    def _box(self, order: Order) -> _Box:
        rng = random_of(order.id, "inpaint")
        share = rng.uniform(*self.area)
        aspect = math.exp(rng.uniform(-math.log(2), math.log(2)))
        width = min(order.width, max(1, round(order.width * math.sqrt(share * aspect))))
        height = min(order.height, max(1, round(share * order.width * order.height / width)))
        left, top = int(rng.integers(order.width - width + 1)), int(rng.integers(order.height - height + 1))
        return _Box(left, top, left + width, top + height)

    def cropped(self, pixels: NDArray[Any], order: Order) -> NDArray[Any]:
        """The source with the drawn box in it."""
        source = open_source(self.who, order)
        assert isinstance(source, Image.Image)
        box = self._box(order)
        out = np.asarray(source, dtype=np.float32) / 255
        inside = np.s_[box.top : box.bottom, box.left : box.right]
        out[inside] = pixels[inside]
        return out
