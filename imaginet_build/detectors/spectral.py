"""Azimuthally averaged power spectra and logistic regression: the classic that a network should beat (Durall et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.detectors.linear import Linear
from imaginet_build.records import Item

PLANES = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
"""Luma, blue and red difference (ITU-R BT.601, as in JFIF) of red, green and blue."""


class Spectral(Linear):
    """Log power over `bins` rings of spatial frequency, of luma and chroma, averaged over windows of `side` pixels. `strength`:
    see `Linear`."""

    def __init__(self, side: int = 96, bins: int = 32, strength: float = 0.1) -> None:
        super().__init__("the spectral detector", strength)
        self._side, self._bins = side, bins

    def features(self, items: Sequence[Item]) -> npt.NDArray[np.float64]:
        """(n, 3 * bins): see `spectrum`."""
        return np.stack([spectrum(item.image, self._side, self._bins) for item in items])


def spectrum(image: Image.Image, side: int, bins: int) -> npt.NDArray[np.float64]:
    """(3 * bins,): log mean power of each ring from 0 to half a cycle a pixel, for luma, blue and red difference.

    Windows of `side` pixels (or the image's shorter side) lie on an even grid over the image, under a Hann window.
    """
    planes = np.asarray(image.convert("RGB"), np.float64) @ PLANES.T
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
