"""Text-to-image through diffusers: every pipeline it has, from a folder, one file or the hub; and those without a prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from imaginet_build.errors import UsageError
from imaginet_build.generators import pipelines, stack
from imaginet_build.generators.pipelines import Loaded, Offload, Source, Task
from imaginet_build.generators.stack import Answer
from imaginet_build.records import Order, Refusal, random_of

log = logging.getLogger(__name__)


class Diffusion:
    """Draws prompts with any text-to-image pipeline of diffusers. Weights load when it is made.

    `model`: a folder, a `.safetensors` file (with `pipeline`, the class name) or a hub id; `revision`: its commit; `variant`:
    such as `fp16`. `steps`, `guidance`: of the call, the pipeline's own where None. `scheduler`: a class of diffusers,
    with `scheduler_options`. `lora`: a file, folder or hub id, fused at `lora_scale`. `dtype`: auto, float32, float16 or
    bfloat16. `offload`: auto, none, model, sequential (CUDA only). `safety_checker`: keep the model's own, and refuse what it
    flags. `options`: any other keyword of the pipeline's call. `width`, `height`: what orders ask for where the recipe does
    not say. UsageError or MissingExtra where packages or weights are missing or a keyword is not understood.

    The orders of one `draw` are one batch, since neighbours change the last bits of a pixel: who draws decides the batch.
    Each image has its own CPU generator seeded from its order. Never a watermark, never a pickle, never code from a model.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "prompt"
    task: ClassVar[Task | None] = "Text2Image"

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        *,
        name: str = "",
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        dtype: str = "auto",
        variant: str | None = None,
        pipeline: str | None = None,
        config: str | None = None,
        lora: str | None = None,
        lora_scale: float = 1.0,
        offload: Offload = "auto",
        safety_checker: bool = False,
        options: dict[str, Any] | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> None:
        self.who = name or model
        self.steps, self.guidance, self.options = steps, guidance, dict(options or {})
        self.width, self.height = width, height
        self._source = Source(
            model, revision, variant, pipeline, config, scheduler, scheduler_options, lora, lora_scale, safety_checker
        )
        self._loaded = pipelines.load(self.who, self._source, self.task, dtype, offload)
        named = {"num_inference_steps": steps, "guidance_scale": guidance}
        self._settings = {k: v for k, v in named.items() if v is not None} | self.options
        if unknown := sorted(set(self._settings) - set(self._loaded.accepts)):
            raise UsageError(f"{self.who}: a {type(self._loaded.pipe).__name__} does not take {', '.join(unknown)}")
        self._fits: int | None = None

    def params(self) -> dict[str, Any]:
        """What decides the pixels besides the order and the card: device, dtype, versions, steps, guidance, scheduler."""
        loaded = self._loaded
        facts = loaded.device.facts("diffusers", "transformers")
        scheduler = getattr(loaded.pipe, "scheduler", None)
        facts |= {"pipeline": type(loaded.pipe).__name__, "scheduler": type(scheduler).__name__, **self._settings}
        if self._source.lora:
            facts |= {"lora": self._source.lora, "lora_scale": self._source.lora_scale}
        if loaded.offload != "none":
            facts["offload"] = loaded.offload
        return facts

    def draw(self, orders: Sequence[Order]) -> Iterator[Answer]:
        """One answer per order, in order. Orders of one size are drawn together."""
        loaded = self._loaded
        answers: dict[int, Answer] = {}
        sizes: dict[tuple[int, int], list[int]] = {}
        for i, order in enumerate(orders):
            if fault := self.fault(order):
                answers[i] = fault
            else:
                sizes.setdefault((order.width, order.height), []).append(i)
        for places in sizes.values():
            drawn = self._draw_within_memory(loaded, [orders[i] for i in places])
            answers |= zip(places, drawn, strict=True)
        yield from stack.in_order(orders, answers)

    def fault(self, order: Order) -> Refusal | None:
        """Why an order cannot be drawn by this pipeline, or None."""
        if order.prompt is None or not order.prompt.text.strip():
            return Refusal("no-prompt", f"{self.who} draws from a prompt and order {order.id} has none")
        unit = self._unit()
        if order.width < unit or order.height < unit or order.width % unit or order.height % unit:
            return Refusal("bad-size", f"{self.who} draws multiples of {unit} pixels, not {order.width} x {order.height}")
        return None

    def _unit(self) -> int:
        """Side lengths must be multiples of this: 8 at least; those that pack latents into patches halve once more."""
        pipe = self._loaded.pipe
        factor = int(getattr(pipe, "vae_scale_factor", 8))
        patch = getattr(pipe, "patch_size", 1)
        processor = getattr(getattr(pipe, "image_processor", None), "config", {})
        packed = int(processor.get("vae_scale_factor", 8))
        return max(8, factor * (patch if isinstance(patch, int) else 1), packed)

    def _draw_within_memory(self, loaded: Loaded, orders: list[Order]) -> list[Answer]:
        """Draws; without memory: halves the batch, then offloads, then refuses. What fits is remembered, and recorded."""
        if self._fits and len(orders) > self._fits:
            half = (len(orders) + 1) // 2
            return self._draw_within_memory(loaded, orders[:half]) + self._draw_within_memory(loaded, orders[half:])
        try:
            return self._draw_together(loaded, orders)
        except Exception as e:
            if not stack.is_out_of_memory(e):
                raise
            reason = stack.first_line(e)
        # Outside the handler, so that the failed call's tensors are free.
        _free()
        if len(orders) > 1:
            self._fits = len(orders) // 2
            log.warning("%s: no memory for %d images at once; now at most %d (recorded)", self.who, len(orders), self._fits)
            return self._draw_within_memory(loaded, orders)
        if loaded.device.kind == "cuda" and loaded.offload != "sequential":
            wider: Offload = "model" if loaded.offload == "none" else "sequential"
            log.warning("%s: no memory for one image; offload %s from now on", self.who, wider)
            loaded.pipe.remove_all_hooks()
            loaded.pipe.to("cpu")
            pipelines.place(self.who, loaded, wider)
            return self._draw_within_memory(loaded, orders)
        return [Refusal("out-of-memory", reason)]

    def _draw_together(self, loaded: Loaded, orders: list[Order]) -> list[Answer]:
        keywords, extras = self.call(loaded, orders)
        images, flags = loaded.call(**(self._settings | keywords), generator=stack.noise_of(orders))
        if len(images) != len(orders):
            return [Refusal("wrong-count", f"{len(images)} images came for {len(orders)} orders")] * len(orders)
        answers: list[Answer] = []
        for order, pixels, flagged, extra in zip(orders, images, flags, extras, strict=True):
            facts = extra | ({"drawn_together": len(orders)} if self._fits else {})
            flag = Refusal("flagged", f"{self.who}'s own safety checker blanked the image")
            answers.append(flag if flagged else stack.finish(self.cropped(pixels, order), facts, (order.width, order.height)))
        return answers

    def cropped(self, pixels: NDArray[Any], order: Order) -> NDArray[Any]:  # noqa: ARG002  for those that pad
        """What of a drawn (h, w, 3) array is the image."""
        return pixels

    def call(self, loaded: Loaded, orders: list[Order]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The pipeline's keywords for these orders (all of one size), and facts to record with each image."""
        prompts = [o.prompt.text if o.prompt else "" for o in orders]
        negatives = [o.prompt.negative if o.prompt else "" for o in orders]
        keywords: dict[str, Any] = {"prompt": prompts}
        extras: list[dict[str, Any]] = [{} for _ in orders]
        if any(negatives):
            if "negative_prompt" in loaded.accepts:
                keywords["negative_prompt"] = negatives
            else:
                extras = [{"negative_ignored": True} if n else {} for n in negatives]
        size = {"width": orders[0].width, "height": orders[0].height}
        keywords |= {key: value for key, value in size.items() if key in loaded.accepts}
        for extra, dropped in zip(extras, pipelines.tokens_dropped(loaded.pipe, loaded.accepts, prompts), strict=True):
            if dropped > 0:
                extra["prompt_tokens_dropped"] = dropped
        return keywords, extras


class Unconditional(Diffusion):
    """Pipelines that take no prompt: DDPM, DDIM, latent (LDM), and class-conditional ones (DiT).

    The class is drawn from the order's id. They draw at one size, the model's own; an order of another size is refused.
    """

    needs: ClassVar[Literal["prompt", "source", "none"]] = "none"
    task: ClassVar[Task | None] = None

    def fault(self, order: Order) -> Refusal | None:
        """Why an order cannot be drawn by this pipeline, or None."""
        size = self.size()
        if (order.width, order.height) != size:
            return Refusal("bad-size", f"{self.who} draws {size[0]} x {size[1]} pixels, not {order.width} x {order.height}")
        return None

    def size(self) -> tuple[int, int]:
        """(width, height) of every image this model draws."""
        pipe = self._loaded.pipe
        net = getattr(pipe, "unet", None) or pipe.transformer
        vae = getattr(pipe, "vqvae", None) or getattr(pipe, "vae", None)
        factor = stack.unit_of(vae) if vae is not None else 1
        side = net.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return width * factor, height * factor

    def call(self, loaded: Loaded, orders: list[Order]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """How many images; for a class-conditional model their classes."""
        if "class_labels" not in loaded.accepts:
            return {"batch_size": len(orders)}, [{} for _ in orders]
        # The last embedding of a DiT stands for "no class".
        count = int(loaded.pipe.transformer.config.num_embeds_ada_norm)
        labels = [int(random_of(order.id, "class").integers(count)) for order in orders]
        return {"class_labels": labels}, [{"class": label} for label in labels]


def _free() -> None:
    """Gives back what the failed call held."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
