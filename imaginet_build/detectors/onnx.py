"""A detector exported to ONNX: runs on onnxruntime alone, without torch. The small detector that ships is one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors.exported import Exported
from imaginet_build.errors import BuildError, MissingExtra

ADAPTER = "imaginet_build.detectors.onnx:Onnx"
WEIGHTS = "model.onnx"
_SLICE = 8
"""Crops run at once: a core's cache holds no more. Slices side by side, a thread each, take 0.8 of the CPU time that one large
batch does whose threads share every layer, and their size does not depend on how many there are."""


class Onnx(Exported):
    """An exported network on ONNX Runtime. `model` is a folder with model.onnx and config.json. `threads`: 0 for every core.

    Raises `UsageError` where the folder is not such a checkpoint, `BuildError` where the graph cannot be loaded.
    """

    def __init__(self, model: str, grid: int = 3, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("the exported detector", "onnxruntime", "all") from None
        super().__init__(model, WEIGHTS, grid)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(self.file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises types of its own that are not importable by a stable name.
            raise BuildError(f"{self.file} cannot be loaded ({error}); export it again") from error
        workers = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def run(self, crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `Exported.run`."""
        slices = [crops[at : at + _SLICE] for at in range(0, len(crops), _SLICE)]
        found = list(self._pool.map(self._slice, slices) if self._pool and len(slices) > 1 else map(self._slice, slices))
        return np.concatenate([origin for origin, _ in found]), np.concatenate([named for _, named in found])

    def _slice(self, crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        origin, *named = self._session.run(None, {"pixels": crops})
        return origin, named[0] if named else np.empty((len(crops), 0))
