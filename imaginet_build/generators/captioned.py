"""Caption, then draw: a fake of a real image's subject and shape that shares no pixel with it.

A captioner of transformers says what the photograph shows, a text-to-image pipeline draws what it said: content is matched, and
nothing of the real image's bytes, noise or codec is in the fake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from PIL import Image

from imaginet_build.errors import UsageError
from imaginet_build.generators import stack
from imaginet_build.generators.aligned import open_source
from imaginet_build.generators.diffusion import Diffusion
from imaginet_build.generators.pipelines import Loaded, Task
from imaginet_build.records import Order, Refusal

_UNIT = 16


class CaptionThenDraw(Diffusion):
    """Draws what `captioner` says of each order's source image, at the source's aspect and the area that the card draws at.

    `captioner`: a folder or hub id of any image-to-text model of transformers (BLIP, GIT, ViT-GPT2, or one that chats), at
    `captioner_revision`; `question`: what a chatting one is asked; `caption_tokens`: how many tokens it may say. Captions are
    the likeliest ones, one image at a time, so they depend on nothing else. All else as in `Diffusion`.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "source"
    task: ClassVar[Task | None] = "Text2Image"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        captioner: str,
        captioner_revision: str | None = None,
        question: str = "Describe this image in one sentence.",
        caption_tokens: int = 60,
        **keywords: Any,
    ) -> None:
        super().__init__(model, revision, **keywords)
        if caption_tokens < 1:
            raise UsageError(f"{self.who}: caption_tokens is {caption_tokens}; it is at least 1")
        self._captioner = Captioner(self.who, captioner, captioner_revision, question, caption_tokens, self._loaded.device)
        self._said: dict[str, str | Refusal] = {}

    @staticmethod
    def size_of(options: Mapping[str, Any], width: int, height: int) -> tuple[int, int]:
        """The (width, height) to draw for a source of this size: of the card's `sizes` the one of the nearest aspect, else its
        aspect at the card's area, in multiples of 16 pixels."""
        aspect = math.log(width / height)
        if sizes := options.get("sizes"):
            near = min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
            return int(near[0]), int(near[1])
        area = int(options.get("width") or width) * int(options.get("height") or height)
        wide = math.sqrt(area * width / height)
        return max(1, round(wide / _UNIT)) * _UNIT, max(1, round(area / wide / _UNIT)) * _UNIT

    def params(self) -> dict[str, Any]:
        """As for `Diffusion`, with the captioner."""
        return super().params() | self._captioner.facts

    def fault(self, order: Order) -> Refusal | None:
        """Why an order cannot be drawn, or None. Here the caption is made: without one there is nothing to draw."""
        if fault := self.size_fault(order):
            return fault
        source = open_source(self.who, order, sized=False)
        if isinstance(source, Refusal):
            return source
        said = self._captioner.say(source)
        self._said[order.id] = said
        return said if isinstance(said, Refusal) else None

    def call(self, loaded: Loaded, orders: list[Order]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The pipeline's keywords for these orders (all of one size), and the captions to record."""
        captions = [str(self._said[order.id]) for order in orders]
        keywords, extras = self.words(loaded, orders, captions)
        return keywords, [extra | {"caption": text} for extra, text in zip(extras, captions, strict=True)]

    def draw(self, orders: Sequence[Order]) -> Any:
        """One answer per order, in order."""
        self._said.clear()
        return super().draw(orders)


class Captioner:
    """An image-to-text model on its device. UsageError or MissingExtra where packages or weights are missing, or it is none."""

    def __init__(self, who: str, model: str, revision: str | None, question: str, tokens: int, device: stack.Device) -> None:
        stack.require(who, "transformers")
        self._who, self._question, self._tokens, self._device = who, question, tokens, device

        def load(where: Mapping[str, Any]) -> tuple[Any, Any]:
            from transformers import AutoModelForImageTextToText

            given = dict(where) | {"dtype": device.dtype, "use_safetensors": True}
            return _processor(model, where), AutoModelForImageTextToText.from_pretrained(model, **given)

        with stack.quiet():
            self._read, network = stack.fetch(who, model, revision, load, key="captioner")
        self._network = network.to(device.kind).eval()
        commit = {f"captioner_{key}": value for key, value in stack.commit_of(model).items()}
        self.facts: dict[str, Any] = {"captioner": model, "caption_tokens": tokens} | commit

    def say(self, image: Image.Image) -> str | Refusal:
        """One caption of an RGB image, on one line, or why there is none."""
        import torch

        try:
            with stack.quiet(), torch.inference_mode():
                given = self._ask(image).to(self._device.kind)
                if "pixel_values" in given:
                    given["pixel_values"] = given["pixel_values"].to(self._device.dtype)
                said = self._network.generate(**given, max_new_tokens=self._tokens, do_sample=False, num_beams=1)
        except Exception as e:
            if not stack.is_out_of_memory(e):
                raise
            return Refusal("out-of-memory", f"the captioner: {stack.first_line(e)}")
        if self._chats():  # what was asked comes back before the answer
            said = said[:, given["input_ids"].shape[1] :]
        text = " ".join(self._read.batch_decode(said, skip_special_tokens=True)[0].split())
        return text or Refusal("no-caption", f"{self._who}'s captioner said nothing of the image")

    def _chats(self) -> bool:
        return bool(getattr(self._read, "chat_template", None))

    def _ask(self, image: Image.Image) -> Any:
        if not self._chats():
            return self._read(images=image, return_tensors="pt")
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self._question}]}]
        text = self._read.apply_chat_template(asked, add_generation_prompt=True)
        return self._read(images=image, text=text, return_tensors="pt")


class _Pair:
    """An image processor and a tokenizer that nobody tied together, as encoder-decoders such as ViT-GPT2 come."""

    def __init__(self, look: Any, words: Any) -> None:
        self._look, self.batch_decode = look, words.batch_decode

    def __call__(self, images: Any, return_tensors: str) -> Any:
        return self._look(images=images, return_tensors=return_tensors)


def _processor(model: str, where: Mapping[str, Any]) -> Any:
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

    both = AutoProcessor.from_pretrained(model, **where)
    if hasattr(both, "tokenizer"):
        return both
    return _Pair(AutoImageProcessor.from_pretrained(model, **where), AutoTokenizer.from_pretrained(model, **where))
