"""A small release whose synthetic images are smoother than its real ones, so that a short training has something to find."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from imaginet_build import images
from imaginet_build.releases import release

GENERATORS = {"soft": "gan", "softer": "sd"}
NAMES = release.Names(("faces", "photos"), ("real", "gan", "sd"), ("real", "soft", "softer"))


def draw(number: int, generator: str, side: int) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(0.6))
    return image if generator == "real" else image.filter(ImageFilter.GaussianBlur({"soft": 0.8, "softer": 1.6}[generator]))


def rows(count: int, start: int, side: int) -> list[dict[str, Any]]:
    found = []
    for k in range(count):
        generator = ("real", "soft", "real", "softer")[k % 4]
        data = images.encode(draw(start + k, generator, side), "jpeg", 90)
        name = hashlib.sha256(f"{start + k}".encode()).hexdigest()[:32]
        found.append(
            {
                "image": {"bytes": data, "path": f"{name}.jpg"},
                "label": int(generator != "real"),
                "content_type": k // 4 % 2,
                "family": NAMES.families.index(GENERATORS.get(generator, "real")),
                "generator": NAMES.generators.index(generator),
                "id": name,
                "group": f"g{start + k // 2}",
                "width": side,
                "height": side,
            }
        )
    return sorted(found, key=lambda row: row["id"])


def write(folder: Path, counts: dict[str, int], side: int = 48, shards: int = 1) -> Path:
    schema = release.schema(NAMES)
    start = 0
    for split, count in counts.items():
        made = rows(count, start, side)
        start += 10_000
        for n in range(shards):
            path = folder / f"data/equalized/{split}-{n:05d}-of-{shards:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = [{f.name: row.get(f.name) for f in schema} for row in made[n::shards]]
            pq.write_table(pa.Table.from_pylist(part, schema=schema), path, row_group_size=7)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training, 24 calibration and 32 test images of 48 pixels: two content types, two generators, groups of two."""
    return write(tmp_path_factory.mktemp("tiny"), {"train": 64, "calibration": 24, "test": 32})


@pytest.fixture(scope="session")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 24 steps on 32-pixel crops."""
    from imaginet_build.baseline.train import Settings, train

    return train(tiny, tmp_path_factory.mktemp("checkpoint") / "seed-0", Settings(**QUICK)).checkpoint


@pytest.fixture(scope="session")
def write_release() -> Callable[..., Path]:
    """`write(folder, {split: rows}, side=48, shards=1)`."""
    return write


QUICK: dict[str, Any] = {"steps": 24, "batch": 16, "crop": 32, "width": 8, "threads": 1, "save_every": 10, "rate": 1e-2}


@pytest.fixture
def quick() -> dict[str, Any]:
    """Settings of a run of seconds."""
    return dict(QUICK)
