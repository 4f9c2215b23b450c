"""Text-to-image through diffusers: every pipeline it has, from a folder, one file or the hub; and those without a prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from imaginet_build.generators import pipelines, stack, understanding
from imaginet_build.generators.memory import LADDER, Fit, Memory
from imaginet_build.generators.pipelines import Loaded, Offload, Source, Task
from imaginet_build.generators.stack import Answer
from imaginet_build.records import Order, Refusal, random_of

log = logging.getLogger(__name__)


class Diffusion:
    """Draws prompts with any text-to-image pipeline of diffusers. Weights load when it is made.

    `model`: a folder, a `.safetensors` file (with `pipeline`, the class name) or a hub id; `revision`: its commit; `variant`:
    such as `fp16`. `steps`, `guidance`: of the call, the pipeline's own where None. `scheduler`: a class of diffusers,
    with `scheduler_options`. `lora`: a file, folder (with `lora_file` where it holds several) or hub id (at
    `lora_revision`), fused at `lora_scale`. `dtype`: auto, float32, float16 or bfloat16. `offload`: auto, none, model,
    sequential (CUDA only). `safety_checker`: keep the model's own, and refuse what it flags. `options`: any other keyword of
    the pipeline's call. `width` and `height`, or `sizes`, of which each prompt takes one: what orders ask for where the
    recipe does not say. UsageError or MissingExtra where packages or weights are missing or a keyword is not understood.

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
        lora_file: str | None = None,
        lora_revision: str | None = None,
        offload: Offload = "auto",
        safety_checker: bool = False,
        options: dict[str, Any] | None = None,
        width: int | None = None,
        height: int | None = None,
        sizes: list[tuple[int, int]] | None = None,
    ) -> None:
        self.who = name or model
        self.width, self.height, self.sizes = width, height, sizes
        source = Source(
            model, revision, variant, pipeline, config, scheduler, scheduler_options, lora, lora_scale, lora_file,
            lora_revision, safety_checker,
        )  # fmt: skip
        self._loaded = loaded = pipelines.load(self.who, source, self.task, dtype, offload)
        self._settings = understanding.settings(self.who, loaded.pipe, loaded.accepts, steps, guidance, options or {})
        self._memory = Memory(loaded.device.name(), model, type(loaded.pipe).__name__, str(loaded.device.dtype))

    def remember(self, path: Path) -> None:
        """Keep in the file `path` what fits into this device's memory, and go by what is kept there."""
        self._memory.keep(path)

    def params(self) -> dict[str, Any]:
        """What decides the pixels besides the order and the card: device, dtype, versions, steps, guidance, scheduler."""
        loaded = self._loaded
        facts = loaded.device.facts("diffusers", "transformers")
        scheduler = getattr(loaded.pipe, "scheduler", None)
        facts |= {"pipeline": type(loaded.pipe).__name__, "scheduler": type(scheduler).__name__, **self._settings}
        facts |= loaded.lora
        if loaded.offload != "none":
            facts["offload"] = loaded.offload
        return facts

    def draw(self, orders: Sequence[Order]) -> Iterator[Answer]:
        """One answer per order, in order. Orders of one size are drawn together (apart with and without a negative prompt)."""
        answers: dict[int, Answer] = {}
        alike: dict[tuple[int, int, bool], list[int]] = {}
        for i, order in enumerate(orders):
            if fault := self.fault(order):
                answers[i] = fault
            else:
                # To SDXL an empty negative prompt beside a neighbour's is another than none at all.
                negative = bool(order.prompt and order.prompt.negative)
                alike.setdefault((order.width, order.height, negative), []).append(i)
        for places in alike.values():
            drawn = self._draw_within_memory([orders[i] for i in places])
            answers |= zip(places, drawn, strict=True)
        yield from stack.in_order(orders, answers)

    def fault(self, order: Order) -> Refusal | None:
        """Why an order cannot be drawn by this pipeline, or None."""
        if order.prompt is None or not order.prompt.text.strip():
            return Refusal("no-prompt", f"{self.who} draws from a prompt and order {order.id} has none")
        return self.size_fault(order)

    def size_fault(self, order: Order) -> Refusal | None:
        """Why this pipeline cannot draw the size of an order, or None."""
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

    def _draw_within_memory(self, orders: list[Order]) -> list[Answer]:
        """Draws orders of one size; without memory: half of them, then offloaded, then refused. See `memory`."""
        size = orders[0].width, orders[0].height
        answers: list[Answer] = []
        while len(answers) < len(orders):
            fit = self._memory.fit(*size)
            self._offload(fit)
            some = orders[len(answers) :][: fit.batch]
            try:
                answers += self._draw_together(
                    some, {"drawn_together": len(some), "cut": True} if len(some) < len(orders) else {}
                )
                continue
            except Exception as e:
                if not stack.is_out_of_memory(e):
                    raise
                reason = stack.first_line(e)
            # Outside the handler, so that the failed call's tensors are free.
            stack.free()
            if (less := self._less(len(some), fit)) is None:
                answers.append(Refusal("out-of-memory", f"one image of {size[0]} x {size[1]} at offload {fit.level}: {reason}"))
            else:
                self._memory.learn(*size, less)
                what = f"{len(some)} images" if len(some) > 1 else "one image"
                log.warning(
                    "%s: no memory for %s of %d x %d at once; now at most %d, offload %s (recorded)",
                    self.who, what, *size, less.batch or 1, less.level,
                )  # fmt: skip
        return answers

    def _less(self, drawn: int, fit: Fit) -> Fit | None:
        """What to try after `drawn` images did not fit, or None where nothing is left to try."""
        if drawn > 1:
            return Fit(drawn // 2, fit.level)
        level = max(fit.level, self._loaded.offload, key=LADDER.index)
        if self._loaded.device.kind != "cuda" or level == LADDER[-1]:
            return None
        return Fit(1, LADDER[LADDER.index(level) + 1])

    def _offload(self, fit: Fit) -> None:
        """Takes the pipeline off the device as far as `fit` says, if it is not yet."""
        loaded = self._loaded
        if LADDER.index(fit.level) > LADDER.index(loaded.offload):
            loaded.pipe.remove_all_hooks()
            loaded.pipe.to("cpu")
            pipelines.place(self.who, loaded, fit.level)

    def _draw_together(self, orders: list[Order], facts: dict[str, Any]) -> list[Answer]:
        loaded = self._loaded
        keywords, extras = self.call(loaded, orders)
        try:
            images, flags = loaded.call(**(self._settings | keywords), generator=stack.noise_of(orders))
        except ValueError as e:
            if "divisible" not in str(e):
                raise
            # Some pipelines know sizes that none of their parts tells of.
            return [Refusal("bad-size", stack.first_line(e))] * len(orders)
        if len(images) != len(orders):
            return [Refusal("wrong-count", f"{len(images)} images came for {len(orders)} orders")] * len(orders)
        heard = understanding.hears_negatives(loaded.pipe, loaded.accepts, self._settings)
        answers: list[Answer] = []
        for order, pixels, flagged, extra in zip(orders, images, flags, extras, strict=True):
            unheard = {"negative_ignored": True} if order.prompt and order.prompt.negative and not heard else {}
            flag = Refusal("flagged", f"{self.who}'s own safety checker blanked the image")
            answers.append(
                flag
                if flagged
                else stack.finish(self.cropped(pixels, order), facts | extra | unheard, (order.width, order.height))
            )
        return answers

    def cropped(self, pixels: NDArray[Any], order: Order) -> NDArray[Any]:  # noqa: ARG002  for those that pad
        """What of a drawn (h, w, 3) array is the image."""
        return pixels

    def call(self, loaded: Loaded, orders: list[Order]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The pipeline's keywords for these orders (all of one size), and facts to record with each image."""
        return self.words(loaded, orders, [o.prompt.text if o.prompt else "" for o in orders])

    def words(self, loaded: Loaded, orders: list[Order], prompts: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The same for these prompts: with their negatives and the size, and what of them the model does not read."""
        keywords: dict[str, Any] = {"prompt": prompts}
        texts = [o.prompt.negative if o.prompt else "" for o in orders]
        if (negative := understanding.negatives(loaded.accepts, self._settings, texts)) is not None:
            keywords["negative_prompt"] = negative
        size = {"width": orders[0].width, "height": orders[0].height}
        keywords |= {key: value for key, value in size.items() if key in loaded.accepts}
        dropped = understanding.tokens_dropped(loaded.pipe, loaded.accepts, self._settings, prompts)
        return keywords, [{"prompt_tokens_dropped": n} if n > 0 else {} for n in dropped]


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
