"""A detector exported to OpenVINO's own form (model.xml and model.bin)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors.exported import Exported
from imaginet_build.errors import BuildError, MissingExtra, UsageError

ADAPTER = "imaginet_build.detectors.openvino:OpenVino"
WEIGHTS, TENSORS = "model.xml", "model.bin"


def import_openvino(who: str) -> Any:
    """openvino, or `MissingExtra` that says how to get it. It reports nothing home.

    Importing it sends a message to its makers where the package openvino_telemetry can be imported, and does without where it
    cannot.
    """
    absent = sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra(who, "openvino", "openvino") from None
    finally:
        if absent is None:
            del sys.modules["openvino_telemetry"]
    return openvino


class OpenVino(Exported):
    """An exported network on OpenVINO's CPU device. `model` is a folder with model.xml, model.bin and config.json. `threads`: 0
    for every core.

    Raises `UsageError` where the folder is not such a checkpoint, `BuildError` where the graph cannot be loaded.
    """

    def __init__(self, model: str | None = None, grid: int = 3, threads: int = 0) -> None:
        if model is None:
            raise UsageError("no network is exported to OpenVINO yet; make one: build-imaginet baseline export")
        openvino = import_openvino("this exported detector")
        super().__init__(model, WEIGHTS, grid)
        # f32: on newer machines it would compute in 16 bits on its own accord. One stream: one request at a time is made.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(self.file), "CPU", settings)
            self._request: Any = compiled.create_infer_request()
            self._outputs = list(compiled.outputs)
        except RuntimeError as error:
            raise BuildError(f"{self.file} cannot be loaded ({error}); export it again") from error

    def run(self, crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `Exported.run`."""
        found = self._request.infer([crops])
        origin, *named = (np.array(found[output]) for output in self._outputs)
        return origin, named[0] if named else np.empty((len(crops), 0))
