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

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from imaginet_build import containers, jpegfile
from imaginet_build.errors import BadImage, UsageError
from imaginet_build.hashing import confirm_bits, hash_of, hash_to_int, hashes_of, int_to_hash
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
    "render",
    "thumbnail",
]

MAX_PIXELS = 89_478_485
"""The most pixels an image may have: Pillow's own limit, a quarter of a gigabyte of RGB."""

CODECS = ("jpeg", "webp", "png")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

_SCALED_SIDE = 96
_LEVELS = np.arange(256, dtype=np.int64)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Upright pixels, RGB or CMYK, in the file's own colours, and what the container said. `width` and `height`: the full size,
    whatever the scale of `image`.
    """

    image: Image.Image
    codec: str
    mode: str
    width: int
    height: int
    metadata: frozenset[str]
    icc: bytes
    header: jpegfile.Header | None


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a codec raises or warns of into `BadImage`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise BadImage("too-large", str(error) or "not enough memory") from error
    except UnidentifiedImageError as error:
        raise BadImage("corrupt", "the header is damaged") from error
    except Exception as error:
        # Codecs raise whatever they like (struct.error, IndexError, zlib.error, …): on wild bytes all of it means the same.
        said = " ".join(str(error).split())[:200]
        cut = any(word in said.lower() for word in ("truncated", "premature", "unexpected end", "end of data"))
        raise BadImage("truncated" if cut else "corrupt", said or type(error).__name__) from error


def _within(width: int, height: int, max_pixels: int) -> None:
    if width * height > min(max_pixels, MAX_PIXELS):
        raise BadImage("too-large", f"{width} x {height} pixels, the limit is {min(max_pixels, MAX_PIXELS)}")


def _orientation(exif: bytes, xmp: bytes) -> int:
    """The EXIF orientation (1-8) a JPEG states, as Pillow's `exif_transpose` reads it; 1 where it states none."""
    if exif:
        # Wild EXIF raises anything; where it cannot be read, browsers show the image as stored.
        try:
            with _refusing():
                tags = Image.Exif()
                tags.load(exif)
                if 0x0112 in tags:
                    return int(tags[0x0112])
        except BadImage:
            return 1
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1


def _load(data: bytes, max_pixels: int, scaled: bool) -> _Loaded:
    """Decode strictly; a JPEG at 1/2, 1/4 or 1/8 when `scaled`, as long as its short side stays at 96 pixels or more."""
    codec = containers.sniff(data)
    with _refusing():
        return _load_jpeg(data, max_pixels, scaled) if codec == "jpeg" else _load_other(data, codec, max_pixels)


def _load_jpeg(data: bytes, max_pixels: int, scaled: bool) -> _Loaded:
    header = jpegfile.parse(data)
    width, height = header.width, header.height
    _within(width, height, max_pixels)
    if header.progressive and data.count(b"\xff\xda") > jpegfile.MAX_SCANS:
        raise BadImage("too-large", f"more than {jpegfile.MAX_SCANS} scans")
    if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
        raise BadImage("corrupt", "the file states two sizes")
    if header.hole:
        raise BadImage("corrupt", "a run of zeros inside the JPEG's compressed data")
    factor = next((f for f in (8, 4, 2) if scaled and -(-min(width, height) // f) >= _SCALED_SIDE), 1)
    scale = {"min_height": -(-height // factor), "min_width": -(-width // factor), "min_factor": factor}
    if header.components in (1, 3):
        pixels = simplejpeg.decode_jpeg(data, "RGB", **scale)
        image = Image.fromarray(pixels)
    elif header.components == 4:
        # The strict decoder judges; Pillow, which knows Adobe's inverted inks, converts.
        simplejpeg.decode_jpeg(data, "CMYK", **scale)
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        image.load()
    else:
        raise BadImage("unsupported", f"a JPEG of {header.components} components")
    orientation = _orientation(header.exif, header.xmp)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[header.components]
    return _Loaded(image, "jpeg", mode, width, height, frozenset(header.metadata), header.icc, header)


def _load_other(data: bytes, codec: str, max_pixels: int) -> _Loaded:
    if codec == "webp":
        # Before Pillow: its WebP reader allocates the canvas when the file is opened.
        _within(*containers.webp_size(data), max_pixels)
    found = containers.check(data, codec)
    image: Image.Image = Image.open(io.BytesIO(data), formats=[codec.upper()])
    _within(image.width, image.height, max_pixels)
    if getattr(image, "is_animated", False):
        raise BadImage("animated", f"{getattr(image, 'n_frames', 'several')} frames")
    mode = image.mode
    icc = image.info.get("icc_profile") or b""
    found |= containers.metadata(image, codec)
    image.load()
    try:
        with _refusing():
            orientation = int(image.getexif().get(0x0112, 1))
    except BadImage:
        orientation = 1
    image = _flat(image)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    return _Loaded(image, codec, mode, image.width, image.height, frozenset(found), icc, None)


def _flat(image: Image.Image) -> Image.Image:
    """Eight bits a sample, no palette, no transparency; RGB, or CMYK where it was."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage("unsupported", f"samples of 32 bits (mode {image.mode})")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (128, 128, 128, 255))
        return Image.alpha_composite(under, over).convert("RGB")
    return image if image.mode in ("RGB", "CMYK") else image.convert("RGB")


@functools.lru_cache(maxsize=64)
def _to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile to sRGB, or None where the profile is unusable for `mode` or says sRGB within 2 of 255."""
    try:
        with _refusing():
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            space = profile.profile.xcolor_space.strip()
            if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != mode:
                return None
            transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
            steps = np.array(np.meshgrid(*[[0, 32, 96, 160, 224, 255]] * 3), dtype=np.uint8).reshape(3, -1).T
            if mode == "CMYK":
                return transform
            probe = Image.fromarray(np.ascontiguousarray(steps[None] if mode == "RGB" else steps[None, :, 0]))
            there = ImageCms.applyTransform(probe, transform)
            assert there is not None
            moved = np.abs(np.asarray(there, dtype=np.int16) - np.asarray(probe.convert("RGB"), dtype=np.int16)).max()
            return transform if moved > 2 else None
    except BadImage:
        return None


def _srgb(loaded: _Loaded) -> Image.Image:
    """The loaded pixels as sRGB."""
    image = loaded.image
    if loaded.icc:
        mode = "L" if loaded.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L") else image.mode
        transform = _to_srgb(loaded.icc, mode)
        if transform is not None:
            with _refusing():
                converted = ImageCms.applyTransform(image.convert(mode), transform)
                assert converted is not None
                image = converted
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in `data`: RGB, 8 bits, sRGB, upright, without metadata, by the rules at the top of this module.

    Raises `BadImage`: `empty`, `not-an-image`, `unknown-format`, `animated`, `too-large` (more than `max_pixels`; nothing was
    allocated), `truncated`, `corrupt` or `unsupported`.
    """
    image = _srgb(_load(data, max_pixels, scaled=False))
    return _bare(image)


def _bare(image: Image.Image) -> Image.Image:
    """The pixels alone: encoders copy some of what they find in `info` into the file."""
    if image.info:
        image = image.copy()
        image.info = {}
    return image


def measure(data: bytes, max_pixels: int = MAX_PIXELS) -> Facts:
    """The facts of one image, from one read and one cheap strict decode.

    A JPEG is decoded at 1/8, 1/4 or 1/2, its short side kept at 96 or more; its hashes equal those of a full decode for 9 in 10
    files and stay within 4 bits. Other codecs are decoded in full. Hashes are of the upright image in the file's own colours,
    transparency on grey. Raises `BadImage` as `decode` does.
    """
    loaded = _load(data, max_pixels, scaled=True)
    with _refusing():
        image = loaded.image.convert("RGB")
        grey = image.convert("L")
        phash, mirror, dhash = hashes_of(grey, fast=loaded.codec == "jpeg")
        pixels = hashlib.sha256(f"{loaded.width}x{loaded.height}/{image.width}x{image.height}\n".encode())
        pixels.update(image.tobytes())
        header = loaded.header
        return Facts(
            sha256=hashlib.sha256(data).hexdigest(),
            nbytes=len(data),
            codec=loaded.codec,
            width=loaded.width,
            height=loaded.height,
            mode=loaded.mode,
            quality=header.quality if header else None,
            qtables=header.qtables if header else None,
            subsampling=header.subsampling if header else None,
            progressive=bool(header and header.progressive),
            metadata=tuple(sorted(loaded.metadata)),
            pixel_hash=pixels.hexdigest(),
            phash=phash,
            phash_mirror=mirror,
            dhash=dhash,
            contrast=_contrast(grey),
        )


def _contrast(grey: Image.Image) -> float:
    """Standard deviation of a grey image, from its histogram: exact whole numbers until the last step."""
    counts = np.array(grey.histogram(), dtype=np.int64)
    n, total, squares = int(counts.sum()), int(counts @ _LEVELS), int(counts @ (_LEVELS * _LEVELS))
    return float(np.float32((n * squares - total * total) ** 0.5 / n))


def confirm_hash(data: bytes, mirrored: bool = False, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint64]:
    """The 256-bit pHash that confirms a near-duplicate (`dedup.confirm_by`): (4,) uint64, of the image or of its mirror image.

    Raises `BadImage` as `decode` does.
    """
    loaded = _load(data, max_pixels, scaled=True)
    with _refusing():
        return confirm_bits(loaded.image.convert("RGB").convert("L"), mirrored)


def encode(image: Image.Image, codec: str, quality: int = 90, subsampling: str = "4:2:0") -> bytes:
    """One file of `image`, with no metadata: the same pixels and settings give the same bytes.

    `codec` jpeg (a restart marker after every MCU row, so that a crop can be read without the rest), webp (lossy, always 4:2:0)
    or png; `quality` 1-100 (not for png). Raises `BadImage("too-large")` where the codec cannot hold the size.
    """
    if codec not in CODECS or (codec == "jpeg" and subsampling not in SUBSAMPLINGS) or not 1 <= quality <= 100:
        raise UsageError(
            f"cannot encode {codec} at quality {quality}, {subsampling}: codecs are {', '.join(CODECS)}, quality 1-100"
        )
    most = {"jpeg": 65500, "webp": 16383, "png": 2**31 - 1}[codec]
    if max(image.size) > most:
        raise BadImage("too-large", f"{image.width} x {image.height} pixels, a {codec} holds {most} a side")
    image = _bare(image if image.mode == "RGB" else image.convert("RGB"))
    out = io.BytesIO()
    with _refusing():
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
    loaded = _load(data, MAX_PIXELS, scaled=side <= _SCALED_SIDE)
    small = ImageOps.contain(loaded.image, (side, side)) if max(loaded.image.size) > side else loaded.image
    return encode(_srgb(replace(loaded, image=small)), "jpeg", 85, "4:2:0")
