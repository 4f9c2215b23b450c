"""What generators share: the device and number format they find here, their weights, and the last look at what was drawn."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaginet_build.errors import MissingExtra, UsageError
from imaginet_build.records import Order, Refusal

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Answer = Image.Image | bytes | Refusal
_FLAT = 1.0 / 255


@dataclass(frozen=True, slots=True)
class Device:
    """Where a generator runs: `kind` cpu, cuda or mps, and the number format its weights are in."""

    kind: str
    dtype: torch.dtype

    def name(self) -> str:
        """The device as its maker calls it, with its memory: what fits into one fits into another of that name."""
        import torch

        if self.kind == "cuda":
            found = torch.cuda.get_device_properties(torch.cuda.current_device())
            return f"{found.name}, {found.total_memory / 1e9:.0f} GB"
        return f"{self.kind}, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"

    def facts(self, *packages: str) -> dict[str, Any]:
        """What decides the pixels besides the order: device kind, dtype, threads on a CPU, versions of `packages` and torch."""
        import torch

        found: dict[str, Any] = {"device": self.kind, "dtype": str(self.dtype).removeprefix("torch.")}
        if self.kind == "cpu":
            found["threads"] = torch.get_num_threads()
        for package in ("torch", *packages):
            if importlib.util.find_spec(package):
                found[package] = importlib.metadata.version(package)
        return found


def free() -> None:
    """Gives back what a failed call held on the device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def require(who: str, *packages: str) -> None:
    """Raises MissingExtra for the first package that is not installed; imports none of them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(who, package, "diffusion")


def choose(who: str, dtype: str) -> Device:
    """The device there is, and `dtype` (`auto`: bfloat16 or float16 on CUDA, float32 elsewhere), said in the log."""
    import torch

    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        chosen = torch.float32 if kind != "cuda" else torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    elif dtype in ("float32", "float16", "bfloat16"):
        chosen = getattr(torch, dtype)
    else:
        raise UsageError(f"{who}: no dtype '{dtype}'; one of auto, float32, float16, bfloat16")
    if kind == "cuda":
        # cuDNN may otherwise pick another algorithm, and so other last bits, from one call to the next.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # And float32 is to mean that: by default it rounds what it convolves to 10 bits.
        torch.backends.cudnn.allow_tf32 = False
    threads = f", {torch.get_num_threads()} thread(s)" if kind == "cpu" else ""
    log.info("%s: %s%s, %s", who, "no GPU found" if kind == "cpu" else kind, threads, str(chosen).removeprefix("torch."))
    return Device(kind, chosen)


def folder_of(model: str) -> Path | None:
    """The local folder or file that `model` names, or None for a hub id (`owner/name`)."""
    if model.startswith("bundled:"):
        path = Path(__file__).resolve().parent.parent / "models" / model.removeprefix("bundled:")
    else:
        path = Path(model).expanduser()
    if path.exists():
        return path
    if model.startswith(("bundled:", "/", ".", "~")) or model.endswith(".safetensors") or model.count("/") != 1:
        raise UsageError(
            f"there is no model at '{path}': give a folder that exists, or a hub id such as owner/name, in the card"
        )
    return None


def fetch(who: str, model: str, revision: str | None, load: Callable[[Mapping[str, Any]], Any], key: str = "model") -> Any:
    """`load(keywords)` with the weights that are here; only if they are not, with the network.

    `keywords` holds `local_files_only` and, for a hub id, `revision`. UsageError where the weights cannot be had; `key` is
    where the card names them.
    """
    if folder_of(model) is not None:
        try:
            return load({"local_files_only": True})
        except (OSError, ValueError) as e:
            raise UsageError(f"{who}: the model in '{model}' does not load: {first_line(e)}") from e
    where = {} if revision in (None, "", "unresolved") else {"revision": revision}
    try:
        return load({"local_files_only": True, **where})
    except UsageError:
        raise
    except Exception as e:  # whatever it was: the hub is asked next, and its answer is reported
        log.debug("%s: not in the local cache: %s", who, e)
    try:
        from huggingface_hub import HfApi

        # Asked once, first: the vendors' own loaders retry for most of a minute before they say that there is no network.
        HfApi().model_info(model, timeout=10, **where)
        return load({"local_files_only": False, **where})
    except UsageError:
        raise
    except Exception as e:
        at = f" --revision {where['revision']}" if where else ""
        gate = "accept its licence on its model page and run 'hf auth login', then: " if "gated" in repr(e).lower() else ""
        raise UsageError(
            f"{who}: the weights of '{model}' are not on this machine and the hub did not give them ({first_line(e)}): "
            f'{gate}hf download {model}{at}, or set {key} = "<a local folder>" in the card'
        ) from e


def commit_of(model: str, subfolder: str | None = None) -> dict[str, str]:
    """`{"revision": commit}` of a hub id whose weights were just loaded; nothing for a folder."""
    if folder_of(model) is not None:
        return {}
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, f"{subfolder}/config.json" if subfolder else "config.json")
    # …/snapshots/<commit>/[<subfolder>/]config.json
    return {"revision": Path(found).parents[1 if subfolder else 0].name} if isinstance(found, str) else {}


def first_line(error: BaseException) -> str:
    """The first line of what a vendor's error says, cut to 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def noise_of(orders: Sequence[Order]) -> list[torch.Generator]:
    """One generator per image, seeded from its order; always on the CPU, so that every device starts from the same noise."""
    import torch

    return [torch.Generator("cpu").manual_seed(order.seed) for order in orders]


def finish(pixels: NDArray[Any], facts: Mapping[str, Any], size: tuple[int, int] | None) -> Image.Image | Refusal:
    """(h, w, 3) floats in [0, 1] as an RGB image with `facts` in `info["params"]`, or why it is none.

    Refused: values that are not finite (`nan`), one flat colour (`blank`), another size than `size` (width, height), or not
    three channels (`wrong-size`).
    """
    values = np.asarray(pixels, dtype=np.float32)
    if values.ndim != 3 or values.shape[2] != 3 or (size and (values.shape[1], values.shape[0]) != size):
        wanted = f"{size[0]} x {size[1]}" if size else "three channels"
        return Refusal("wrong-size", f"the model gave an array of shape {values.shape}, {wanted} was ordered")
    if not np.isfinite(values).all():
        return Refusal("nan", f"{float(np.mean(~np.isfinite(values))):.1%} of the values are not numbers")
    # A channel at a time: ten times as fast as along the first two axes.
    if max(float(values[..., channel].std()) for channel in range(3)) < _FLAT:
        return Refusal("blank", "the whole image is one colour")
    image = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
    image.info["params"] = dict(facts)
    return image


def unit_of(vae: Any) -> int:
    """Side lengths an autoencoder takes: multiples of its down-sampling factor."""
    for key in ("spatial_compression_ratio", "scale_factor_spatial"):
        for where in (vae.config, vars(vae)):
            if isinstance(where.get(key), int):
                return int(where[key])
    blocks = next((vae.config[k] for k in ("block_out_channels", "encoder_block_out_channels") if k in vae.config), ())
    factor = 2 ** (len(blocks) - 1) if blocks else 32
    patch = vae.config.get("patch_size")
    return factor * max(patch if isinstance(patch, list | tuple) else [patch or 1])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device or the machine has no memory left."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in str(error) or "can't allocate memory" in str(error))
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and none of the vendors' warnings about what this package answers for or records itself."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    levels = ours.get_verbosity(), theirs.get_verbosity()
    ours.disable_progress_bar()
    theirs.disable_progress_bar()
    ours.set_verbosity_error()
    theirs.set_verbosity_error()
    try:
        with no_vendor_warnings():
            yield
    finally:
        ours.set_verbosity(levels[0])
        theirs.set_verbosity(levels[1])


@contextmanager
def no_vendor_warnings() -> Iterator[None]:
    """Deprecations within vendors' own code are not the user's to mend."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks.*")
        yield


def in_order(orders: Sequence[Order], answers: Mapping[int, Answer]) -> Iterator[Answer]:
    """The answers by position, one for every order; a missing one is a bug of the adapter and said so."""
    for i, order in enumerate(orders):
        yield answers.get(i) or Refusal("no-answer", f"the generator gave nothing for order {order.id}")
