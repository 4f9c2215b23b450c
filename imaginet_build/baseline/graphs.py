"""A network as a file for another runtime: ONNX in fp32, ONNX in int8, and either in OpenVINO's own form."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors.openvino import import_openvino
from imaginet_build.errors import MissingExtra

if TYPE_CHECKING:
    from torch import nn

Crops = npt.NDArray[np.float32]

_QUANTIZED = ("Conv", "Add", "MaxPool", "GlobalAveragePool")
_FIXED = re.compile(r"(/network)?/encoder/[^/]+")
"""Nodes that no submodule owns: fixed filters and statistics, whose small values eight bits would lose."""
_EARLY = 0.125


def fp32(network: nn.Module, path: Path, crop: int) -> None:
    """The network as ONNX: `pixels` (n, 3, h, w) in [0, 255] to `origin` (n,) and, where it names anything, `named`; any batch,
    height and width."""
    import torch

    class OriginAlone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:
            return self.network(x)[0]

    outputs = ["origin", "named"] if getattr(network, "named", None) is not None else ["origin"]
    axes = {"pixels": {0: "crops", 2: "height", 3: "width"}} | {name: {0: "crops"} for name in outputs}
    with warnings.catch_warnings():
        # The exporter that traces is deprecated, but the newer one needs onnxscript, one more package, for the same file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            (network if len(outputs) == 2 else OriginAlone()).eval(),
            (torch.zeros(2, 3, crop, crop),),
            str(path),
            input_names=["pixels"],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def int8(whole: Path, path: Path, crops: Crops, mixed: bool = False) -> None:
    """The fp32 graph `whole` with eight bits a weight and activation (static QDQ, a scale a channel), its ranges those that
    real `crops` (n, 3, side, side) take.

    Fixed filters, statistics and the heads stay fp32; with `mixed` also the first eighth of the convolutions, where an error
    goes through everything that follows.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows: Iterator[Crops] = (crops[k : k + 1] for k in range(len(crops)))

        def get_next(self) -> dict[str, Crops] | None:
            row = next(self.rows, None)
            return None if row is None else {"pixels": row}

    ready = path.with_suffix(".ready.onnx")
    with _quiet():
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=_spared(ready, mixed),
        )
    ready.unlink()


def _spared(path: Path, mixed: bool) -> list[str]:
    import onnx

    nodes = onnx.load(str(path)).graph.node
    own = [node.name for node in nodes if _FIXED.fullmatch(node.name) or "/encoder/" not in node.name]
    convolutions = [node.name for node in nodes if node.op_type == "Conv" and node.name not in own]
    early = convolutions[: round(_EARLY * len(convolutions))] if mixed else []
    return [*own, *early]


def openvino(source: Path, path: Path) -> None:
    """The ONNX file `source` in OpenVINO's form: `path` (.xml) and its weights beside it, in full precision."""
    library: Any = import_openvino("exporting to OpenVINO")
    library.save_model(library.Core().read_model(source), path, compress_to_fp16=False)


def import_onnx() -> None:
    """`MissingExtra` where a package that exporting needs is not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingExtra("exporting a checkpoint", "onnx", "baseline") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer speaks through the root logger of things that nobody can act on."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
