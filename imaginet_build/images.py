"""Images from bytes and back: strict decoding, the facts of one image, the equalized view's pixels.

The rules, the same for every image of either class:

- read: JPEG, PNG, WebP, GIF, BMP, TIFF, by content, never by name; one frame only (more is `animated`);
- refused: whatever its decoder or its checksums call damaged, and anything of more than `MAX_PIXELS`, judged from the header;
- 16 bits a sample: the high byte; 32-bit and float samples: refused as `unsupported`;
- palette: looked up; transparency: composited on mid-grey (128), where neither a white logo nor a black one vanishes;
- colour: an embedded ICC profile is converted to sRGB (perceptual intent) where it moves any colour by more than 2 of 255; one
  that is broken, or of another colour space than the pixels, is ignored; CMYK without a profile: complement of ink and black;
- upright: EXIF orientation is applied (where EXIF has none, XMP's); unreadable EXIF is ignored.

Every failure is a `BadImage`. GIF, BMP, TIFF and WebP have no checksums: damage that still decodes goes unseen there, but for
a run of zeros in a lossy WebP.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imaginet_build.errors import BadImage, UsageError
from imaginet_build.imagefiles import embedded
from imaginet_build.imagefiles.decoding import MAX_PIXELS, SCALED_SIDE, Seen, bare, decode, load, refusing, see, srgb
from imaginet_build.imagefiles.hashing import Grey, confirm_bits, hash_of, hash_to_int, hashes_of, int_to_hash
from imaginet_build.records import Facts, View

__all__ = [
    "MAX_PIXELS",
    "confirm_hash",
    "decode",
    "encode",
    "hash_of",
    "hash_to_int",
    "int_to_hash",
    "measure",
    "measure_long",
    "render",
    "thumbnail",
]

CODECS = ("jpeg", "webp", "png")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

_STRIP = 256
"""Rows of pixels: their squares sum to whole numbers that a float64 holds exactly, and so do those of the widest image."""


def measure(data: bytes, max_pixels: int = MAX_PIXELS) -> Facts:
    """The facts of one image, from one read and one cheap strict decode.

    Of a JPEG the luma alone is decoded, at 1/8, 1/4 or 1/2, its short side kept at 96 or more: its hashes equal those of a full
    decode for 9 in 10 files and stay within 4 bits. What is smaller, and other codecs, are decoded in full. Hashes are of the
    upright image in the file's own colours, transparency on grey. Raises `BadImage` as `decode` does.
    """
    return _facts(data, see(data, max_pixels))


def measure_long(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Facts, NDArray[np.uint64], NDArray[np.uint64]]:
    """`measure`, and `confirm_hash` of the image and of its mirror image, from one decode."""
    seen = see(data, max_pixels)
    with refusing():
        grey = np.ascontiguousarray(seen.grey)
        return _facts(data, seen), confirm_bits(grey, False, seen.box), confirm_bits(grey, True, seen.box)


def _facts(data: bytes, seen: Seen) -> Facts:
    header, height, width = seen.header, *seen.grey.shape
    phash, mirror, dhash = hashes_of(seen.grey, seen.box)
    pixels = hashlib.sha256(b"%dx%d/%dx%d\n" % (seen.width, seen.height, width, height))
    pixels.update(seen.pixels)
    return Facts(
        sha256=hashlib.sha256(data).hexdigest(),
        nbytes=len(data),
        codec=seen.codec,
        width=seen.width,
        height=seen.height,
        mode=seen.mode,
        quality=header.quality if header else None,
        qtables=header.qtables if header else None,
        subsampling=header.subsampling if header else None,
        progressive=bool(header and header.progressive),
        metadata=tuple(sorted(seen.metadata)),
        pixel_hash=pixels.hexdigest(),
        phash=phash,
        phash_mirror=mirror,
        dhash=dhash,
        contrast=_contrast(seen.grey),
        exif=_camera(seen.exif) if seen.exif is not None else None,
        icc=embedded.profile_name(seen.icc) if seen.icc else None,
    )


def _camera(exif: Image.Exif) -> str | None:
    """The EXIF summary; what cannot be read of wild EXIF is no fault of the picture."""
    try:
        with refusing():
            return embedded.exif_summary(exif)
    except BadImage:
        return embedded.exif_summary(Image.Exif())


def _contrast(grey: Grey) -> float:
    """Standard deviation of a grey image: exact whole numbers until the last step."""
    # A strip at a time: numbers of 64 bits for all of a large image would be eight times its size.
    total = squares = 0
    for at in range(0, len(grey), _STRIP):
        strip = grey[at : at + _STRIP].astype(np.float64).ravel()
        total, squares = total + int(strip.sum()), squares + int(strip @ strip)
    return float(np.float32((grey.size * squares - total * total) ** 0.5 / grey.size))


def confirm_hash(data: bytes, mirrored: bool = False, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint64]:
    """The 256-bit pHash that confirms a near-duplicate (`dedup.confirm_by`): (4,) uint64, of the image or of its mirror image.

    Raises `BadImage` as `decode` does.
    """
    seen = see(data, max_pixels)
    with refusing():
        return confirm_bits(np.ascontiguousarray(seen.grey), mirrored, seen.box)


def encode(image: Image.Image, codec: str, quality: int = 90, subsampling: str = "4:2:0") -> bytes:
    """One file of `image`, with no metadata: the same pixels and settings give the same bytes.

    `codec` jpeg, webp (lossy, always 4:2:0) or png; `quality` 1-100 (not for png). Raises `BadImage("too-large")` where the
    codec cannot hold the size.

    A JPEG of either class has a restart marker (T.81) after every row of MCUs (8 or 16 pixels), so that a crop can be decoded
    without the rest. One row is the least that can be skipped: 96 x 96 of 1024 x 1024 pixels take 0.6 ms so, 0.7 with a marker
    every two rows, 1.6 with every eight, 3.4 as a whole. Pixels are those without markers; the file grows by 0.2-0.4 % from
    256 pixels on and by 1.6 % at 64 (`tests/bench/bench_publish.py`).
    """
    if codec not in CODECS or (codec == "jpeg" and subsampling not in SUBSAMPLINGS) or not 1 <= quality <= 100:
        raise UsageError(
            f"cannot encode {codec} at quality {quality}, {subsampling}: codecs are {', '.join(CODECS)}, quality 1-100"
        )
    most = {"jpeg": 65500, "webp": 16383, "png": 2**31 - 1}[codec]
    if max(image.size) > most:
        raise BadImage("too-large", f"{image.width} x {image.height} pixels, a {codec} holds {most} a side")
    image = bare(image if image.mode == "RGB" else image.convert("RGB"))
    out = io.BytesIO()
    with refusing():
        if codec == "jpeg":
            image.save(out, "JPEG", quality=quality, subsampling=subsampling, restart_marker_rows=1)
        elif codec == "webp":
            image.save(out, "WEBP", quality=quality, method=4)
        else:
            image.save(out, "PNG", compress_level=6)
    return out.getvalue()


def render(data: bytes, view: View) -> bytes:
    """The file of the `equalized` view: decode, one JPEG pass where the view asks for it, crop at native size, encode once.

    Nothing is padded or upscaled: raises `BadImage("too-small")` where the crop leaves the image, otherwise as `decode` does.
    """
    image = decode(data)
    right, bottom = view.left + view.width, view.top + view.height
    inside = view.left >= 0 and view.top >= 0 and view.width > 0 and view.height > 0
    if not inside or right > image.width or bottom > image.height:
        crop = f"{view.width} x {view.height} at {view.left}, {view.top}"
        raise BadImage("too-small", f"the crop {crop} leaves the image of {image.width} x {image.height}")
    if view.first_quality is not None:
        # Of the whole image and before the crop, so that the JPEG grid starts anywhere in the crop, as it does in a real one.
        first = encode(image, "jpeg", view.first_quality, view.first_subsampling or "4:2:0")
        image = decode(first)
    return encode(image.crop((view.left, view.top, right, bottom)), view.codec, view.quality, view.subsampling)


def thumbnail(data: bytes, side: int = 128) -> bytes:
    """A small JPEG of the image for reports, at most `side` pixels a side, upright. Raises `BadImage` as `decode` does."""
    loaded = load(data, MAX_PIXELS, scaled=side <= SCALED_SIDE)
    small = ImageOps.contain(loaded.image, (side, side)) if max(loaded.image.size) > side else loaded.image
    return encode(srgb(replace(loaded, image=small)), "jpeg", 85, "4:2:0")
