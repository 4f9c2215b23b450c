"""What a GAN is trained against: a small discriminator, and augmentations the gradient passes through."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def discriminator() -> nn.Module:
    """(n, 3, 128, 128) to (n, 25) scores of overlapping patches, every layer spectrally normalised (arXiv:1802.05957)."""
    from torch import nn
    from torch.nn.utils.parametrizations import spectral_norm

    layers: list[nn.Module] = [nn.PixelUnshuffle(2), spectral_norm(nn.Conv2d(12, 32, 3, padding=1)), nn.LeakyReLU(0.2)]
    for low, high in pairwise((32, 64, 128, 192)):
        layers += [spectral_norm(nn.Conv2d(low, high, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
    layers += [spectral_norm(nn.Conv2d(192, 192, 3, padding=1)), nn.LeakyReLU(0.2)]
    layers += [spectral_norm(nn.Conv2d(192, 1, 4)), nn.Flatten()]
    return nn.Sequential(*layers)


def augment(x: torch.Tensor) -> torch.Tensor:
    """DiffAugment: random brightness, saturation and contrast, a shift by up to 1/8, one grey square (arXiv:2006.10738)."""
    import torch
    from torch.nn import functional

    n, _, height, width = x.shape
    one = (n, 1, 1, 1)
    x = x + 0.6 * (torch.rand(one) - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (2 * torch.rand(one)) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * (0.5 + torch.rand(one)) + mean
    reach = height // 8
    padded = functional.pad(x, (reach,) * 4)
    down, right = torch.randint(0, 2 * reach + 1, (2, n)).tolist()
    x = torch.stack([p[:, i : i + height, j : j + width] for p, i, j in zip(padded, down, right, strict=True)])
    side = height // 3
    keep = torch.ones(n, 1, height, width)
    for k, (i, j) in enumerate(zip(*torch.randint(0, height - side, (2, n)).tolist(), strict=True)):
        keep[k, :, i : i + side, j : j + side] = 0
    return x * keep
