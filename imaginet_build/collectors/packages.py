"""The photographs that installed packages carry: real images for a machine without a network.

scikit-image and scikit-learn ship about twenty natural photographs under licences that allow reuse. Each is cut into square
crops that do not overlap, and all crops of one photograph share a group, so that they never straddle a split.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

from imaginet_build.errors import MissingExtra
from imaginet_build.records import Found, Refusal, Want, make_id

PHOTOGRAPHS: dict[str, dict[str, str]] = {
    "skimage/data": {
        "astronaut.png": "LicenseRef-public-domain",
        "brick.png": "CC0-1.0",
        "camera.png": "CC0-1.0",
        "cell.png": "CC0-1.0",
        "chelsea.png": "CC0-1.0",
        "clock_motion.png": "LicenseRef-public-domain",
        "coffee.png": "CC0-1.0",
        "coins.png": "LicenseRef-no-known-copyright",
        "grass.png": "CC0-1.0",
        "gravel.png": "CC0-1.0",
        "hubble_deep_field.jpg": "LicenseRef-public-domain",
        "ihc.png": "LicenseRef-no-known-copyright",
        "moon.png": "BSD-3-Clause",
        "motorcycle_left.png": "BSD-3-Clause",
        "motorcycle_right.png": "BSD-3-Clause",
        "retina.jpg": "CC0-1.0",
        "rocket.jpg": "LicenseRef-public-domain",
    },
    "sklearn/datasets/images": {"china.jpg": "CC-BY-2.0", "flower.jpg": "CC-BY-2.0"},
}
"""Package folder -> file -> licence, as the docstrings of `skimage.data` and scikit-learn's README state them; where those say
nothing, the package's own licence."""

SAME_SCENE = {"motorcycle_left.png": "motorcycle", "motorcycle_right.png": "motorcycle"}
"""Two views of one scene are one group."""


class Packages:
    """Square crops of `side` pixels of every photograph, as lossless PNG, at most `per_photograph` of each (0: all)."""

    def __init__(self, side: int = 256, per_photograph: int = 0) -> None:
        self.side = side
        self.per_photograph = per_photograph

    def find(self, want: Want) -> Iterator[Found | Refusal]:
        """The crops, photograph by photograph taken in turn, so that any number of them shows many photographs."""
        crops = [
            crop for folder, files in PHOTOGRAPHS.items() for file in files for crop in self._crops(folder, file, want.seed)
        ]
        for _, _, folder, file, left, top in sorted(crops):
            # The crop is a file of its own, a PNG whatever its photograph was.
            key = f"{folder}/{file}#{left},{top},{self.side}.png"
            if key not in want.have:
                yield self._cut(folder, file, left, top, key)

    def _crops(self, folder: str, file: str, seed: int) -> list[tuple[int, str, str, str, int, int]]:
        from PIL import Image

        with Image.open(_package_file(folder, file)) as image:
            width, height = image.size
        corners = [
            (x, y) for y in range(0, height - self.side + 1, self.side) for x in range(0, width - self.side + 1, self.side)
        ]
        corners.sort(key=lambda corner: make_id(seed, file, corner))
        taken = corners[: self.per_photograph or None]
        return [(turn, make_id(seed, file), folder, file, x, y) for turn, (x, y) in enumerate(taken)]

    def _cut(self, folder: str, file: str, left: int, top: int, key: str) -> Found:
        from PIL import Image

        with Image.open(_package_file(folder, file)) as image:
            crop = image.convert("RGB").crop((left, top, left + self.side, top + self.side))
        buffer = io.BytesIO()
        crop.save(buffer, "PNG")
        return Found(
            source_key=key,
            data=buffer.getvalue(),
            origin="real",
            category="photos",
            source=folder.split("/", maxsplit=1)[0],
            licence=PHOTOGRAPHS[folder][file],
            group=SAME_SCENE.get(file, file),
        )


def _package_file(folder: str, file: str) -> Path:
    package, _, rest = folder.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            "the source 'packages'", {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package], "quickstart"
        )
    return Path(spec.origin).parent / rest / file
