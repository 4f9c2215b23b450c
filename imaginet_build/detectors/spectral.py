"""Azimuthally averaged power spectra and logistic regression: the classic that a network should beat (Durall et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores

_PLANES = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


class Spectral:
    """Log power over `bins` rings of spatial frequency, of luma and chroma, averaged over windows of `side` pixels. It has no
    weights: `fit` it first."""

    generators: tuple[str, ...] = ()

    def __init__(self, side: int = 96, bins: int = 32, strength: float = 0.1) -> None:
        self._side, self._bins, self._strength = side, bins, strength
        self._model: Any = None

    def fit(self, items: Sequence[Item], labels: npt.NDArray[np.int64]) -> None:
        """Learn from `items` with `labels` (n,), 1 for synthetic."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=self._strength, max_iter=2000))
        self._model = model.fit(self._spectra(items), labels)

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic) of every item."""
        if self._model is None:
            raise UsageError("the spectral detector has learned nothing yet; evaluate it on a release with a train split")
        p = self._model.predict_proba(self._spectra(items))[:, 1] if len(items) else np.empty(0)
        return Scores(np.asarray(p, np.float64))

    def _spectra(self, items: Sequence[Item]) -> npt.NDArray[np.float64]:
        return np.stack([spectrum(item.image, self._side, self._bins) for item in items])


def spectrum(image: Image.Image, side: int, bins: int) -> npt.NDArray[np.float64]:
    """(3 * bins,): log mean power of each ring from 0 to half a cycle a pixel, for luma, blue and red difference.

    Windows of `side` pixels (or the image's shorter side) lie on an even grid over the image, under a Hann window.
    """
    planes = np.asarray(image.convert("RGB"), np.float64) @ _PLANES.T
    height, width = planes.shape[:2]
    side = min(side, height, width)
    tops, lefts = (np.linspace(0, length - side, min(3, -(-length // side))).astype(int) for length in (height, width))
    taper = np.hanning(side)[:, None] * np.hanning(side)[None]
    power = np.zeros((3, side, side // 2 + 1))
    for top in tops:
        for left in lefts:
            window = planes[top : top + side, left : left + side].transpose(2, 0, 1)
            window = (window - window.mean((1, 2), keepdims=True)) * taper
            power += np.abs(np.fft.rfft2(window)) ** 2
    power /= len(tops) * len(lefts) * side * side
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    ring = np.minimum((radius / 0.5 * bins).astype(int), bins - 1).ravel()
    size = np.maximum(np.bincount(ring, minlength=bins), 1)
    return np.concatenate([np.log(np.bincount(ring, p.ravel(), bins) / size + 1e-6) for p in power])
