"""Images from bytes, strictly, by the rules that `images` states: in full, or a JPEG scaled down while it is decoded."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from imaginet_build.errors import BadImage
from imaginet_build.imagefiles import containers, jpegfile
from imaginet_build.imagefiles.hashing import Box, Grey

MAX_PIXELS = 89_478_485
"""The most pixels an image may have: Pillow's own limit, a quarter of a gigabyte of RGB."""

SCALED_SIDE = 96
"""No scaled decode has a shorter side, and below twice that there is none."""

_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
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
class Loaded:
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
    exif: Image.Exif | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What `measure` looks at: the upright grey pixels, where the picture lies in them if they were decoded small (`box`), and
    the bytes that the pixel hash is of (`pixels`)."""

    grey: Grey
    box: Box | None
    pixels: bytes
    codec: str
    mode: str
    width: int
    height: int
    metadata: frozenset[str]
    icc: bytes
    header: jpegfile.Header | None
    exif: Image.Exif | None


@contextmanager
def refusing() -> Iterator[None]:
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


def _exif(body: bytes) -> Image.Exif | None:
    """The EXIF of a JPEG; empty where it cannot be read, None where there is none."""
    if not body:
        return None
    tags = Image.Exif()
    # Wild EXIF raises anything.
    try:
        with refusing():
            tags.load(body)
    except BadImage:
        return Image.Exif()
    return tags


def _orientation(exif: Image.Exif | None, xmp: bytes) -> int:
    """The orientation (1-8) a JPEG states, as Pillow's `exif_transpose` reads it; 1 where it states none."""
    if exif is not None:
        # Where it cannot be read, browsers show the image as stored.
        try:
            with refusing():
                if 0x0112 in exif:
                    return int(exif[0x0112])
        except BadImage:
            return 1
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1


def load(data: bytes, max_pixels: int, scaled: bool) -> Loaded:
    """Decode strictly; a JPEG at 1/2, 1/4 or 1/8 when `scaled`, as long as its short side stays at 96 pixels or more."""
    codec = containers.sniff(data)
    with refusing():
        if codec == "jpeg":
            return _load_jpeg(data, _header(data, max_pixels), scaled)
        return _load_other(data, codec, max_pixels)


def _header(data: bytes, max_pixels: int) -> jpegfile.Header:
    """The header of a JPEG that may be decoded."""
    header = jpegfile.parse(data)
    _within(header.width, header.height, max_pixels)
    if header.progressive and data.count(b"\xff\xda") > jpegfile.MAX_SCANS:
        raise BadImage("too-large", f"more than {jpegfile.MAX_SCANS} scans")
    if simplejpeg.decode_jpeg_header(data)[:2] != (header.height, header.width):
        raise BadImage("corrupt", "the file states two sizes")
    if header.hole:
        raise BadImage("corrupt", "a run of zeros inside the JPEG's compressed data")
    if header.components not in _MODES:
        raise BadImage("unsupported", f"a JPEG of {header.components} components")
    return header


def _factor(header: jpegfile.Header) -> int:
    """How many times smaller a JPEG is decoded where it may be scaled."""
    return next((f for f in (8, 4, 2) if -(-min(header.width, header.height) // f) >= SCALED_SIDE), 1)


def _pixels(data: bytes, header: jpegfile.Header, space: str, factor: int) -> NDArray[np.uint8]:
    """The strict decode: whatever libjpeg warns of is an error."""
    least = {"min_height": -(-header.height // factor), "min_width": -(-header.width // factor)}
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, space, min_factor=factor, **least)
    return pixels


def _load_jpeg(data: bytes, header: jpegfile.Header, scaled: bool) -> Loaded:
    factor = _factor(header) if scaled else 1
    if header.components == 4:
        # The strict decoder judges; Pillow, which knows Adobe's inverted inks, converts.
        _pixels(data, header, "CMYK", factor)
        image: Image.Image = Image.open(io.BytesIO(data), formats=["JPEG"])
        image.load()
    else:
        image = Image.fromarray(_pixels(data, header, "RGB", factor))
    exif = _exif(header.exif)
    orientation = _orientation(exif, header.xmp)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    width, height = _upright(header, orientation)
    mode, found = _MODES[header.components], frozenset(header.metadata)
    return Loaded(image, "jpeg", mode, width, height, found, header.icc, header, exif)


def _upright(header: jpegfile.Header, orientation: int) -> tuple[int, int]:
    width, height = header.width, header.height
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _box(header: jpegfile.Header, factor: int, orientation: int) -> Box:
    """Where the picture lies in upright pixels decoded `factor` times smaller: the last row and column may be part padding."""
    wide, high = header.width / factor, header.height / factor
    right, below = -(-header.width // factor) - wide, -(-header.height // factor) - high
    if orientation >= 5:
        wide, high, right, below = high, wide, below, right
    left, top = right * (orientation in (2, 3, 6, 7)), below * (orientation in (3, 4, 7, 8))
    return left, top, left + wide, top + high


def see(data: bytes, max_pixels: int) -> Seen:
    """A scaled JPEG's luma, whose colours would cost time and say nothing to the hashes; what is not scaled in full."""
    codec = containers.sniff(data)
    with refusing():
        header = _header(data, max_pixels) if codec == "jpeg" else None
        factor = _factor(header) if header is not None else 1
        if header is not None and header.components < 4 and factor > 1:
            grey = _pixels(data, header, "GRAY", factor)[:, :, 0]
            exif = _exif(header.exif)
            orientation = _orientation(exif, header.xmp)
            if orientation in _TURNS:
                grey = np.asarray(Image.fromarray(grey).transpose(_TURNS[orientation]))
            width, height = _upright(header, orientation)
            mode, found, box = _MODES[header.components], frozenset(header.metadata), _box(header, factor, orientation)
            return Seen(grey, box, grey.tobytes(), codec, mode, width, height, found, header.icc, header, exif)
        loaded = _load_other(data, codec, max_pixels) if header is None else _load_jpeg(data, header, scaled=True)
        image = loaded.image.convert("RGB")
        grey = np.asarray(image.convert("L"))
        size = loaded.width, loaded.height
        whole = (0.0, 0.0, float(image.width), float(image.height)) if codec == "jpeg" else None
        found, icc = loaded.metadata, loaded.icc
        return Seen(grey, whole, image.tobytes(), codec, loaded.mode, *size, found, icc, loaded.header, loaded.exif)


def _load_other(data: bytes, codec: str, max_pixels: int) -> Loaded:
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
    exif: Image.Exif | None = Image.Exif()
    try:
        with refusing():
            exif = image.getexif()
            orientation = int(exif.get(0x0112, 1))
    except BadImage:
        orientation = 1
    image = _flat(image)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if "exif" not in found:
        exif = None
    return Loaded(image, codec, mode, image.width, image.height, frozenset(found), icc, None, exif)


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
        with refusing():
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


def srgb(loaded: Loaded) -> Image.Image:
    """The loaded pixels as sRGB."""
    image = loaded.image
    if loaded.icc:
        mode = "L" if loaded.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L") else image.mode
        transform = _to_srgb(loaded.icc, mode)
        if transform is not None:
            with refusing():
                converted = ImageCms.applyTransform(image.convert(mode), transform)
                assert converted is not None
                image = converted
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in `data`: RGB, 8 bits, sRGB, upright, without metadata, by the rules at the top of this module.

    Raises `BadImage`: `empty`, `not-an-image`, `unknown-format`, `animated`, `too-large` (more than `max_pixels`; nothing was
    allocated), `truncated`, `corrupt` or `unsupported`.
    """
    return bare(srgb(load(data, max_pixels, scaled=False)))


def bare(image: Image.Image) -> Image.Image:
    """The pixels alone: encoders copy some of what they find in `info` into the file."""
    if image.info:
        image = image.copy()
        image.info = {}
    return image
