"""What happens to images in the world, seeded: compression, resizing, blur, noise, crops, and a social network's chain.

Every draw comes from `records.random_of(id, …)`, so an image is treated alike on every run, by every worker, in any order. The
test conditions are those of the ImagiNet paper (arXiv 2407.20020): its published code draws them from worker-local state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from imaginet_build.errors import UsageError, suggest
from imaginet_build.images import decode, encode
from imaginet_build.records import random_of

__all__ = ["CONDITIONS", "EDITS", "Condition", "centre", "perturb", "recompress"]

SIDE = 256
"""The side, in pixels, of what the paper's test conditions hand to a detector."""

_SOCIAL_SIDE = 1000
_SOCIAL_CHANCE = 0.75


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to treat an image: what is done, and how strongly in that operation's own unit (`_RANGES`)."""

    name: str
    operation: str
    amount: float = 0.0


def recompress(image: Image.Image, codec: str, quality: int, subsampling: str = "4:2:0") -> Image.Image:
    """The image after one lossy encoding (jpeg or webp, quality 1-100), decoded again."""
    return decode(encode(image, codec, quality, subsampling))


def _padded(image: Image.Image, side: int) -> Image.Image:
    """The image with both sides at least `side`: evenly padded by reflection that does not repeat the border pixel."""
    wide, high = max(side - image.width, 0), max(side - image.height, 0)
    if not wide and not high:
        return image
    edges = ((high // 2, high - high // 2), (wide // 2, wide - wide // 2), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), edges, mode="reflect"))


def centre(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The square of `side` pixels in the middle, padded by reflection where the image is smaller."""
    image = _padded(image, side)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _square(image: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    left = int(random.integers(0, image.width - side + 1))
    top = int(random.integers(0, image.height - side + 1))
    return image.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((max(width, 1), max(height, 1)), Image.Resampling.LANCZOS)


def _social(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Pad to 256, crop a random square of side 256 to min(short side, 1000), resize to 256, and 3 times in 4 JPEG or WebP."""
    image = _padded(image, SIDE)
    side = int(random.integers(SIDE, min(*image.size, _SOCIAL_SIDE) + 1))
    image = _resized(_square(image, side, random), SIDE, SIDE)
    # Always the same number of draws, so that one outcome never moves another.
    chance, codec, quality = random.random(), int(random.integers(2)), int(random.integers(60, 101))
    return recompress(image, ("jpeg", "webp")[codec], quality) if chance < _SOCIAL_CHANCE else image


def _noise(image: Image.Image, amount: float, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    return Image.fromarray(np.clip(np.rint(pixels + random.normal(0, amount, pixels.shape)), 0, 255).astype(np.uint8))


def _crop(image: Image.Image, amount: float, random: np.random.Generator) -> Image.Image:
    width, height = max(round(image.width * amount), 1), max(round(image.height * amount), 1)
    left, top = int(random.integers(0, image.width - width + 1)), int(random.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _apply(image: Image.Image, operation: str, amount: float, random: np.random.Generator) -> Image.Image:
    match operation:
        # The paper's: every result is 256 x 256, and its resize sweep brings a centre crop of 256 x factor down to 256.
        case "centre":
            return centre(image)
        case "centre-jpeg" | "centre-webp":
            return recompress(centre(image), operation.removeprefix("centre-"), round(amount))
        case "centre-resize":
            return _resized(centre(image, int(SIDE * amount)), SIDE, SIDE)
        case "social":
            return _social(image, random)
        # On the whole image, at its own size.
        case "jpeg" | "webp":
            return recompress(image, operation, round(amount))
        case "resize":
            return _resized(image, round(image.width * amount), round(image.height * amount))
        case "blur":
            return image.filter(ImageFilter.GaussianBlur(amount))
        case "noise":
            return _noise(image, amount, random)
        case "crop":
            return _crop(image, amount, random)
        case "mirror":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        case _:
            return ImageEnhance.Brightness(image).enhance(amount)


_RANGES: dict[str, tuple[float, float]] = {
    "centre": (0, 0),
    "centre-jpeg": (1, 100),
    "centre-webp": (1, 100),
    "centre-resize": (1, 16),
    "social": (0, 0),
    "jpeg": (1, 100),
    "webp": (1, 100),
    "resize": (0.01, 8),
    "blur": (0, 100),
    "noise": (0, 128),
    "crop": (0.01, 1),
    "mirror": (0, 0),
    "brightness": (0, 16),
}
"""The operations and the strengths they take: quality, factor, radius in pixels, standard deviation in levels, share kept."""

CONDITIONS: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition("centre", "centre"),
        Condition("social", "social"),
        *(Condition(f"jpeg-{q}", "centre-jpeg", q) for q in range(40, 101, 5)),
        *(Condition(f"webp-{q}", "centre-webp", q) for q in range(40, 101, 5)),
        *(Condition(f"resize-12-{i}", "centre-resize", 12 / i) for i in range(2, 13)),
    )
}
"""The paper's test conditions, each giving 256 x 256 pixels, by name: the plain centre crop, the social-network chain, JPEG at
quality 40 to 100 in steps of 5 (WebP alike, ours), and reduction by 12/i for i = 2 to 12 (`resize-12-2` reduces six times)."""

EDITS: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition("recompress", "jpeg", 60),
        Condition("to-webp", "webp", 70),
        Condition("shrink", "resize", 0.5),
        Condition("soften", "blur", 1.5),
        Condition("grain", "noise", 6),
        Condition("mirror", "mirror"),
        Condition("brighten", "brightness", 1.25),
        Condition("darken", "brightness", 0.8),
        Condition("crop-95", "crop", 0.95),
        Condition("crop-90", "crop", 0.9),
    )
}
"""Edits that leave a picture the same picture: what a search for near-duplicates ought to see through (crops only in part)."""


def perturb(image: Image.Image, condition: Condition | str, id: str) -> Image.Image:
    """The image as `condition` (one of `CONDITIONS` or `EDITS` by name, or one of your own) leaves it: RGB, 8 bits.

    What is random depends on `id` and the condition's name alone. Raises `UsageError` for a name nobody knows or a strength an
    operation cannot have, and `BadImage` where a codec cannot hold the image.
    """
    known = CONDITIONS | EDITS
    if isinstance(condition, str):
        if condition not in known:
            raise UsageError(f"no condition '{condition}'{suggest(condition, known)} Known: {', '.join(known)}")
        condition = known[condition]
    _allowed(condition)
    image = image if image.mode == "RGB" else image.convert("RGB")
    return _apply(image, condition.operation, condition.amount, random_of(id, f"perturb {condition.name}"))


def _allowed(condition: Condition) -> None:
    if condition.operation not in _RANGES:
        near = suggest(condition.operation, _RANGES)
        raise UsageError(f"condition '{condition.name}' asks for '{condition.operation}', which is no operation{near}")
    low, high = _RANGES[condition.operation]
    if not low <= condition.amount <= high:
        raise UsageError(f"condition '{condition.name}': {condition.operation} takes {low} to {high}, not {condition.amount}")
