"""Draws the picture of samples: `python -m imaginet_build.models.samples [FILE]`.

Three rows: photographs that no model saw beside their reconstructions by the autoencoder, images of the GAN, images of the
diffusion model; not picked, the first there are. All drawn by the adapters themselves.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from imaginet_build.generators.aligned import Autoencoder
from imaginet_build.generators.diffusion import Unconditional
from imaginet_build.generators.gan import Gan
from imaginet_build.models import photographs
from imaginet_build.records import Order, Refusal, SourceImage, make_id

HERE = Path(__file__).resolve().parent
SIDE, COLUMNS, GAP = 128, 8, 4


def grid() -> Image.Image:
    """The picture: 3 rows of 8 images of 128 pixels, 4 pixels apart."""
    _, held = photographs.load(None)
    crops = photographs.crops(held, COLUMNS // 2, SIDE, (0.6, 1.0), seed=11)
    originals = [Image.fromarray(crop) for crop in crops]
    vae = Autoencoder(str(HERE / "tiny-vae"))
    fakes = [_image(answer) for answer in vae.draw([_order(i, original) for i, original in enumerate(originals)])]
    rows = [[image for pair in zip(originals, fakes, strict=True) for image in pair]]
    for adapter in (Gan(str(HERE / "tiny-gan")), Unconditional(str(HERE / "tiny-diffusion"), steps=20)):
        rows.append([_image(answer) for answer in adapter.draw([_order(i) for i in range(COLUMNS)])])
    out = np.full(((SIDE + GAP) * len(rows) - GAP, (SIDE + GAP) * COLUMNS - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            out[i * (SIDE + GAP) :, j * (SIDE + GAP) :][:SIDE, :SIDE] = np.asarray(image)
    return Image.fromarray(out)


def _order(number: int, original: Image.Image | None = None) -> Order:
    source = None
    if original:
        buffer = io.BytesIO()
        original.save(buffer, "PNG")
        source = SourceImage(make_id("sample", number), "", SIDE, SIDE, "", buffer.getvalue())
    return Order(make_id("order", number), "sample", "photos", number, SIDE, SIDE, None, source)


def _image(answer: object) -> Image.Image:
    if isinstance(answer, Refusal) or not isinstance(answer, Image.Image):
        raise SystemExit(f"no image: {answer}")
    return answer


def main() -> None:
    """The command."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m imaginet_build.models.samples", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=HERE / "samples.png")
    torch.set_num_threads(1)
    picture = grid()
    # 256 colours keep it under 400 kB; the noise of generated textures does not compress.
    picture.quantize(256, dither=Image.Dither.NONE).save(parser.parse_args().file, optimize=True)


if __name__ == "__main__":
    main()
