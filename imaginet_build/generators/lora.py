"""A LoRA on top of a pipeline (Hu et al., arXiv:2106.09685): found, proved to fit, fused into the weights, and named."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imaginet_build.errors import UsageError
from imaginet_build.generators import stack

_USUAL = "pytorch_lora_weights.safetensors"
_MISFIT = ("unexpected keys", "missing keys")


def add(who: str, pipe: Any, lora: str, scale: float, file: str | None, revision: str | None) -> dict[str, Any]:
    """Fuses `lora` (a safetensors file, a folder or a hub id; `file`: which one of several) into `pipe` at `scale`.

    Gives what belongs into a record: the LoRA, its scale, the SHA-256 of its file and, of a hub id, its commit. `UsageError`
    where it is not here, is no safetensors, or does not fit this pipeline whole: diffusers only warns, and draws without it.
    """
    stack.require(who, "peft")
    if not hasattr(pipe, "load_lora_weights"):
        raise UsageError(f"{who}: a {type(pipe).__name__} takes no LoRA")
    path = _file(who, lora, file, revision)
    with _warnings() as said:
        try:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as e:
            reason = " ".join(str(e).split())[:240]  # torch says what does not fit in its second line
            raise UsageError(f"{who}: the LoRA '{lora}' does not load into a {type(pipe).__name__}: {reason}") from e
    misfits = [line for line in said if any(words in line for words in _MISFIT)]
    if misfits or not any(pipe.get_list_adapters().values()):
        reason = misfits[0].splitlines()[0][:200] if misfits else "none of its weights belongs to a part of this pipeline"
        raise UsageError(f"{who}: the LoRA '{lora}' was made for another model than a {type(pipe).__name__}: {reason}")
    pipe.fuse_lora(lora_scale=scale)
    # Fused weights need no adapter beside them: without it, nothing is added a second time and offloading moves less.
    pipe.unload_lora_weights()
    facts = {"lora": lora, "lora_scale": scale, "lora_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    commit = path.parent.name if path.parent.parent.name == "snapshots" else None
    return facts | ({"lora_revision": commit} if commit else {})


def _file(who: str, lora: str, name: str | None, revision: str | None) -> Path:
    """The one safetensors file that is meant."""
    place = stack.folder_of(lora)
    if place is None:
        stack.require(who, "huggingface_hub")
        from huggingface_hub import snapshot_download

        def get(where: Mapping[str, Any]) -> Path:
            return Path(snapshot_download(lora, allow_patterns=[name or "*.safetensors"], **where))

        place = stack.fetch(who, lora, revision, get, key="lora")
    found = [place] if place.is_file() else sorted(place.glob(name or "*.safetensors"))
    if len(found) > 1:
        found = [path for path in found if path.name == _USUAL] or found
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{who}: the LoRA '{lora}' has several files; write one into the card as lora_file: {names}")
    if not found or found[0].suffix != ".safetensors":
        raise UsageError(f"{who}: the LoRA '{lora}' has no safetensors{f' {name}' if name else ''}; pickles are refused")
    return found[0]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What diffusers warns of meanwhile, in place of its own printing."""
    from diffusers.utils import logging as theirs

    said: list[str] = []

    class Listen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    root, listener, level = logging.getLogger("diffusers"), Listen(logging.WARNING), theirs.get_verbosity()
    theirs.set_verbosity_warning()
    theirs.disable_default_handler()
    root.addHandler(listener)
    try:
        yield said
    finally:
        root.removeHandler(listener)
        theirs.enable_default_handler()
        theirs.set_verbosity(level)
