"""Any image classifier of the transformers library that tells synthetic images from real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imaginet_build.detectors import transformers_models
from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores


class Classifier:
    """`model`: a folder or a Hugging Face name. `synthetic`: which of its labels mean synthetic; every other means real.

    `native`: see `transformers_models.pixels`; false is what such classifiers were made for. Raises `UsageError` where a label
    is none of the model's or all of them are, otherwise as `transformers_models.load` does.
    """

    generators: tuple[str, ...] = ()

    def __init__(self, model: str, synthetic: list[str], native: bool = False, revision: str | None = None) -> None:
        self._network, self._processor = transformers_models.load(model, revision, "the classifier")
        self._native = native
        labels = {str(name): int(number) for number, name in self._network.config.id2label.items()}
        wrong = sorted(set(synthetic) - labels.keys())
        if wrong or not synthetic or len(set(synthetic)) == len(labels):
            said = f"'{wrong[0]}' is no label of it" if wrong else "some of its labels must mean synthetic, and some must not"
            raise UsageError(f"{model}: {said}; its labels are {', '.join(sorted(labels))}. Set `synthetic` in the card")
        self._synthetic = [labels[name] for name in synthetic]

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic) of every item: the sum over the labels that mean it."""
        import torch

        found: list[Any] = []
        with torch.inference_mode():
            for seen in transformers_models.batches(items, self._processor, self._native):
                p = self._network(pixel_values=seen.to(self._network.device)).logits.float().softmax(1)
                found.append(p[:, self._synthetic].sum(1).cpu().numpy())
        return Scores(np.concatenate(found).astype(np.float64) if found else np.empty(0))
