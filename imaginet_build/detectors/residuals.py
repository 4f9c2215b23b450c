"""Histograms of noise residuals and logistic regression: steganalysis features, the cheapest thing that sees an upsampler.

Second-order residuals, quantized and truncated, and how neighbouring ones occur together (the spatial rich model, Fridrich and
Kodovsky 2012; SPAM, Pevny et al. 2010).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.detectors.linear import Linear
from imaginet_build.detectors.spectral import PLANES
from imaginet_build.records import Item


class Residuals(Linear):
    """How often three neighbouring residuals occur together, in `2 * most + 1` steps of `step` grey levels. `strength`: see
    `Linear`."""

    def __init__(self, step: float = 1.0, most: int = 2, strength: float = 0.1) -> None:
        super().__init__("the residual detector", strength)
        self._step, self._most = step, most

    def features(self, items: Sequence[Item]) -> npt.NDArray[np.float64]:
        """(n, 3 * (2 * most + 1) ** 3): see `histograms`."""
        return np.stack([histograms(item.image, self._step, self._most) for item in items])


def histograms(image: Image.Image, step: float, most: int) -> npt.NDArray[np.float64]:
    """(3 * (2 * most + 1) ** 3,): the square root of how often each triple of neighbouring residuals occurs, a plane each.

    Residuals are second differences along rows and along columns, counted together with their mirror images, so that turning or
    flipping an image changes nothing.
    """
    planes = np.asarray(image.convert("RGB"), np.float64) @ PLANES.T
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
