"""What a training crop goes through. Every choice comes from one random generator, in a fixed order.

`paper` is the published recipe (arXiv 2407.20020): with probability 0.5 one of JPEG or WebP (quality 50-95), Gaussian blur
(kernel 3, 5 or 7) and Gaussian noise (variance 3-10), then a quarter turn and a flip with probability 0.33 each. `light` is
for short runs on few images: recompression with probability 0.3, blur with 0.1, any of the eight orientations.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Augmentation = Literal["paper", "light", "none"]


def augment(crop: Pixels, kind: Augmentation, random: np.random.Generator) -> Pixels:
    """The crop (h, w, 3) as the network will see it; a square one keeps its shape."""
    if kind == "none":
        return crop
    if kind == "light":
        chance = random.random()
        if chance < 0.3:
            crop = recompress(crop, random, 60)
        elif chance < 0.4:
            crop = blur(crop, int(random.integers(1, 3)) * 2 + 1)
        turns, flip = int(random.integers(4)), random.random() < 0.5
    else:
        if random.random() < 0.5:
            which = int(random.integers(3))
            if which == 0:
                crop = recompress(crop, random, 50)
            elif which == 1:
                crop = blur(crop, int(random.integers(1, 4)) * 2 + 1)
            else:
                crop = noise(crop, float(random.uniform(3, 10)), random)
        turns = int(random.integers(1, 4)) if random.random() < 0.33 else 0
        flip = random.random() < 0.33
    crop = np.rot90(crop, turns)
    return crop[:, ::-1] if flip else crop


def recompress(crop: Pixels, random: np.random.Generator, lowest: int) -> Pixels:
    """One pass of JPEG or WebP, quality uniform in [lowest, 95]."""
    codec = "JPEG" if random.random() < 0.5 else "WEBP"
    held = io.BytesIO()
    # WebP's method 1 is three times as quick as its default and differs in bytes, not in kind.
    options = {"method": 1} if codec == "WEBP" else {}
    Image.fromarray(crop).save(held, codec, quality=int(random.integers(lowest, 96)), **options)
    return np.asarray(Image.open(held).convert("RGB"))


def blur(crop: Pixels, kernel: int) -> Pixels:
    """Gaussian blur of an odd kernel side; its sigma is the one OpenCV derives from the kernel, as the published code did."""
    from scipy.ndimage import gaussian_filter1d

    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    soft: npt.NDArray[np.float32] = crop.astype(np.float32)
    for axis in (0, 1):
        soft = gaussian_filter1d(soft, sigma, axis=axis, radius=kernel // 2, mode="mirror")
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


def noise(crop: Pixels, variance: float, random: np.random.Generator) -> Pixels:
    """Additive Gaussian noise, independent for each sample; variance in squared 8-bit steps."""
    loud = crop + random.normal(0, np.sqrt(variance), crop.shape)
    return np.clip(np.rint(loud), 0, 255).astype(np.uint8)
