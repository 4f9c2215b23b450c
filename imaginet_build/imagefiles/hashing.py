"""Perceptual hashes with imagehash's bits, and the ways between its `ImageHash`, plain integers and packed arrays.

pHash and dHash as Krawetz describes them and `imagehash` 4.3 computes them: the first bit in row order is the highest.
"""

from __future__ import annotations

import functools

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaginet_build.records import Facts

Grey = NDArray[np.uint8]
"""A grey image: (height, width) uint8."""

Box = tuple[float, float, float, float]
"""The part of a grey image that holds the picture: left, top, right, bottom, in pixels. The last pixel of a row decoded at 1/8
is only partly picture, where the width is no multiple of 8; taken for whole, it would cost one hash in ten its exactness."""

_TIE = 1e-6


@functools.lru_cache(maxsize=4)
def _basis(size: int) -> NDArray[np.float64]:
    """The lowest `size` rows of the unnormalised DCT-II of 4 x `size` samples, as `scipy.fftpack.dct` scales it."""
    n = 4 * size
    k, x = np.arange(size)[:, None], np.arange(n)[None, :]
    return 2 * np.cos(np.pi * k * (2 * x + 1) / (2 * n))


@functools.lru_cache(maxsize=1024)
def _lanczos(size: int, start: float, stop: float, *wanted: int) -> NDArray[np.float64]:
    """Pillow's weights for reducing `start` to `stop` of `size` samples to each of `wanted`, stacked: (size, sum of wanted),
    rounded to whole 2**-22."""
    columns = []
    for n in wanted:
        scale = (stop - start) / n
        support = 3 * max(scale, 1.0)
        for i in range(n):
            middle = start + (i + 0.5) * scale
            low, high = max(int(middle - support + 0.5), 0), min(int(middle + support + 0.5), size)
            x = 3 * (np.arange(low, high) - middle + 0.5) / support
            tap = np.zeros(size)
            tap[low:high] = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
            columns.append(tap / tap.sum())
    exact = np.stack(columns, axis=1)
    # Pillow rounds its weights to whole 2**-22 away from zero.
    whole: NDArray[np.float64] = np.trunc(exact * 2**22 + np.copysign(0.5, exact)) * 2.0**-22
    return whole


def _levels(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums rounded and clipped to grey levels, as Pillow does after each pass."""
    sums += 0.5
    np.floor(sums, out=sums)
    np.maximum(sums, 0, out=sums)
    return np.minimum(sums, 255, out=sums)


def _reduced(grey: Grey, box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The image at 32 x 32 and at 9 x 8, with Pillow's Lanczos filter: the input of pHash and of dHash.

    For the small images of a scaled decode, most of Pillow's time goes into sines. The same passes as matrix products with
    weights that are kept give the same bits, since their sums are whole numbers of 2**-22, below 2**53 of them.
    """
    height, width = grey.shape
    # Pillow takes the two passes in the other order where that is cheaper: for high images and very small ones.
    if min(width, height) >= 96 and max(width, height) <= 400 and height <= 1.5 * width:
        left, top, right, bottom = box
        rows = _levels(grey.astype(np.float64) @ _lanczos(width, left, right, 32, 9))
        both = _levels(_lanczos(height, top, bottom, 32, 8).T @ rows)
        return both[:32, :32], both[32:, 32:]
    image = Image.fromarray(grey)
    return _resized(image, (32, 32), box), _resized(image, (9, 8), box)


def _resized(image: Image.Image, size: tuple[int, int], box: Box) -> NDArray[np.float64]:
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box), dtype=np.float64)


def _bits(pixels: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """`imagehash.phash` of grey pixels already reduced to (4 x size)² and of their mirror image: (2, size²)."""
    basis = _basis(size)
    low = np.empty((2, size, size))
    low[0] = low[1] = basis @ pixels @ basis.T
    low[1, :, 1::2] *= -1
    flat = low.reshape(2, size * size)
    ordered = np.sort(flat, axis=1)
    middle = size * size // 2
    below, beyond = ordered[:, middle - 1 : middle], ordered[:, middle : middle + 1]
    above: NDArray[np.bool_] = flat > (below + beyond) / 2
    for mirrored in np.flatnonzero(beyond - below < _TIE):
        # Flat and symmetric images: the bit is rounding noise, so take imagehash's own noise, which is always the same.
        turned = np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels).astype(np.uint8)
        above[mirrored] = imagehash.phash(Image.fromarray(turned), hash_size=size).hash.ravel()
    return above


def hashes_of(grey: Grey, box: Box | None = None) -> tuple[int, int, int]:
    """pHash, pHash of the mirror image and dHash of a grey image, each 64 bits.

    `box`: given for what was decoded small, which takes the matrix route; otherwise `imagehash` itself computes pHash and
    dHash. The bits are the same.
    """
    bits = np.empty((3, 64), dtype=np.bool_)
    if box is not None:
        small, steps = _reduced(grey, box)
        bits[:2] = _bits(small, 8)
        bits[2] = (steps[:, 1:] > steps[:, :-1]).ravel()
    else:
        whole = Image.fromarray(grey)
        image = whole.resize((32, 32), Image.Resampling.LANCZOS)
        bits[1] = _bits(np.asarray(image, dtype=np.float64), 8)[1]
        bits[0], bits[2] = imagehash.phash(image).hash.ravel(), imagehash.dhash(whole).hash.ravel()
    upright, mirrored, gradient = np.packbits(bits, axis=1).view(">u8")[:, 0].tolist()
    return upright, mirrored, gradient


def confirm_bits(grey: Grey, mirrored: bool, box: Box | None = None) -> NDArray[np.uint64]:
    """The 256-bit pHash (16 x 16 coefficients) of a grey image or of its mirror image: (4,) uint64, highest bits first."""
    small = _resized(Image.fromarray(grey), (64, 64), box or (0, 0, *grey.shape[::-1]))
    return np.packbits(_bits(small, 16)[int(mirrored)]).view(">u8").astype(np.uint64)


def hash_of(facts: Facts | int) -> imagehash.ImageHash:
    """The pHash in `facts`, or a 64-bit number, as the `imagehash.ImageHash` that other tools take."""
    return int_to_hash(facts if isinstance(facts, int) else facts.phash)


def int_to_hash(value: int) -> imagehash.ImageHash:
    """A 64-bit number as an 8 x 8 `imagehash.ImageHash`: `str()` of it is the number in 16 hexadecimal digits."""
    return imagehash.hex_to_hash(f"{value:016x}")


def hash_to_int(value: imagehash.ImageHash) -> int:
    """An 8 x 8 `imagehash.ImageHash` as a number in [0, 2**64)."""
    return int(str(value), 16)
