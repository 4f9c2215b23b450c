"""Cheap looks at the pixels, reported beside the no-pixel probes and never part of the gate.

A radial spectrum may tell the classes apart: that is the task. A thumbnail, colours or a border should not: that is
the choice of motifs. The grid phase and the traces of an earlier JPEG pass say what the `equalized` view could not make undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = npt.NDArray[np.float64]

PIXEL_PROBES: dict[str, int] = {
    "thumbnail": 64,
    "colours": 13,
    "jpeg_grid": 18,
    "double_compression": 18,
    "spectrum": 16,
    "borders": 8,
}
"""The probes and how many numbers each has."""

EXPECTED: dict[str, str] = {
    "bytes_per_pixel": "may tell: how well a picture compresses speaks of its texture",
    "thumbnail": "should not tell: 64 grey values hold the motif alone; above chance the classes show different things",
    "colours": "should not tell: above chance the classes differ in light, palette or processing",
    "jpeg_grid": "should not tell: above chance the classes were compressed, cut or shifted differently before",
    "double_compression": "should not tell: what it reaches is an earlier JPEG pass of one class that no crop undoes",
    "spectrum": "may tell: traces of a generator in the frequencies are what a detector is for",
    "borders": "should not tell: above chance one class has frames, padding or scanned edges",
    "pixels": "may tell, since it holds the spectrum: all pixel probes together",
    "words": "should not tell: above chance the captions of the two classes speak of different things",
    "embedding": "should not tell more than a detector may know: above chance the classes differ in content or style",
}
"""What each probe beside the gate sees and whether it may tell the classes apart."""

JOINT = "pixels"
"""All of PIXEL_PROBES together."""

SIDE = 512
"""Only the middle of a larger image is looked at, cut on the 8-pixel grid so that its phase stays."""

_MODES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0))  # the first AC coefficients of a block


def pixel_facts(image: Image) -> dict[str, list[float]]:
    """The numbers of every probe for an upright RGB image: finite floats, `PIXEL_PROBES[name]` of them each."""
    from PIL.Image import Resampling

    left, top = ((max(0, side - SIDE) // 2) // 8 * 8 for side in image.size)
    middle = image.crop((left, top, min(left + SIDE, image.width), min(top + SIDE, image.height)))
    rgb = np.asarray(middle, np.uint8)
    grey = np.asarray(middle.convert("L"), np.float64)
    found = {
        "thumbnail": np.asarray(image.convert("L").resize((8, 8), Resampling.BOX), np.float64).ravel() / 255,
        "colours": _colours(rgb),
        "jpeg_grid": _grid(grey),
        "double_compression": _double_compression(grey),
        "spectrum": _spectrum(grey),
        "borders": _borders(np.asarray(image.convert("L"), np.float64)),
    }
    return {name: [float(v) for v in np.nan_to_num(numbers)] for name, numbers in found.items()}


def _colours(rgb: npt.NDArray[np.uint8]) -> Floats:
    """Mean, deviation and skewness of each channel, saturation's mean and deviation, shares of black and white pixels."""
    levels = np.arange(256.0)
    planes = [np.ascontiguousarray(rgb[:, :, c]).ravel() for c in range(3)]
    counts = np.stack([np.bincount(plane, minlength=256) for plane in planes]) / planes[0].size
    mean = counts @ levels
    away = levels[None, :] - mean[:, None]
    deviation = np.sqrt((counts * away**2).sum(axis=1))
    skew = (counts * away**3).sum(axis=1) / np.maximum(deviation, 1) ** 3
    high = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    low = np.minimum(np.minimum(planes[0], planes[1]), planes[2])
    spread = np.bincount(high - low, minlength=256) / high.size
    middle = spread @ levels
    clipped = [(high == 0).mean(), (low == 255).mean()]
    return np.concatenate([mean, deviation, skew, [middle, np.sqrt(spread @ (levels - middle) ** 2)], clipped])


def _steps(grey: Floats) -> Floats:
    """How much larger the step at each of the eight column phases is than the steps beside it, (8,)."""
    if grey.shape[1] < 12:
        return np.zeros(8)
    step = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    extra = step[1:-1] - (step[:-2] + step[2:]) / 2  # entry x: between columns x + 1 and x + 2
    phase = (np.arange(len(extra)) + 2) % 8
    by_phase = np.bincount(phase, extra, minlength=8) / np.maximum(np.bincount(phase, minlength=8), 1)
    return np.asarray(by_phase / max(float(step.mean()), 1e-3), np.float64)


def _grid(grey: Floats) -> Floats:
    """Blockiness at each phase across and down, and how far its peak stands out (Fan and de Queiroz 2003)."""
    across, down = _steps(grey), _steps(grey.T)
    return np.concatenate([across, down, [across.max() - np.median(across), down.max() - np.median(down)]])


def _double_compression(grey: Floats) -> Floats:
    """Traces of earlier quantization in block DCT coefficients, on the grid that shows most.

    For nine low frequencies how periodic the histogram is (Popescu and Farid 2004), then the shares of the nine first digits
    (Fu et al. 2007).
    """
    from scipy.fft import dctn

    left, top = int(_steps(grey).argmax()), int(_steps(grey.T).argmax())
    cut = grey[top:, left:]
    down, across = cut.shape[0] // 8, cut.shape[1] // 8
    if min(down, across) < 2:
        return np.zeros(18)
    blocks = cut[: down * 8, : across * 8].reshape(down, 8, across, 8).swapaxes(1, 2) - 128
    coefficients = dctn(blocks, axes=(2, 3), norm="ortho")
    peaks, seen = [], []
    for row, column in _MODES:
        values = coefficients[:, :, row, column].ravel()
        histogram = np.histogram(values, bins=128, range=(-64, 64))[0].astype(np.float64)
        power = np.abs(np.fft.rfft(histogram))
        peaks.append(power[8:].max() / max(float(power[0]), 1.0))
        seen.append(np.abs(values[np.abs(values) >= 1]))
    digits = np.concatenate(seen)
    first = np.floor(digits / 10 ** np.floor(np.log10(digits))) if digits.size else digits
    return np.concatenate([peaks, [(first == d).sum() / max(digits.size, 1) for d in range(1, 10)]])


def _spectrum(grey: Floats) -> Floats:
    """Log power in sixteen rings of spatial frequency up to Nyquist, less their mean, of a Hann-windowed square."""
    side = min(256, *grey.shape)
    if side < 16:
        return np.zeros(16)
    top, left = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
    square = grey[top : top + side, left : left + side]
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((square - square.mean()) * window[:, None] * window[None, :])) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    ring = np.minimum((frequency * 32).astype(np.int64), 16)  # 16: the corners past Nyquist
    mean = np.bincount(ring.ravel(), power.ravel(), minlength=17)[:16] / np.maximum(
        np.bincount(ring.ravel(), minlength=17)[:16], 1
    )
    log = np.log(mean + 1e-3)
    return np.asarray(log - log.mean(), np.float64)


def _borders(grey: Floats) -> Floats:
    """Deviation along each outermost line, and how far it lies from the line eight pixels further in."""
    if min(grey.shape) < 18:
        return np.zeros(8)
    outer = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    inner = (grey[8], grey[-9], grey[:, 8], grey[:, -9])
    return np.array([o.std() for o in outer] + [np.abs(o - i).mean() for o, i in zip(outer, inner, strict=True)])
