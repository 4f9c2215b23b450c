"""Histograms of noise residuals and logistic regression: steganalysis features, the cheapest thing that sees an upsampler.

Second-order residuals, quantized and truncated, and how neighbouring ones occur together (the spatial rich model, Fridrich and
Kodovsky 2012; SPAM, Pevny et al. 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores

_PLANES = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


class Residuals:
    """Co-occurrences of three neighbouring residuals in `2 * most + 1` steps of `step` grey levels. It has no weights: `fit` it
    first."""

    generators: tuple[str, ...] = ()

    def __init__(self, step: float = 1.0, most: int = 2, strength: float = 0.1) -> None:
        self._step, self._most, self._strength = step, most, strength
        self._model: Any = None

    def fit(self, items: Sequence[Item], labels: npt.NDArray[np.int64]) -> None:
        """Learn from `items` with `labels` (n,), 1 for synthetic."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=self._strength, max_iter=2000))
        self._model = model.fit(self._histograms(items), labels)

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic) of every item."""
        if self._model is None:
            raise UsageError("the residual detector has learned nothing yet; evaluate it on a release with a train split")
        p = self._model.predict_proba(self._histograms(items))[:, 1] if len(items) else np.empty(0)
        return Scores(np.asarray(p, np.float64))

    def _histograms(self, items: Sequence[Item]) -> npt.NDArray[np.float64]:
        return np.stack([histograms(item.image, self._step, self._most) for item in items])


def histograms(image: Image.Image, step: float, most: int) -> npt.NDArray[np.float64]:
    """(3 * (2 * most + 1) ** 3,): the square root of how often each triple of neighbouring residuals occurs, a plane each.

    Residuals are second differences along rows and along columns, counted together with their mirror images, so that turning or
    flipping an image changes nothing.
    """
    planes = np.asarray(image.convert("RGB"), np.float64) @ _PLANES.T
    values = 2 * most + 1
    found = []
    for plane in planes.transpose(2, 0, 1):
        counts = np.zeros(values**3)
        for lines in (plane, plane.T):
            second = lines[:, :-2] - 2 * lines[:, 1:-1] + lines[:, 2:]
            steps = np.clip(np.rint(second / (2 * step)), -most, most).astype(np.int64) + most
            triples = (steps[:, :-2] * values + steps[:, 1:-1]) * values + steps[:, 2:]
            mirrored = (steps[:, 2:] * values + steps[:, 1:-1]) * values + steps[:, :-2]
            counts += np.bincount(triples.ravel(), minlength=values**3) + np.bincount(mirrored.ravel(), minlength=values**3)
        found.append(np.sqrt(counts / max(1.0, counts.sum())))
    return np.concatenate(found)
