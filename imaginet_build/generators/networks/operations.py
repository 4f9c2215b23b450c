"""The few operations that style-based generators are made of, as functions of tensors. Sizes: n images, i or o channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SQRT2 = 2.0**0.5
TINY = 1e-8


def dense(x: Tensor, weight: Tensor, bias: Tensor, rate: float = 1.0) -> Tensor:
    """A fully connected layer with an equalised learning rate (arXiv:1710.10196, 4.1): weights are scaled at run time."""
    y: Tensor = x @ (weight * (rate / weight.shape[1] ** 0.5)).T + bias * rate
    return y


def leaky(x: Tensor, gain: float = SQRT2, clamp: float | None = None) -> Tensor:
    """Leaky ReLU of slope 0.2, scaled to keep the variance, and cut to +-`clamp`."""
    from torch.nn import functional

    y = functional.leaky_relu(x, 0.2) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def unit(x: Tensor) -> Tensor:
    """Every vector along dimension 1 scaled to a mean square of 1."""
    y: Tensor = x * (x.square().mean(1, keepdim=True) + TINY).rsqrt()
    return y


def resample(
    x: Tensor, taps: Tensor | None, *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0), gain: float = 1.0
) -> Tensor:
    """Zeros put between samples (`up` - 1 after each), padded on both axes (negative: cropped), convolved with `taps`, and
    every `down`-th sample kept.

    `taps`: (k,) for both axes in turn, or (k, k), or None. `padding`: samples before and after, at the raised rate.
    """
    from torch.nn import functional

    if taps is None or taps.ndim == 2:
        x = _spread(_spread(x, 3, up, padding), 2, up, padding)
        if taps is None:
            return x[..., ::down, ::down] * gain
        return functional.conv2d(x, _each(taps.flip(0, 1), x), stride=down, groups=x.shape[1]) * gain
    # One axis after the other, and each spread only when its turn comes: half the work of spreading both first.
    flipped = taps.flip(0) * gain**0.5
    x = functional.conv2d(_spread(x, 3, up, padding), _each(flipped[None], x), stride=(1, down), groups=x.shape[1])
    return functional.conv2d(_spread(x, 2, up, padding), _each(flipped[:, None], x), stride=(down, 1), groups=x.shape[1])


def _spread(x: Tensor, axis: int, up: int, padding: tuple[int, int]) -> Tensor:
    """Zeros between the samples of one axis, and around them."""
    from torch.nn import functional

    if up > 1:
        size = list(x.shape)
        size[axis] *= up
        spread = x.new_zeros(size)
        spread.movedim(axis, -1)[..., ::up] = x.movedim(axis, -1)
        x = spread
    return functional.pad(x, (*[0] * (2 * (3 - axis)), *padding))


def _each(taps: Tensor, x: Tensor) -> Tensor:
    """The same taps (a, b) for every channel of `x`. Correlation with flipped taps is convolution."""
    return taps.to(x.dtype).expand(x.shape[1], 1, *taps.shape)


def modulated(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    padding: int = 0,
    gain: Tensor | float = 1.0,
    doubled: bool = False,
) -> Tensor:
    """A convolution whose weights (o, i, k, k) are scaled by each image's `style` (n, i), and by their norm afterwards.

    StyleGAN2's (arXiv:1912.04958, section 2.2), computed by scaling what goes in and what comes out, which is the same and
    needs no weights of its own for each image. `doubled`: zeros between samples first: n x n becomes (2n + 1) x (2n + 1).
    """
    from torch.nn import functional

    y = x * (style * gain)[:, :, None, None]
    if doubled:
        y = functional.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
    else:
        y = functional.conv2d(y, weight, padding=padding)
    if demodulate:
        energy = style.square() @ weight.square().sum((2, 3)).T
        y = y * (energy + TINY).rsqrt()[:, :, None, None]
    return y
