"""Pipelines of diffusers, loaded safely (safetensors only, no remote code, no watermark), called with what they understand."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imaginet_build.errors import UsageError, suggest
from imaginet_build.generators import lora, stack
from imaginet_build.generators.memory import Level
from imaginet_build.generators.stack import Device

log = logging.getLogger(__name__)

Task = Literal["Text2Image", "Image2Image", "Inpainting"]
Offload = Literal["auto"] | Level


@dataclass(frozen=True, slots=True)
class Source:
    """Where a pipeline comes from and how it is set up; the keywords of a card (see `diffusion.Diffusion`)."""

    model: str
    revision: str | None = None
    variant: str | None = None
    pipeline: str | None = None
    config: str | None = None
    scheduler: str | None = None
    scheduler_options: Mapping[str, Any] | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    lora_file: str | None = None
    lora_revision: str | None = None
    safety_checker: bool = False


@dataclass(slots=True)
class Loaded:
    """A pipeline on its device. `pipe` is callable; `accepts`: the keywords its call names; `lora`: what is fused into it."""

    pipe: Any
    device: Device
    accepts: Mapping[str, inspect.Parameter]
    offload: Level = "none"
    lora: Mapping[str, Any] = field(default_factory=dict)

    def call(self, **keywords: Any) -> tuple[list[NDArray[Any]], list[bool]]:
        """Images as (h, w, 3) float arrays in [0, 1], and whether each was flagged by the model's own safety checker."""
        with stack.quiet():
            result = self.pipe(output_type="np", **keywords)
        images = result.images if hasattr(result, "images") else result[0]
        images = list(np.asarray(images))
        flags = getattr(result, "nsfw_content_detected", None) or [False] * len(images)
        return images, [bool(f) for f in flags]


def load(who: str, source: Source, task: Task | None, dtype: str, offload: Offload) -> Loaded:
    """The pipeline for `task` (None: the class that its own index names), on the device there is.

    Raises UsageError or MissingExtra where packages or weights are missing, or the model would need code of its own to run.
    """
    stack.require(who, "torch", "diffusers", "transformers")
    device = stack.choose(who, dtype)
    with stack.quiet():
        make = _from_file if source.model.endswith((".safetensors", ".ckpt", ".pt", ".bin")) else _from_folder
        pipe = make(who, source, task, device)
        fused = (
            lora.add(who, pipe, source.lora, source.lora_scale, source.lora_file, source.lora_revision) if source.lora else {}
        )
    pipe.set_progress_bar_config(disable=True)
    if source.scheduler or source.scheduler_options:
        pipe.scheduler = _scheduler(who, pipe.scheduler, source.scheduler, source.scheduler_options or {})
    if any(getattr(pipe, name, None) is not None for name in ("watermark", "watermarker")):
        raise UsageError(f"{who}: its pipeline draws a watermark into every image and cannot be told not to")
    loaded = Loaded(pipe, device, inspect.signature(pipe.__call__).parameters, lora=fused)
    place(who, loaded, offload)
    return loaded


def place(who: str, loaded: Loaded, offload: Offload) -> None:
    """Moves the pipeline to its device: whole if it fits (or is told to), else one model or one layer at a time."""
    import torch

    if loaded.device.kind != "cuda":
        loaded.pipe.to(loaded.device.kind)
        return
    if offload != "auto":
        chosen = offload
    else:
        parts = [m for m in loaded.pipe.components.values() if isinstance(m, torch.nn.Module)]
        needed = sum(p.numel() * p.element_size() for m in parts for p in m.parameters())
        free = torch.cuda.mem_get_info()[0]
        # A third is left for activations.
        chosen = "none" if needed < 0.67 * free else "model"
        log.info("%s: %.1f GB of weights, %.1f GB free: offload %s", who, needed / 1e9, free / 1e9, chosen)
    if chosen == "none":
        loaded.pipe.to("cuda")
    elif chosen == "model":
        loaded.pipe.enable_model_cpu_offload()
    else:
        loaded.pipe.enable_sequential_cpu_offload()
    loaded.offload = chosen


def _from_folder(who: str, source: Source, task: Task | None, device: Device) -> Any:
    import diffusers

    def load(where: Mapping[str, Any]) -> Any:
        name = str(diffusers.DiffusionPipeline.load_config(source.model, **where).get("_class_name", ""))
        cls = getattr(diffusers, source.pipeline or name, None)
        if cls is None:
            raise UsageError(
                f"{who}: '{source.model}' is a {source.pipeline or name}, which is not part of diffusers "
                f"{diffusers.__version__}; code that comes with a model is never run"
            )
        given = _keywords(cls, source) | dict(where)
        given |= {"dtype": device.dtype, "use_safetensors": True}
        if source.variant:
            given["variant"] = source.variant
        if task and not source.pipeline:
            try:
                return getattr(diffusers, f"AutoPipelineFor{task}").from_pretrained(source.model, **given)
            except ValueError as e:
                if "can't find a pipeline" not in str(e):
                    raise
                log.info("%s: %s has no %s twin; taken as it is", who, name, task)
        return cls.from_pretrained(source.model, **given)

    def honest(where: Mapping[str, Any]) -> Any:
        try:
            return load(where)
        except OSError as e:
            if "safetensors" in str(e) and stack.folder_of(source.model) is not None:
                raise UsageError(
                    f"{who}: '{source.model}' has no safetensors weights; pickles run code when loaded and are refused"
                ) from e
            raise

    return stack.fetch(who, source.model, source.revision, honest)


def _from_file(who: str, source: Source, task: Task | None, device: Device) -> Any:
    """One checkpoint file, as fine-tunes are shared. The class must be named, since a file does not say what it is."""
    import diffusers

    if not source.model.endswith(".safetensors"):
        raise UsageError(f"{who}: '{source.model}' is not safetensors; pickles run code when loaded and are refused")
    if not Path(source.model).is_file():
        raise UsageError(f"{who}: there is no file '{source.model}'")
    if not source.pipeline:
        raise UsageError(f'{who}: a single file needs its class in the card, such as pipeline = "StableDiffusionXLPipeline"')
    cls = getattr(diffusers, source.pipeline, None)
    # Not hasattr: classes whose own packages are missing raise at it.
    if cls is None or not any("from_single_file" in vars(base) for base in cls.__mro__):
        known = [name for name in dir(diffusers) if name.endswith("Pipeline")]
        raise UsageError(f"{who}: diffusers cannot load a '{source.pipeline}' from one file{suggest(source.pipeline, known)}")
    given = _keywords(cls, source) | {"dtype": device.dtype}
    if source.config:
        given |= {"config": source.config, "local_files_only": True}
    try:
        pipe = cls.from_single_file(source.model, **given)
    except Exception as e:
        raise UsageError(
            f"{who}: '{source.model}' does not load as {source.pipeline}: {stack.first_line(e)}; without a network, "
            'config = "<a local folder of the same kind>" in the card gives what the file lacks'
        ) from e
    return getattr(diffusers, f"AutoPipelineFor{task}").from_pipe(pipe) if task and task != "Text2Image" else pipe


def _keywords(cls: type, source: Source) -> dict[str, Any]:
    """What keeps watermarkers and, unless asked for, safety checkers out, for classes that know them."""
    known = inspect.signature(cls).parameters
    wanted: dict[str, Any] = {"add_watermarker": False}
    if not source.safety_checker:
        wanted |= {"safety_checker": None, "requires_safety_checker": False}
    wanted["watermarker"] = None
    return {key: value for key, value in wanted.items() if key in known}


def _scheduler(who: str, old: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    import diffusers

    known = [n for n in dir(diffusers) if n.endswith("Scheduler")]
    if name is not None and name not in known:
        raise UsageError(f"{who}: diffusers has no scheduler '{name}'{suggest(name, known)}")
    cls = getattr(diffusers, name) if name else type(old)
    takes = inspect.signature(cls).parameters
    if unknown := sorted(set(options) - set(takes)):
        # Taken by from_config, and forgotten there.
        near = ", ".join(f"{key}{suggest(key, [*takes])}".rstrip(".") for key in unknown)
        raise UsageError(f"{who}: a {cls.__name__} does not take {near}")
    return cls.from_config(old.config, **options)
