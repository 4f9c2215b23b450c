"""A trained detector as one ONNX file, checked against torch before it counts."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imaginet_build.baseline.train import load_checkpoint, put
from imaginet_build.detectors.checkpoint import CONFIG, SMALLEST
from imaginet_build.errors import BuildError, MissingExtra

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

WEIGHTS = "model.onnx"
TOLERANCE = 1e-4
"""The largest difference in a logit between ONNX Runtime and torch that an export may have."""


@dataclass(frozen=True, slots=True)
class Exported:
    """`difference`: the largest in any logit, over crops of noise and of flat grey, in two sizes and two batch sizes."""

    model: Path
    nbytes: int
    difference: float


def export(checkpoint: Path, out: Path) -> Exported:
    """Write `out`/model.onnx (fp32) and config.json from a SelfCon checkpoint. Any batch size, any height and width of 32 or
    more.

    Nothing is written unless ONNX Runtime agrees with torch to `TOLERANCE` in every logit (`BuildError`).
    """
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise MissingExtra("exporting a checkpoint", "onnx", "baseline") from None
    config, network = load_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        _write(network, path, int(config["crop"]))
        difference = _difference(network, path, int(config["crop"]))
        data = path.read_bytes()
    if not difference <= TOLERANCE:
        raise BuildError(
            f"ONNX Runtime differs from torch by {difference:.1e} in a logit, more than {TOLERANCE:.0e}; not exported"
        )
    out.mkdir(parents=True, exist_ok=True)
    put(out / WEIGHTS, data)
    text = json.dumps(config | {"adapter": "imaginet_build.detectors.onnx:Onnx", "card": "onnx"}, indent=1, sort_keys=True)
    put(out / CONFIG, (text + "\n").encode())
    log.info("exported %s: %d bytes, at most %.1e from torch", out / WEIGHTS, len(data), difference)
    return Exported(out / WEIGHTS, len(data), difference)


def _write(network: nn.Module, path: Path, crop: int) -> None:
    import torch

    axes = {"pixels": {0: "crops", 2: "height", 3: "width"}, "origin": {0: "crops"}, "named": {0: "crops"}}
    with warnings.catch_warnings():
        # The exporter that traces is deprecated, but the newer one needs onnxscript, one more package, for the same file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, crop, crop),),
            str(path),
            input_names=["pixels"],
            output_names=["origin", "named"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def _difference(network: nn.Module, path: Path, crop: int) -> float:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    worst = 0.0
    for rows, side in ((3, crop), (1, crop), (2, max(SMALLEST, crop // 2))):
        noise = random.integers(0, 256, (rows, 3, side, side)).astype(np.float32)
        for pixels in (noise, np.full_like(noise, 127)):
            with torch.inference_mode():
                wanted = [t.numpy() for t in network(torch.from_numpy(pixels))]
            got = session.run(["origin", "named"], {"pixels": pixels})
            worst = max([worst, *(float(np.abs(w - g).max()) for w, g in zip(wanted, got, strict=True))])
    return worst
