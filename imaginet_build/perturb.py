"""What happens to images in the world, seeded: compression, resizing, blur, noise, crops, and a social network's chain.

Every draw comes from `records.random_of(id, …)`, so an image is treated alike on every run, by every worker, in any order. The
test conditions are those of the ImagiNet paper (arXiv 2407.20020): its published code draws them from worker-local state.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from imaginet_build.errors import UsageError, suggest
from imaginet_build.images import decode, encode
from imaginet_build.records import random_of

__all__ = ["CONDITIONS", "EDITS", "Condition", "centre", "perturb", "perturbed_file", "recompress"]

SIDE = 256
"""The side, in pixels, of what the paper's test conditions hand to a detector."""

_SOCIAL_SIDE = 1000
_SOCIAL_CHANCE = 0.75
_SOCIAL_QUALITIES = (60, 100)
_RLE = 3

Coding = tuple[str, int] | None
"""The lossy encoding that comes last, codec and quality; None where the pixels are left as they are."""


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
    across, down = random.random(2)
    left, top = int(across * (image.width - side + 1)), int(down * (image.height - side + 1))
    return image.crop((left, top, left + side, top + side))


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((max(width, 1), max(height, 1)), Image.Resampling.LANCZOS)


def _between(low: int, high: int, random: np.random.Generator) -> int:
    """A whole number from `low` to `high`. One draw whatever the bounds, so that images of two sizes stay in step."""
    return low + int(random.random() * (high - low + 1))


def _coding(random: np.random.Generator) -> tuple[str, int]:
    return ("jpeg", "webp")[_between(0, 1, random)], _between(*_SOCIAL_QUALITIES, random)


def _social(image: Image.Image, passes: int, most: int, random: np.random.Generator) -> tuple[Image.Image, Coding]:
    """Pad to 256, crop a random square of side 256 to min(short side, 1000, `most`), resize to 256, and 3 times in 4 JPEG or
    WebP. Every pass before the last is a network of its own: it compresses, and hands on a smaller image."""
    image = _padded(image, SIDE)
    side = _between(SIDE, max(min(*image.size, _SOCIAL_SIDE, most), SIDE), random)
    image = _square(image, side, random)
    for _ in range(passes - 1):
        image = recompress(image, *_coding(random))
        side = _between(SIDE, side, random)
        image = _resized(image, side, side)
    chance, coding = random.random(), _coding(random)
    return _resized(image, SIDE, SIDE), coding if chance < _SOCIAL_CHANCE else None


def _noise(image: Image.Image, amount: float, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    return Image.fromarray(np.clip(np.rint(pixels + random.normal(0, amount, pixels.shape)), 0, 255).astype(np.uint8))


def _crop(image: Image.Image, amount: float, random: np.random.Generator) -> Image.Image:
    width, height = max(round(image.width * amount), 1), max(round(image.height * amount), 1)
    left, top = int(random.integers(0, image.width - width + 1)), int(random.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _apply(
    image: Image.Image, operation: str, amount: float, most: int, random: np.random.Generator
) -> tuple[Image.Image, Coding]:
    match operation:
        # The paper's: every result is 256 x 256, and its resize sweep brings a centre crop of 256 x factor down to 256.
        case "centre-jpeg" | "centre-webp":
            return centre(image), (operation.removeprefix("centre-"), round(amount))
        case "centre-resize":
            return _resized(centre(image, int(SIDE * amount)), SIDE, SIDE), None
        case "social":
            return _social(image, round(amount), most, random)
        # Ours, on the same 256 x 256.
        case "centre-crop":
            return _square(centre(image), round(amount), random), None
        case _ if operation.startswith("centre"):
            plain = operation.removeprefix("centre").removeprefix("-")
            return _apply(centre(image), plain, amount, most, random) if plain else (centre(image), None)
        # On the whole image, at its own size.
        case "jpeg" | "webp":
            return image, (operation, round(amount))
        case "resize":
            return _resized(image, round(image.width * amount), round(image.height * amount)), None
        case "blur":
            return image.filter(ImageFilter.GaussianBlur(amount)), None
        case "noise":
            return _noise(image, amount, random), None
        case "crop":
            return _crop(image, amount, random), None
        case "mirror":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), None
        case _:
            return ImageEnhance.Brightness(image).enhance(amount), None


_RANGES: dict[str, tuple[float, float]] = {
    "centre": (0, 0),
    "centre-jpeg": (1, 100),
    "centre-webp": (1, 100),
    "centre-resize": (1, 16),
    "centre-crop": (1, SIDE),
    "centre-blur": (0, 100),
    "centre-noise": (0, 128),
    "social": (1, 9),
    "jpeg": (1, 100),
    "webp": (1, 100),
    "resize": (0.01, 8),
    "blur": (0, 100),
    "noise": (0, 128),
    "crop": (0.01, 1),
    "mirror": (0, 0),
    "brightness": (0, 16),
}
"""The operations and the strengths they take: quality, factor, side in pixels, radius in pixels (the sigma of a Gaussian),
standard deviation in levels, passes through a network, share kept."""

CONDITIONS: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition("centre", "centre"),
        Condition("social", "social", 1),
        Condition("social-2", "social", 2),
        Condition("social-3", "social", 3),
        *(Condition(f"jpeg-{q}", "centre-jpeg", q) for q in range(40, 101, 5)),
        *(Condition(f"webp-{q}", "centre-webp", q) for q in range(40, 101, 5)),
        *(Condition(f"resize-12-{i}", "centre-resize", 12 / i) for i in range(2, 13)),
        *(Condition(f"blur-{sigma}", "centre-blur", sigma) for sigma in (0.5, 1, 1.5, 2, 3)),
        *(Condition(f"noise-{levels}", "centre-noise", levels) for levels in (2, 4, 8, 16)),
        *(Condition(f"crop-to-{side}", "centre-crop", side) for side in (96, 128, 160, 192, 224)),
    )
}
"""Test conditions by name. The paper's, each giving 256 x 256 pixels: the plain centre crop, the social-network chain, JPEG at
quality 40 to 100 in steps of 5, and reduction by 12/i for i = 2 to 12 (`resize-12-2` reduces six times). Ours, on the same
256 x 256: WebP alike, Gaussian blur by sigma, Gaussian noise by standard deviation, a picture that went through two or three
networks, and smaller crops (`crop-to-96`) at a drawn place."""

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
    left, coding = _left(image, condition, id, _SOCIAL_SIDE)
    return recompress(left, *coding) if coding else left


def perturbed_file(image: Image.Image, condition: Condition | str, id: str, most: int = _SOCIAL_SIDE) -> bytes:
    """The same as a file: JPEG or WebP where that is what the condition ends with, else PNG. Its pixels are those of `perturb`.

    `most`: no social network sees more than a square of so many pixels; where it is below 1000, so may the pixels differ from
    `perturb`'s. PNG is deflated by run lengths alone: without a search for matches, which some libraries do otherwise on other
    processors, the bytes follow from the pixels. Raises as `perturb` does.
    """
    left, coding = _left(image, condition, id, most)
    if coding:
        return encode(left, *coding, "4:2:0")
    out = io.BytesIO()
    left.save(out, "PNG", compress_level=6, compress_type=_RLE)
    return out.getvalue()


def _left(image: Image.Image, condition: Condition | str, id: str, most: int) -> tuple[Image.Image, Coding]:
    """The image before the encoding that the condition ends with, and that encoding."""
    known = CONDITIONS | EDITS
    if isinstance(condition, str):
        if condition not in known:
            raise UsageError(f"no condition '{condition}'{suggest(condition, known)} Known: {', '.join(known)}")
        condition = known[condition]
    _allowed(condition)
    image = image if image.mode == "RGB" else image.convert("RGB")
    return _apply(image, condition.operation, condition.amount, most, random_of(id, f"perturb {condition.name}"))


def _allowed(condition: Condition) -> None:
    if condition.operation not in _RANGES:
        near = suggest(condition.operation, _RANGES)
        raise UsageError(f"condition '{condition.name}' asks for '{condition.operation}', which is no operation{near}")
    low, high = _RANGES[condition.operation]
    if not low <= condition.amount <= high:
        raise UsageError(f"condition '{condition.name}': {condition.operation} takes {low} to {high}, not {condition.amount}")
