"""ResNet-50 weights of other people's files, under the names that `transformers.ResNetModel` uses.

torchvision, timm and the ImagiNet authors (github.com/delyan-boychev/imaginet, training_utils/networks/resnet_big.py) call the
layers alike: `conv1`, `bn1`, `layer1.0.conv2`, …; the convolution beside a block is `downsample.0` or `shortcut.0`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imaginet_build.errors import BuildError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

_LAYER = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([1-3])|(?:downsample|shortcut)\.([01]))\.(\w+)")
_STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
_KIND = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}


def read(path: Path) -> dict[str, Any]:
    """What a file of weights holds: safetensors, or PyTorch's own format read without running any code in it.

    Raises `UsageError` where there is no file, `BuildError` where it is neither, or holds more than weights.
    """
    import torch

    if not path.is_file():
        raise UsageError(f"{path} does not exist; name a file of weights (.safetensors, .pt, .pth)")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise BuildError(f"{path} is damaged ({error}); get it again") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        said = type(error).__name__
        raise BuildError(f"{path} is no file of weights alone, and code in it is not run ({said})") from None
    if not isinstance(found, dict):
        raise BuildError(f"{path} holds {type(found).__name__}, not named weights")
    return found


def backbone(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The backbone's weights by their names in `transformers.ResNetModel`; a classifier's `fc` is left out.

    Raises `BuildError` for a name that belongs to no ResNet-50.
    """
    found, strange = {}, []
    for name, tensor in tensors.items():
        if name.startswith("fc."):
            continue
        if (known := _named(name)) is None:
            strange.append(name)
        else:
            found[known] = tensor
    if strange:
        raise BuildError(
            f"{where} is not a ResNet-50: {', '.join(sorted(strange)[:3])} {'…' if len(strange) > 3 else ''}".rstrip()
        )
    return found


def _named(name: str) -> str | None:
    module, _, leaf = name.rpartition(".")
    if module in _STEM:
        return f"{_STEM[module]}.{leaf}"
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    stage, block, kind, number, beside, leaf = match.groups()
    place = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    return f"{place}.shortcut.{_KIND[beside]}.{leaf}" if beside else f"{place}.layer.{int(number) - 1}.{_KIND[kind]}.{leaf}"
