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

_TIE = 1e-6


@functools.lru_cache(maxsize=4)
def _basis(size: int) -> NDArray[np.float64]:
    """The lowest `size` rows of the unnormalised DCT-II of 4 x `size` samples, as `scipy.fftpack.dct` scales it."""
    n = 4 * size
    k, x = np.arange(size)[:, None], np.arange(n)[None, :]
    return 2 * np.cos(np.pi * k * (2 * x + 1) / (2 * n))


@functools.lru_cache(maxsize=1024)
def _lanczos(size: int, *wanted: int) -> NDArray[np.float64]:
    """Pillow's weights for reducing `size` samples to each of `wanted`, stacked: (size, sum of wanted), in units of 2**-22."""
    columns = []
    for n in wanted:
        scale = size / n
        support = 3 * max(scale, 1.0)
        for i in range(n):
            middle = (i + 0.5) * scale
            low, high = max(int(middle - support + 0.5), 0), min(int(middle + support + 0.5), size)
            x = 3 * (np.arange(low, high) - middle + 0.5) / support
            tap = np.zeros(size)
            tap[low:high] = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
            columns.append(tap / tap.sum())
    exact = np.stack(columns, axis=1)
    # Pillow rounds its weights to whole 2**-22 away from zero.
    whole: NDArray[np.float64] = np.trunc(exact * 2**22 + np.copysign(0.5, exact))
    return whole


def _levels(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums in units of 2**-22, rounded and clipped to grey levels as Pillow does after each pass."""
    return np.minimum(np.maximum(np.floor(sums * 2.0**-22 + 0.5), 0), 255)


def _reduced(grey: Image.Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The image at 32 x 32 and at 9 x 8, with Pillow's Lanczos filter: the input of pHash and of dHash.

    For the small images of a scaled decode, most of Pillow's time goes into sines. The same passes as matrix products with
    weights that are kept give the same bits, since their sums are whole numbers below 2**53.
    """
    width, height = grey.size
    # Pillow takes the two passes in the other order where that is cheaper: for high images and very small ones.
    if min(width, height) >= 96 and max(width, height) <= 400 and height <= 1.5 * width:
        rows = _levels(np.asarray(grey, dtype=np.float64) @ _lanczos(width, 32, 9))
        return _levels(_lanczos(height, 32).T @ rows[:, :32]), _levels(_lanczos(height, 8).T @ rows[:, 32:])
    small, steps = (np.asarray(grey.resize(size, Image.Resampling.LANCZOS), dtype=np.float64) for size in ((32, 32), (9, 8)))
    return small, steps


def _bits(pixels: NDArray[np.float64], size: int, mirrored: bool) -> NDArray[np.bool_]:
    """`imagehash.phash` of grey pixels already reduced to (4 x size)², or of their mirror image, by two matrix products."""
    basis = _basis(size)
    low = basis @ pixels @ basis.T
    if mirrored:
        low[:, 1::2] *= -1
    flat = np.sort(low, axis=None)
    below, beyond = float(flat[size * size // 2 - 1]), float(flat[size * size // 2])
    median = (below + beyond) / 2
    if beyond - below < _TIE:
        # Flat and symmetric images: the bit is rounding noise, so take imagehash's own noise, which is always the same.
        image = Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels).astype(np.uint8))
        return np.asarray(imagehash.phash(image, hash_size=size).hash)
    above: NDArray[np.bool_] = low > median
    return above


def hashes_of(grey: Image.Image, fast: bool) -> tuple[int, int, int]:
    """pHash, pHash of the mirror image and dHash of a grey image, each 64 bits.

    `fast` takes the matrix route, otherwise `imagehash` itself computes pHash and dHash; the bits are the same.
    """
    if fast:
        small, steps = _reduced(grey)
        bits, rising = _bits(small, 8, mirrored=False), steps[:, 1:] > steps[:, :-1]
    else:
        image = grey.resize((32, 32), Image.Resampling.LANCZOS)
        small = np.asarray(image, dtype=np.float64)
        bits, rising = imagehash.phash(image).hash, imagehash.dhash(grey).hash
    return _packed(bits), _packed(_bits(small, 8, mirrored=True)), _packed(rising)


def confirm_bits(grey: Image.Image, mirrored: bool) -> NDArray[np.uint64]:
    """The 256-bit pHash (16 x 16 coefficients) of a grey image or of its mirror image: (4,) uint64, highest bits first."""
    small = np.asarray(grey.resize((64, 64), Image.Resampling.LANCZOS), dtype=np.float64)
    bits = _bits(small, 16, mirrored)
    return np.packbits(bits.ravel()).view(">u8").astype(np.uint64)


def _packed(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def hash_of(facts: Facts | int) -> imagehash.ImageHash:
    """The pHash in `facts`, or a 64-bit number, as the `imagehash.ImageHash` that other tools take."""
    return int_to_hash(facts if isinstance(facts, int) else facts.phash)


def int_to_hash(value: int) -> imagehash.ImageHash:
    """A 64-bit number as an 8 x 8 `imagehash.ImageHash`: `str()` of it is the number in 16 hexadecimal digits."""
    return imagehash.hex_to_hash(f"{value:016x}")


def hash_to_int(value: imagehash.ImageHash) -> int:
    """An 8 x 8 `imagehash.ImageHash` as a number in [0, 2**64)."""
    return int(str(value), 16)
