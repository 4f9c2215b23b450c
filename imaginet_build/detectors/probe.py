"""A linear probe: the features of a frozen vision model, and logistic regression on them (UnivFD, arXiv 2302.10174)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors import transformers_models
from imaginet_build.detectors.linear import Linear
from imaginet_build.records import Item


class Probe(Linear):
    """Any vision model of transformers (`model`: a folder or a Hugging Face name), never trained further, and a linear head.

    `native`: see `transformers_models.pixels`. `strength`: see `Linear`. Raises as `transformers_models.load` does.
    """

    def __init__(self, model: str, native: bool = True, strength: float = 0.01, revision: str | None = None) -> None:
        super().__init__("the linear probe", strength)
        self._network, self._processor = transformers_models.load(model, revision, "the linear probe")
        self._native = native

    def features(self, items: Sequence[Item]) -> npt.NDArray[np.float64]:
        """(n, features): the model's image embedding, else its pooled output, else its first token."""
        import torch

        found = []
        with torch.inference_mode():
            for seen in transformers_models.batches(items, self._processor, self._native):
                found.append(_embedding(self._network, seen.to(self._network.device)).float().cpu().numpy())
        return np.concatenate(found).astype(np.float64)


def _embedding(network: Any, seen: Any) -> Any:
    if hasattr(network, "get_image_features"):
        answer = network.get_image_features(pixel_values=seen)
    else:
        headed = type(network).__name__.endswith("ForImageClassification")
        answer = (network.base_model if headed else network)(pixel_values=seen)
    pooled = getattr(answer, "pooler_output", answer)
    pooled = answer.last_hidden_state[:, 0] if pooled is None else pooled
    return pooled.flatten(1)
