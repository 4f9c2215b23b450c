"""A detector exported to ONNX: runs on onnxruntime alone, without torch. The small detector that ships is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors.checkpoint import calibration_of, read_config, score
from imaginet_build.errors import BuildError, MissingExtra, UsageError
from imaginet_build.records import Item, Scores

WEIGHTS = "model.onnx"


class Onnx:
    """An exported network. `model` is a folder with model.onnx and config.json, as `baseline.export.export` writes it.

    The graph takes `pixels` (n, 3, h, w) float32 in [0, 255] and gives `origin` (n,) and `named` (n, names) logits. Crops and
    averaging are those of the detector it came from. Raises `UsageError` where the folder is not such a checkpoint.
    """

    def __init__(self, model: str, grid: int = 3, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("the exported detector", "onnxruntime", "all") from None
        folder = Path(model)
        self.config = read_config(folder, "names", "crop")
        if not (folder / WEIGHTS).is_file():
            raise UsageError(f"{folder} has no {WEIGHTS}; make it with imaginet_build.baseline.export.export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(folder / WEIGHTS), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime raises types of its own that are not importable by a stable name.
            raise BuildError(f"{folder / WEIGHTS} cannot be loaded ({error}); export it again") from error
        self.checkpoint = model
        self.names: tuple[str, ...] = tuple(self.config["names"])
        self.names_are: str = self.config.get("names_are", "generator")
        self.crop = int(self.config["crop"])
        self.calibration = calibration_of(self.config)
        self._grid = grid

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic), calibrated, and P(name) of every item."""

        def run(crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            origin, named = self._session.run(["origin", "named"], {"pixels": crops})
            return origin, named

        origins, named = score(run, items, self.crop, self._grid, len(self.names))
        return Scores(self.calibration.probability(origins), named, self.names)
