"""Words and pictures in one space: any transformers model with a text and an image side (CLIP, Radford et al. 2021; SigLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaginet_build.errors import MissingExtra, UsageError

Vectors = NDArray[np.float32]
BATCH = 16


class DualEncoder:
    """A dual encoder: `model` is a folder or a Hub id. `identity` names it, with its commit where it has one.

    Raises `MissingExtra` without transformers and torch, `UsageError` where there is no such model or it lacks a side.
    """

    def __init__(self, model: str) -> None:
        try:
            import torch
            from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingExtra("pairing", error.name or "transformers", "baseline") from error
        if not Path(model).is_dir() and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
            # Asking the Hub for what cannot be there takes minutes where there is no network.
            raise UsageError(f"there is no model at '{model}': give a folder that exists, or a hub id such as owner/name")
        self._torch = torch
        try:
            where = {"local_files_only": not _online(model)}
            self._words: Any = AutoTokenizer.from_pretrained(model, **where)
            self._look: Any = AutoImageProcessor.from_pretrained(model, **where)
            self._model: Any = AutoModel.from_pretrained(model, use_safetensors=True, **where).eval()
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            get = "" if Path(model).is_dir() else f"; on a machine with a network: hf download {model}"
            raise UsageError(f"'{model}' is no dual encoder that transformers can load here: {reason}{get}") from error
        if not (hasattr(self._model, "get_text_features") and hasattr(self._model, "get_image_features")):
            raise UsageError(
                f"'{model}' is a {type(self._model).__name__}, which does not put words and pictures into one space; "
                "give one that does: CLIP, SigLIP, ALIGN, ..."
            )
        commit = getattr(self._model.config, "_commit_hash", None)
        self.identity = f"{model}@{commit}" if commit else model

    def texts(self, texts: Sequence[str]) -> Vectors:
        """One vector of length 1 for each text, cut at what the model reads: (n, d)."""
        # SigLIP was trained on texts filled up to one length, and reads others badly.
        fill = "max_length" if "siglip" in self._model.config.model_type else True
        longest = min(self._words.model_max_length, _positions(self._model.config))
        found = []
        for start in range(0, len(texts), BATCH):
            some = list(texts[start : start + BATCH])
            given = self._words(some, padding=fill, truncation=True, max_length=longest, return_tensors="pt")
            with self._torch.inference_mode():
                found.append(self._unit(self._model.get_text_features(**given)))
        return np.concatenate(found)

    def images(self, pictures: Sequence[Image.Image]) -> Vectors:
        """One vector of length 1 for each RGB image: (n, d)."""
        found = []
        for start in range(0, len(pictures), BATCH):
            given = self._look(images=list(pictures[start : start + BATCH]), return_tensors="pt")
            with self._torch.inference_mode():
                found.append(self._unit(self._model.get_image_features(pixel_values=given["pixel_values"])))
        return np.concatenate(found)

    def _unit(self, seen: Any) -> Vectors:
        seen = seen if self._torch.is_tensor(seen) else seen.pooler_output
        vectors = seen.flatten(1).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise UsageError(f"'{self.identity}' answers with what are not numbers: its weights are damaged")
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _positions(config: Any) -> int:
    return int(getattr(getattr(config, "text_config", config), "max_position_embeddings", 512))


def _online(model: str) -> bool:
    """Whether the Hub must be asked, and answers; the loaders themselves try for most of a minute before they give up."""
    if Path(model).is_dir():
        return False
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return False
    try:
        HfApi().model_info(model, timeout=10)
    except HfHubHTTPError:
        raise
    except Exception as error:  # whatever its transport raises
        raise OSError(f"it is not on this machine and the hub cannot be asked ({error})") from error
    return True
