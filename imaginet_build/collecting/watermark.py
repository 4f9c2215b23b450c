"""The invisible watermarks that Stable Diffusion's and FLUX's own programs put into their images, looked for in the pixels.

Read with the package `invisible-watermark` where it is installed. It is in no extra of this package: as soon as it can be
imported, diffusers marks what SDXL draws. They survive neither a resize nor JPEG: a mark found is a proof, none found is not.
"""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
from PIL import Image

PACKAGE = "imwatermark"
INSTALL = "pip install invisible-watermark, in an environment in which nothing is drawn: diffusers marks SDXL's images with it"

_SDXL = 0b101100111110110010010000011110111011000110011110
_FLUX = 0b001010101111111010000111100111001111010100101110
MARKS = {
    "SDXL": [_SDXL >> bit & 1 for bit in range(47, -1, -1)],
    "FLUX.1": [_FLUX >> bit & 1 for bit in range(47, -1, -1)],
    "Stable Diffusion 1": [byte >> bit & 1 for byte in b"StableDiffusionV1" for bit in range(7, -1, -1)],
    "Stable Diffusion 2": [byte >> bit & 1 for byte in b"SDV2" for bit in range(7, -1, -1)],
}
"""The bits each program writes, as its own source has them."""

AGREEING = 0.9
"""The share of bits that must agree. 48 random bits do so once in a billion, the 32 of Stable Diffusion 2 once in a million."""

_LEAST_PIXELS = 256 * 256


def available() -> bool:
    """Whether the check can be made here."""
    return importlib.util.find_spec(PACKAGE) is not None


def look(image: Image.Image) -> str | None:
    """The program whose watermark an RGB image carries, if one does. Raises `ImportError` without the package."""
    if image.width * image.height < _LEAST_PIXELS:
        return None
    decoder = importlib.import_module(PACKAGE).WatermarkDecoder

    pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
    for name, bits in MARKS.items():
        found = np.asarray(decoder("bits", len(bits)).decode(pixels, "dwtDct"), dtype=bool)
        if float(np.mean(found == np.array(bits, dtype=bool))) >= AGREEING:
            return name
    return None
