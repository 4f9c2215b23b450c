"""The project's own detector: a SelfCon network, the `small` preset for CPUs or the paper's `imaginet` (arXiv 2407.20020)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from imaginet_build.detectors.checkpoint import CONFIG, Checkpoint, Floats, Network, read_config, score
from imaginet_build.detectors.patches import Patch, patches
from imaginet_build.detectors.selfcon_networks import NetworkConfig, Preset, build, fit, import_torch
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.records import Item, Scores

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "imaginet_build.detectors.selfcon:SelfCon"
WEIGHTS = "model.safetensors"


class SelfCon(Checkpoint):
    """A trained SelfCon network. `model` is a checkpoint folder (model.safetensors and config.json).

    Every image is cut into crops of its native resolution on an even grid, at most `grid` by `grid`; the origin logits and the
    name probabilities are averaged over them. The same image always gets the same answer. Raises `UsageError` where there is no
    checkpoint or it is one of another preset, `BuildError` where its weights do not fit key by key.
    """

    def __init__(self, preset: Preset = "small", model: str | None = None, grid: int = 3, device: str | None = None) -> None:
        if model is None:
            raise UsageError(f"the {preset} detector has no weights yet; train it: build-imaginet baseline train")
        torch = import_torch("the SelfCon detector")
        config, self.network = load(Path(model))
        if config["preset"] != preset:
            raise UsageError(f"{model} holds a '{config['preset']}' network, not '{preset}'; name the right checkpoint")
        super().__init__(model, config, grid)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.network.eval().to(self._device)

    def score(self, items: Sequence[Item]) -> Scores:
        """P(synthetic), calibrated, and P(name) of every item. An image smaller than a crop is judged by what there is of
        it."""
        origins, named = answers(self.network, self.crop, items, self._grid, self._device)
        return Scores(self.calibration.probability(origins), named if self.names else None, self.names)

    def patches(self, image: Image.Image, most: int) -> list[Patch]:
        """P(synthetic) of overlapping crops over the whole image, at most `most` a side."""
        with inference(self.network, self._device) as run:
            return patches(run, image, self.crop, most, self.calibration)


def answers(network: nn.Module, crop: int, items: Iterable[Item], most: int = 3, device: str = "cpu") -> tuple[Floats, Floats]:
    """Every item's mean origin logit (n,), before calibration, and its mean probability of each name (n, names)."""
    head: Any = getattr(network, "named", None)
    names = int(head[-1].out_features) if head is not None else 0
    with inference(network, device) as run:
        return score(run, items, crop, most, names)


@contextmanager
def inference(network: nn.Module, device: str) -> Iterator[Network]:
    """The network as a function of crops, for as long as nothing is to be learned."""
    import torch

    def run(crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        origin, named = network(torch.from_numpy(crops).to(device))
        return origin.cpu().numpy(), named.cpu().numpy()

    with torch.inference_mode(), deterministic_convolutions():
        yield run


@contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """cuDNN told not to try several algorithms and keep the quickest; nothing changes on a CPU."""
    import torch

    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def save(folder: Path, network: nn.Module, config: Mapping[str, Any]) -> None:
    """Write the checkpoint so that it is either whole or absent: the weights first, config.json last."""
    from safetensors.torch import save as as_bytes

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    replace(folder / WEIGHTS, as_bytes(tensors))
    replace(folder / CONFIG, (json.dumps(config, indent=1, sort_keys=True) + "\n").encode())


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: written beside, synced, renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def network_config(config: Mapping[str, Any]) -> NetworkConfig:
    """The network's shape, out of a checkpoint's config."""
    shape = config["preset"], tuple(config["names"]), int(config["crop"]), int(config.get("width", 32))
    return NetworkConfig(*shape, sees=config.get("sees", "residual"))


def load(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """A checkpoint's config and its network, in eval mode. Every key and shape must match, or `BuildError` names what does
    not."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder, "preset", "names", "crop")
    network = build(network_config(config))
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UsageError(f"{folder} has no {WEIGHTS}; train again: build-imaginet baseline train") from None
    except SafetensorError as error:
        raise BuildError(f"{path} is damaged ({error}); train again: build-imaginet baseline train") from None
    fit(network, tensors, str(path))
    return config, network.eval()
