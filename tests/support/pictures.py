"""Images for tests, made of random coloured patches: different seeds look different, the same seed gives the same bytes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

from imaginet_build.records import random_of


def picture(seed: object, width: int = 120, height: int = 100) -> Image.Image:
    """A smooth coloured picture with some grain."""
    import numpy as np

    random = random_of(str(seed), "picture")
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((smooth + random.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, codec: str = "PNG", **settings: object) -> bytes:
    """An image as a file of Pillow's `codec`."""
    buffer = io.BytesIO()
    image.save(buffer, codec, **settings)
    return buffer.getvalue()


def png(seed: object, width: int = 120, height: int = 100) -> bytes:
    return encoded(picture(seed, width, height), "PNG", compress_level=1)


def jpeg(seed: object, width: int = 120, height: int = 100, **settings: object) -> bytes:
    return encoded(picture(seed, width, height), "JPEG", **({"quality": 90} | settings))


def animated(codec: str) -> bytes:
    frames = [picture(f"frame {number}", 64, 64) for number in range(3)]
    return encoded(frames[0], codec, save_all=True, append_images=frames[1:])


def bomb(width: int, height: int) -> bytes:
    """A whole, valid PNG of `width` x `height` black pixels in a few kilobytes: a bit a pixel, deflated zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + -(-width // 8))
    rows = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_hole(data: bytes, size: int = 2048) -> bytes:
    """A file with `size` bytes zeroed in its middle, as a failed disk or download leaves it."""
    middle = len(data) // 2 - size // 2
    return data[:middle] + bytes(size) + data[middle + size :]


def write(path: Path, data: bytes | str) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path
