"""How the detector that ships was made: `python -m imaginet_build.models.train_detector --data FOLDER --out FOLDER`.

FOLDER is a corpus with an index.csv (columns path, origin, content_type, source, generator, licence) and, under
weights/taef2, the tiny FLUX.2 autoencoder (MIT). Learns only from images whose licence begins with MIT, BSD, Apache or CC0
and names no third party, from the photographs that scikit-image and scikit-learn carry, and from that autoencoder's
reconstructions of these photographs, so that both classes share content. Every crop of either class goes through one law of
scaling and compression. Writes model.onnx, config.json and figures.json; README.md is written by hand from the figures.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from imaginet_build import images
from imaginet_build.baseline.evaluate import evaluate
from imaginet_build.baseline.export import export
from imaginet_build.baseline.settings import Settings
from imaginet_build.baseline.train import train
from imaginet_build.detectors.checkpoint import CONFIG
from imaginet_build.errors import BadImage
from imaginet_build.models import photographs
from imaginet_build.records import make_id, random_of
from imaginet_build.releases import release

log = logging.getLogger(__name__)

FREE = ("MIT", "BSD", "Apache", "CC0")
RECONSTRUCTED = "TAEF2 reconstruction"
NOTE = (
    "the small detector that ships: it learned real from 47 photographs, hardly a face among them, and synthetic from SDXL, "
    "SD 1.5, Midjourney and autoencoder images; on pictures from elsewhere it is often wrong (models/detector-small/README.md)"
)
SIDE = (160, 256)
CROPS_PER_PHOTOGRAPH, CROPS_PER_IMAGE = 14, 1
FAMILIES = {"SDXL": "sd", "SD 1.5": "sd", "Midjourney": "midjourney", "StyleGAN": "gan", "Gemini": "gemini", "TAEF2": "vae"}
# Held-out groups keep their split whatever else is added: it is drawn from the group's own name.
SHARES = {"train": 0.7, "calibration": 0.1, "test": 0.2}


@dataclass(frozen=True, slots=True)
class Picture:
    """One source image: its crops share `group`."""

    pixels: npt.NDArray[np.uint8]
    generator: str
    content_type: str
    source: str
    licence: str
    group: str
    was_jpeg: bool


def free(licence: str) -> bool:
    """Whether an index row's licence lets the shipped weights learn from its image."""
    return licence.startswith(FREE) and "third-party" not in licence


def licensed(data: Path) -> Iterator[Picture]:
    """The photographs (each several times, once a crop) and the free synthetic images."""
    for group in photographs.load(data):
        for photo in group:
            key = hashlib.sha256(photo.pixels.tobytes()).hexdigest()
            yield Picture(
                photo.pixels, "real", "photos", photo.name, photo.licence, key, photo.name.endswith((".jpg", ".jpeg"))
            )
    for row in _index(data):
        if row["origin"] == "synthetic" and free(row["licence"]):
            yield _picture(data, row)


def others(data: Path) -> Iterator[Picture]:
    """Every readable image of the corpus that `licensed` leaves out: never trained on, judged only."""
    for row in _index(data):
        if not free(row["licence"]):
            try:
                yield _picture(data, row)
            except BadImage as error:
                log.warning("%s: %s", row["path"], error)


def _index(data: Path) -> list[dict[str, str]]:
    with (data / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["sha256"]: row for row in sorted(csv.DictReader(file), key=lambda r: r["path"])}
    return list(rows.values())


def _picture(data: Path, row: dict[str, str]) -> Picture:
    pixels = np.asarray(images.decode((data / row["path"]).read_bytes()))
    made = row["generator"] or "real"
    return Picture(pixels, made, row["content_type"], row["source"], row["licence"], row["sha256"], row["format"] == "JPEG")


def crops(picture: Picture, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """`count` random crops, (side, side, 3): half at native scale, half from the picture reduced by up to two, both classes
    alike."""
    for k in range(count):
        random = random_of(f"{picture.group}/{k}", "detector/crop")
        pixels = picture.pixels
        factor = float(random.uniform(1, 2)) if random.random() < 0.5 else 1.0
        if factor > 1 and min(pixels.shape[:2]) / factor >= SIDE[0]:
            size = round(pixels.shape[1] / factor), round(pixels.shape[0] / factor)
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        height, width = pixels.shape[:2]
        if min(height, width) < SIDE[0]:
            return
        # A multiple of 8, which the autoencoder needs.
        side = int(random.integers(SIDE[0] // 8, min(SIDE[1], height, width) // 8 + 1)) * 8
        top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
        yield np.ascontiguousarray(pixels[top : top + side, left : left + side])


def autoencoder(weights: Path) -> Any:
    """The tiny FLUX.2 autoencoder as a function from a crop (h, w, 3) uint8 to its reconstruction; sides are multiples of 8.

    The TAESD layout, with a pooled gate in the middle blocks, read off the keys of the state dicts.
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, gated: bool) -> None:
            super().__init__()
            three: list[nn.Module] = []
            for _ in range(3):
                three += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
            self.conv = nn.Sequential(*three[:-1])
            gate = [nn.Conv2d(64, 256, 1, bias=False), nn.GroupNorm(4, 256), nn.ReLU(), nn.Conv2d(256, 64, 1, bias=False)]
            self.pool = nn.Sequential(*gate) if gated else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x if self.pool is None else x + self.pool(x)
            return torch.relu(self.conv(x) + x)

    class Clamp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x / 3) * 3

    def blocks(gated: bool = False) -> list[nn.Module]:
        return [Block(gated) for _ in range(3)]

    def down() -> nn.Module:
        return nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)

    def up() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1, bias=False)]

    first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 32, 3, padding=1)
    encoder = nn.Sequential(first, Block(False), down(), *blocks(), down(), *blocks(), down(), *blocks(True), last)
    inner = nn.Sequential(
        Clamp(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), *blocks(True), *up(), *blocks(), *up(), *blocks()
    )
    decoder = nn.Sequential(*inner, *up(), Block(False), nn.Conv2d(64, 3, 3, padding=1))
    encoder.load_state_dict(torch.load(weights / "encoder.pth", weights_only=True))
    decoder.load_state_dict(torch.load(weights / "decoder.pth", weights_only=True))

    def reconstruct(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        with torch.inference_mode():
            x = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255
            y = decoder(encoder(x))[0].clamp(0, 1).permute(1, 2, 0)
            return np.rint(y.numpy() * 255).astype(np.uint8)  # type: ignore[no-any-return]

    return reconstruct


def delivered(crop: npt.NDArray[np.uint8], was_jpeg: bool, name: str) -> bytes:
    """The crop's bytes: one JPEG pass on a grid of its own for what was never JPEG, then JPEG (0.85) or PNG, both classes
    alike."""
    random = random_of(name, "detector/bytes")
    image = Image.fromarray(crop)
    if not was_jpeg and random.random() < 0.7:
        top, left = int(random.integers(8)), int(random.integers(8))
        held = images.decode(images.encode(image, "jpeg", int(random.integers(75, 98)), "4:2:0"))
        # Cut off up to seven rows and columns, so that the next grid lies elsewhere, as after any crop.
        image = held.crop((left, top, image.width, image.height))
    if random.random() < 0.15:
        return images.encode(image, "png")
    return images.encode(image, "jpeg", int(random.integers(65, 98)), "4:2:0" if random.random() < 0.7 else "4:4:4")


def rows_of(pictures: Iterator[Picture], reconstruct: Any | None) -> Iterator[dict[str, Any]]:
    """Release rows; a photograph's crops are followed by their reconstructions where `reconstruct` is given."""
    for picture in pictures:
        real = picture.generator == "real"
        many = CROPS_PER_PHOTOGRAPH if real and reconstruct is not None else CROPS_PER_IMAGE
        for k, crop in enumerate(crops(picture, many)):
            yield _row(picture, picture.generator, crop, picture.was_jpeg, k)
            # Reconstructions of every other crop: the other half of the synthetic class is what generators drew.
            if real and reconstruct is not None and k % 2 == 0:
                yield _row(picture, RECONSTRUCTED, reconstruct(crop), False, k)


def _row(picture: Picture, generator: str, crop: npt.NDArray[np.uint8], was_jpeg: bool, k: int) -> dict[str, Any]:
    name = make_id("detector-small", picture.group, generator, k)
    data = delivered(crop, was_jpeg, name)
    family = "real" if generator == "real" else next(f for word, f in FAMILIES.items() if word in generator)
    with Image.open(io.BytesIO(data)) as seen:
        width, height = seen.size
    return {
        "image": {"bytes": data, "path": name},
        "label": "real" if generator == "real" else "synthetic",
        "content_type": picture.content_type,
        "family": family,
        "generator": generator,
        "id": name,
        "group": picture.group,
        "source": picture.source,
        "licence": picture.licence,
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def publish(rows: list[dict[str, Any]], out: Path, only_test: bool = False) -> dict[str, int]:
    """Write rows as a release that `train` and `evaluate` read; how many rows each split has."""
    rows.sort(key=lambda r: r["id"])
    kinds = [sorted({r[k] for r in rows} - {"real"}) for k in ("content_type", "family", "generator")]
    names = release.Names(tuple(kinds[0]), ("real", *kinds[1]), ("real", *kinds[2]))
    schema = release.schema(names)
    places = {
        "label": ("real", "synthetic"),
        "content_type": names.categories,
        "family": names.families,
        "generator": names.generators,
    }
    edges = np.cumsum(list(SHARES.values()))
    split_of = {
        g: list(SHARES)[int(np.searchsorted(edges, random_of(g, "detector/split").random()))]
        for g in {r["group"] for r in rows}
    }
    counts = {}
    for split in SHARES:
        chosen = [r for r in rows if (split == "test" if only_test else split_of[r["group"]] == split)]
        counts[split] = len(chosen)
        if chosen:
            coded = [
                {f.name: r.get(f.name) for f in schema} | {k: v.index(r[k]) for k, v in places.items()} for r in chosen
            ]  # fmt: skip
            path = out / f"data/equalized/{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(coded, schema=schema), path, row_group_size=50)
    return counts


def main() -> None:
    """Build the two releases, train, export, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the crops and the checkpoint go")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO)
    for name, pictures, reconstruct in (
        ("licensed", licensed(options.data), autoencoder(options.data / "weights" / "taef2")),
        ("others", others(options.data), None),
    ):
        if not (options.work / name).exists():
            log.info("%s: %s", name, publish(list(rows_of(pictures, reconstruct)), options.work / name, name == "others"))
    # The cells are few and uneven; evenness 1 takes the crops as they are, since both classes are about alike.
    settings = Settings.of("small", steps=options.steps, threads=options.threads, evenness=1.0, rate=3e-3, contrast=0.1)
    trained = train(options.work / "licensed", options.work / "checkpoint", settings)
    exported = export(trained.checkpoint, options.out, precision="fp32", runtime="onnxruntime")
    path = options.out / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"note": NOTE}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    figures: dict[str, Any] = {"images": trained.images, "steps": options.steps, "onnx_difference": exported.chosen.difference}
    for name in ("licensed", "others"):
        found = evaluate(options.work / name, options.work / f"figures-{name}", checkpoints=[trained.checkpoint])
        figures[name] = {k: v for k, v in found.document.items() if k not in ("checkpoint", "detector")}
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
