"""The authors' published checkpoint as a checkpoint of ours.

github.com/delyan-boychev/imaginet publishes `imaginet_weights.pt`: `model` (ConResNet of training_utils/networks/resnet_big.py:
the backbone `encoder`, its sub-network `encoder.selfcon_layer.1`, the projections `head` and `sub_heads.0`) and `classifier`,
the origin head that was trained on it. It is read as weights alone, renamed key by key, and refused unless each has its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaginet_build.detectors import resnet_weights, selfcon
from imaginet_build.detectors.checkpoint import CONFIG, Calibration
from imaginet_build.detectors.selfcon_networks import NetworkConfig, build, fit, import_torch
from imaginet_build.errors import BuildError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

CROP = 256
"""Pixels: the authors judge crops of this side."""
_PARTS = {
    "encoder.selfcon_layer.1.": "encoder.shallow.",
    "head.": "projections.0.",
    "sub_heads.0.": "projections.1.",
}
_ASIDE = frozenset({"optimizer", "epoch", "opt", "scheduler"})
"""What a training leaves beside the weights."""


def take(file: Path, out: Path) -> Path:
    """Write the published checkpoint `file` as a checkpoint folder that `detect` and `baseline evaluate` use; gives the folder.

    Its probabilities are the head's own until they are calibrated on a split. Raises `UsageError` where `file` does not exist,
    `BuildError` where a key is missing, unknown or of another shape, or anything but weights is inside.
    """
    import_torch("baseline import")
    if (out / CONFIG).exists():
        raise UsageError(f"{out} holds a checkpoint already; name another folder with --out")
    held = resnet_weights.read(file)
    strange = sorted(map(str, held.keys() - {"model", "classifier"} - _ASIDE))
    if strange or not all(isinstance(held.get(part), Mapping) for part in ("model", "classifier")):
        raise BuildError(f"{file} is not the published checkpoint: it holds {_few(held)}, not model and classifier")
    config = NetworkConfig("imaginet", (), CROP)
    network = build(config)
    fit(network, renamed(held["model"], held["classifier"], str(file)), str(file))
    selfcon.save(
        out,
        network.eval(),
        {
            "adapter": selfcon.ADAPTER,
            "card": "imaginet",
            **config.as_json(),
            "names_are": "family",
            "families": {},
            "calibration": Calibration().as_json(),
            "trained": {"on": f"published weights: {file.name}"},
            "note": "the authors' weights; their head tells origins apart and names no generator; not calibrated here",
        },
    )
    return out


def renamed(model: Mapping[str, Tensor], classifier: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Both state dicts under this package's names. Raises `BuildError` for a key that has none."""
    found: dict[str, Any] = {f"origin.{key}": tensor for key, tensor in classifier.items()}
    rest: dict[str, Tensor] = {}
    # Several GPUs leave their wrapper's name in each key.
    for key, tensor in ((name.replace("module.", "", 1), value) for name, value in model.items()):
        part = next((old for old in _PARTS if key.startswith(old)), None)
        if part is not None:
            found[_PARTS[part] + key.removeprefix(part)] = tensor
        else:
            rest[key.removeprefix("encoder.")] = tensor
    return found | {f"encoder.backbone.{key}": value for key, value in resnet_weights.backbone(rest, where).items()}


def _few(held: Mapping[Any, Any]) -> str:
    names = sorted(map(str, held))
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
