"""A linear probe: the features of a frozen vision model, and logistic regression on them (UnivFD, arXiv 2302.10174)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors import transformers_models
from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores


class Probe:
    """Any vision model of transformers (`model`: a folder or a Hugging Face name), never trained further, and a linear head.

    `native`: see `transformers_models.pixels`. `strength`: inverse of the head's regularization. It has no head of its own:
    `fit` it first. Raises as `transformers_models.load` does.
    """

    generators: tuple[str, ...] = ()

    def __init__(self, model: str, native: bool = True, strength: float = 0.01, revision: str | None = None) -> None:
        self._network, self._processor = transformers_models.load(model, revision, "the linear probe")
        self._native, self._strength = native, strength
        self._head: Any = None

    def fit(self, items: Sequence[Item], labels: npt.NDArray[np.int64]) -> None:
        """Learn from `items` with `labels` (n,), 1 for synthetic."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        head = make_pipeline(StandardScaler(), LogisticRegression(C=self._strength, max_iter=2000))
        self._head = head.fit(self.features(items), labels)

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic) of every item."""
        if self._head is None:
            raise UsageError("the linear probe has learned nothing yet; evaluate it on a release with a train split")
        p = self._head.predict_proba(self.features(items))[:, 1] if len(items) else np.empty(0)
        return Scores(np.asarray(p, np.float64))

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
