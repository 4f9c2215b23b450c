"""What detectors of exported networks share, whichever library runs them: `baseline export` writes their folders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.detectors.checkpoint import Checkpoint, Floats, read_config, score
from imaginet_build.detectors.patches import Patch, patches
from imaginet_build.errors import UsageError
from imaginet_build.records import Item, Scores


class Exported(Checkpoint, ABC):
    """An exported network: `weights` beside config.json in the folder `model`.

    The network takes `pixels` (n, 3, h, w) float32 in [0, 255] and gives `origin` (n,) and, where there are names, `named`
    (n, names) logits. Crops and averaging are those of the detector it came from. Raises `UsageError` where the folder is not
    such a checkpoint.
    """

    def __init__(self, model: str, weights: str, grid: int) -> None:
        folder = Path(model)
        super().__init__(model, read_config(folder, "names", "crop"), grid)
        self.file = folder / weights
        if not self.file.is_file():
            raise UsageError(f"{folder} has no {weights}; make it with: build-imaginet baseline export")

    @abstractmethod
    def run(self, crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Origin logits (n,) and name logits (n, names) of crops (n, 3, h, w) of 32 pixels a side or more."""

    def logits(self, items: Iterable[Item]) -> tuple[Floats, Floats]:
        """Every item's mean origin logit (n,), before calibration, and its mean probability of each name (n, names)."""
        return score(self.run, items, self.crop, self._grid, len(self.names))

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic), calibrated, and P(name) of every item."""
        origins, named = self.logits(items)
        return Scores(self.calibration.probability(origins), named if self.names else None, self.names)

    def patches(self, image: Image.Image, most: int) -> list[Patch]:
        """P(synthetic) of overlapping crops over the whole image, at most `most` a side."""
        return patches(self.run, image, self.crop, most, self.calibration)
