"""A vision model of the transformers library and its own preprocessing, loaded only where every weight finds its place."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import Item

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 16


def load(model: str, revision: str | None, who: str) -> tuple[Any, Any]:
    """The model (in eval mode, on a GPU if there is one) and the image processor of a folder or a Hugging Face name.

    Of what its configuration names, the class is taken from the library, never from the checkpoint; weights are safetensors.
    Raises `MissingExtra`, `UsageError` where there is no such model here, `BuildError` where its weights do not fit exactly.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingExtra(who, "torch and transformers", "baseline") from None
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(model, revision=revision)
            named = (config.architectures or [""])[0]
            kind: Any = getattr(transformers, named, None)
            if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
                raise BuildError(f"{model} names the class '{named}', none of transformers' models; choose another checkpoint")
            chosen = {"revision": revision, "use_safetensors": True, "output_loading_info": True}
            network, told = typing.cast("Any", kind).from_pretrained(model, **chosen)
            processor = transformers.AutoImageProcessor.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{who}: {model} cannot be loaded: {said}. Fetch it where there is a network: hf download {model}"
        ) from None
    wrong = [f"{key} is {what}" for what, field in _FAULTS.items() for key in sorted(map(str, told[field]))]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BuildError(f"{model} does not fit {named}: {'; '.join(wrong[:3])}{more}. Weights that do not fit are not used")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return network.eval().to(device), processor


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no warnings about what is checked here anyway."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


_FAULTS = {"missing": "missing_keys", "not part of it": "unexpected_keys", "of another shape": "mismatched_keys"}


def pixels(images: Sequence[Image.Image], processor: Any, native: bool) -> Tensor:
    """(n, 3, h, w): images as the processor makes them.

    `native`: the centre at its own resolution instead of the whole scaled down, which takes with it the traces that detectors
    look for (Ojha et al. 2023, arXiv 2302.10174); an image smaller than the model's input is scaled up as always.
    """
    side = _input_side(processor)
    seen = [_centre(image.convert("RGB"), *side) if native else image.convert("RGB") for image in images]
    made: Tensor = processor(images=seen, return_tensors="pt")["pixel_values"]
    return made


def _input_side(processor: Any) -> tuple[int, int]:
    """Width and height of what the network gets."""
    size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    size = dict(size or processor.size)
    side = size.get("shortest_edge") or size.get("longest_edge") or 224
    return int(size.get("width") or side), int(size.get("height") or side)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.width < width or image.height < height:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def batches(items: Sequence[Item], processor: Any, native: bool) -> Iterator[Tensor]:
    """The pixels of a few items at a time, however many there are."""
    for start in range(0, len(items), BATCH):
        yield pixels([items[i].image for i in range(start, min(start + BATCH, len(items)))], processor, native)
