"""What is measured of the shipped generators: cheap figures that say whether a model is trained, memorises or collapsed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from imaginet_build.models.photographs import Photograph


def reconstruction(vae: Any, held: Sequence[Photograph]) -> dict[str, float]:
    """PSNR in dB of the centre 256 x 256 pixels of each held-out photograph, and seconds for one such crop."""
    import torch

    result: dict[str, float] = {}
    begun = time.monotonic()
    for photograph in held:
        height, width = photograph.pixels.shape[:2]
        top, left = (height - 256) // 2, (width - 256) // 2
        crop = photograph.pixels[top : top + 256, left : left + 256]
        x = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            y = vae.decode(vae.encode(x).latent).sample.clamp(-1, 1)
        result[f"psnr_db {photograph.name}"] = round(float(10 * torch.log10(4 / (x - y).square().mean())), 2)
    result["seconds_per_image_256px"] = round((time.monotonic() - begun) / len(held), 4)
    return result


def likeness(drawn: np.ndarray, train: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """Drawn images beside training crops and crops of held-out photographs; each (n, h, w, 3) uint8.

    `nearest`: mean distance to the nearest training crop at 16 x 16 pixels, over the same for held-out crops: near 0
    means memorised, 1 as far from the training data as new photographs. `spread`: mean distance between drawn images,
    over the same for training crops: near 0 means collapsed. `spectrum`: mean absolute difference of the radial log10 power
    spectra of drawn images and training crops (0: alike).
    """
    small = [_reduce(x, 16) for x in (drawn, train, held)]
    apart = [
        np.sqrt(((s[:64, None] - s[None, :64]) ** 2).mean(-1)).sum() / (min(len(s), 64) * (min(len(s), 64) - 1)) for s in small
    ]
    near = [np.mean([np.sqrt(((small[1] - row) ** 2).mean(-1)).min() for row in s]) for s in (small[0], small[2])]
    spectra = [_spectrum(x[:256]) for x in (drawn, train)]
    return {
        "nearest": round(float(near[0] / near[1]), 3),
        "spread": round(float(apart[0] / apart[1]), 3),
        "spectrum": round(float(np.abs(spectra[0] - spectra[1]).mean()), 3),
    }


def _reduce(x: np.ndarray, size: int) -> np.ndarray:
    """Box-filtered to size x size and flattened, float32."""
    n, height, width, _ = x.shape
    blocks = x.reshape(n, size, height // size, size, width // size, 3)
    flat: np.ndarray = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)
    return flat


def _spectrum(x: np.ndarray) -> np.ndarray:
    """The mean log10 power per ring of spatial frequency, of the grey image."""
    grey = x.astype(np.float32).mean(-1)
    power = np.log10(np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2 + 1).mean(0)
    side = grey.shape[1]
    f = np.fft.fftfreq(side) * side
    ring = np.hypot(f[:, None], f[None, :]).astype(int)
    inside = ring < side // 2
    mean: np.ndarray = np.bincount(ring[inside], power[inside]) / np.bincount(ring[inside])
    return mean
