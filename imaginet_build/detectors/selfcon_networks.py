"""The two SelfCon networks, made on demand so that importing this module costs nothing.

Both give every crop two *views* of itself, as SelfCon asks (Bae et al., AAAI 2023): the features of the whole backbone, and
those of a sub-network that leaves it half way. Each view has its own projection head for the contrastive loss; two plain
heads sit on the backbone's features: one for the origin, one that names the generator (or family).

`imaginet` is the paper's (arXiv 2407.20020): ResNet-50 whose stem and max-pool keep their resolution, left after stage 2.
`resnet50` is the same with its down-sampling, as everybody else uses it.
`small` is for CPUs. It never sees colour or brightness as such: its input is what fixed high-pass filters leave of the luma and
chroma planes (the spatial rich model's, Fridrich & Kodovsky 2012), and beside the convolutions runs a branch of plain
statistics: how large each 8 x 8 DCT frequency is on average at three scales, how heavy its tails are, and a soft histogram of
the residuals. The branch finds in half a minute what the convolutions need many minutes for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from imaginet_build.detectors import resnet_weights
from imaginet_build.errors import BuildError, MissingExtra

if TYPE_CHECKING:
    from torch import Tensor, nn

Preset = Literal["small", "imaginet", "resnet50"]
Sees = Literal["residual", "rgb"]
Floats = npt.NDArray[np.float32]

BACKBONE_PARAMETERS = 23_508_032
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What decides a network's shape. `names`: what the second head tells apart, in order; none, no such head.
    `width`: channels of `small`'s first stage; it has 4 x `width` features, the others 2048. `sees`: what `small` looks at; as
    `rgb` it has neither filters nor statistics, and shows what they are worth."""

    preset: Preset
    names: tuple[str, ...]
    crop: int = 96
    width: int = 32
    sees: Sees = "residual"

    def as_json(self) -> dict[str, object]:
        """The same, for config.json."""
        return asdict(self) | {"names": list(self.names)}


def import_torch(who: str) -> Any:
    """torch, or `MissingExtra` that says how to get it."""
    try:
        import torch
    except ImportError:
        raise MissingExtra(who, "torch", "baseline") from None
    return torch


def high_pass_filters() -> Floats:
    """(4, 1, 5, 5): second differences along rows and columns, the 3 x 3 square and the 5 x 5 square of the rich model."""
    row = np.zeros((5, 5))
    row[2, 1:4] = 0.5, -1, 0.5
    square3 = np.zeros((5, 5))
    square3[1:4, 1:4] = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    side = np.array([-1, 2, -2, 2, -1])
    inner = np.array([2, -6, 8, -6, 2])
    square5 = np.stack([side, inner, [-2, 8, -12, 8, -2], inner, side]) / 12
    filters: Floats = np.stack([row, row.T, square3, square5])[:, None].astype(np.float32)
    return filters


def dct_filters() -> Floats:
    """(63, 1, 8, 8): the orthonormal DCT-II basis without its mean."""
    at = np.arange(8)
    basis = 0.5 * np.cos(np.pi * (2 * at[None] + 1) * at[:, None] / 16)
    basis[0] /= np.sqrt(2)
    filters: Floats = np.einsum("ai,bj->abij", basis, basis).reshape(64, 1, 8, 8)[1:].astype(np.float32)
    return filters


def mirrored_frequencies() -> Floats:
    """(63, 35): averages each DCT frequency (u, v) with (v, u): an image turned by a quarter keeps its statistics."""
    pairs = [(u, v) for u in range(8) for v in range(8)][1:]
    kinds = sorted({(min(p), max(p)) for p in pairs})
    table = np.zeros((63, len(kinds)), np.float32)
    for row, pair in enumerate(pairs):
        table[row, kinds.index((min(pair), max(pair)))] = 1
    averages: Floats = (table / table.sum(0)).astype(np.float32)
    return averages


def build(config: NetworkConfig, initial: str | None = None) -> nn.Module:
    """A fresh network: weights from torch's random state, or for a ResNet-50 from the ImageNet checkpoint `initial`: a folder
    or a name of transformers, or a file of torchvision's or timm's weights. It must fit key by key.

    `forward(x)` takes (n, 3, h, w) float32 pixels in [0, 255] and gives the origin logit (n,), above 0 meaning synthetic, and
    the names' logits (n, len(names)). `views(x)` gives both views' features, `project(deep, shallow)` the projections
    (n, 2, d) of unit length, `heads(deep)` what `forward` gives.
    """
    torch = import_torch("the SelfCon detector")
    from torch.nn import functional

    encoder = _small(config) if config.preset == "small" else _resnet(initial, config.preset == "resnet50")
    features, hidden, projected = (4 * config.width, 2 * config.width, 64) if config.preset == "small" else (2048, 1024, 128)

    class SelfConNetwork(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.projections = torch.nn.ModuleList([_projection(features, projected) for _ in range(2)])
            self.origin = _head(features, hidden, 1)
            self.named = _head(features, hidden, len(config.names)) if config.names else None

        def views(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return cast("tuple[Tensor, Tensor]", self.encoder(x))

        def project(self, deep: Tensor, shallow: Tensor) -> Tensor:
            both = [
                functional.normalize(head(view), dim=1) for head, view in zip(self.projections, (deep, shallow), strict=True)
            ]
            return torch.stack(both, dim=1)  # type: ignore[no-any-return]

        def heads(self, deep: Tensor) -> tuple[Tensor, Tensor]:
            return self.origin(deep)[:, 0], deep.new_zeros((len(deep), 0)) if self.named is None else self.named(deep)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.heads(self.views(x)[0])

    return cast("nn.Module", SelfConNetwork())


def _projection(features: int, out: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, out))


def _head(features: int, hidden: int, out: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.BatchNorm1d(features), nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, out)
    )


def _small(config: NetworkConfig) -> nn.Module:
    import torch
    from torch import nn
    from torch.nn import functional

    w = config.width
    planes = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])[:, :, None, None]
    bins, scales = 5, (1, 2, 4)

    def stage(inner: int, outer: int, side: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inner, outer, side, stride, side // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outer), nn.ReLU(inplace=True)]

    class Small(nn.Module):
        planes: Tensor
        high_pass: Tensor
        dct: Tensor
        mirrored: Tensor

        def __init__(self) -> None:
            super().__init__()
            # Fixed filters are no weights: they are not in the checkpoint.
            self.register_buffer("planes", planes, persistent=False)
            self.register_buffer("high_pass", torch.from_numpy(high_pass_filters()), persistent=False)
            self.register_buffer("dct", torch.from_numpy(dct_filters()), persistent=False)
            residual = config.sees == "residual"
            filters = 3 * len(self.high_pass) if residual else 3
            self.register_buffer("mirrored", torch.from_numpy(mirrored_frequencies()), persistent=False)
            statistics = (len(scales) + 1) * 3 * self.mirrored.shape[1] + filters * bins
            self.early = nn.Sequential(
                *stage(filters, w, 5, 2), *stage(w, w, 3, 1), *stage(w, 2 * w, 3, 2), *stage(2 * w, 2 * w, 3, 1)
            )
            self.late = nn.Sequential(*stage(2 * w, 4 * w, 3, 2), *stage(4 * w, 4 * w, 3, 1))
            self.shallow = nn.Linear(2 * w, 4 * w)
            self.counted = nn.Sequential(
                nn.BatchNorm1d(statistics),
                nn.Dropout(0.3),
                nn.Linear(statistics, 4 * w),
                nn.BatchNorm1d(4 * w),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Linear(4 * w, 4 * w),
            ) if residual else None  # fmt: skip

        def statistics(self, planes: Tensor, residual: Tensor) -> Tensor:
            """(n, 480): log mean size of each DCT frequency at three scales, its tail weight, the residuals' soft
            histograms."""
            n = planes.shape[0]
            found = []
            for scale in scales:
                seen = functional.avg_pool2d(planes, scale) if scale > 1 else planes
                c = functional.conv2d(seen.flatten(0, 1)[:, None], self.dct, stride=6 if scale == 1 else 4).flatten(2)
                size = torch.log(c.abs().mean(2) @ self.mirrored + 0.05)
                found.append(size.reshape(n, -1))
                if scale == 1:
                    tail = torch.log((c * c).mean(2) @ self.mirrored + 0.01) / 2 - size
                    found.append(tail.reshape(n, -1))
            flat = residual[:, :, ::2].flatten(2).abs() / 1.5
            found += [torch.relu(1 - (flat - k).abs()).mean(2) for k in range(bins)]
            return torch.cat(found, dim=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            if self.counted is None:
                early = self.early((x - 127.5) / 64)
                return self.late(early).mean((2, 3)), self.shallow(early.mean((2, 3)))
            n, _, height, width = x.shape
            with _full_precision(x):
                seen = functional.conv2d(x, self.planes)
                residual = functional.conv2d(seen.reshape(n * 3, 1, height, width), self.high_pass)
                residual = residual.reshape(n, -1, height - 4, width - 4)
                statistics = self.statistics(seen, residual)
            early = self.early((residual / 4).clamp(-3, 3))
            deep = self.late(early).mean((2, 3)) + self.counted(statistics)
            return deep, self.shallow(early.mean((2, 3)))

    return Small()


def _full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No half precision within: eight bits of mantissa round the noise of a bright pixel away."""
    import torch

    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _resnet(initial: str | None, down: bool) -> nn.Module:
    import torch
    from torch import nn

    try:
        from transformers import ResNetConfig, ResNetModel
    except ImportError:
        raise MissingExtra("the imaginet detector", "transformers", "baseline") from None

    if initial is None or Path(initial).is_file():
        backbone = ResNetModel(ResNetConfig())  # the library's default is ResNet-50: bottlenecks 3-4-6-3
        if initial is not None:
            fit(backbone, resnet_weights.backbone(resnet_weights.read(Path(initial)), initial), initial)
    else:
        backbone, info = ResNetModel.from_pretrained(initial, output_loading_info=True)
        if info["missing_keys"] or info["mismatched_keys"]:
            lacking = ", ".join(sorted(info["missing_keys"])[:3])
            raise BuildError(f"{initial} is not a ResNet-50: it lacks {lacking} …; name another checkpoint")
    if not down:
        backbone.embedder.embedder.convolution.stride = (1, 1)
        backbone.embedder.pooler = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    count = sum(p.numel() for p in backbone.parameters())
    if count != BACKBONE_PARAMETERS:
        raise BuildError(f"the backbone has {count:,} parameters, the paper's has {BACKBONE_PARAMETERS:,}; use a ResNet-50")

    class Encoder(nn.Module):
        mean: Tensor
        deviation: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.shallow = nn.Linear(512, 2048)
            self.register_buffer("mean", 255 * torch.tensor(_MEAN)[:, None, None], persistent=False)
            self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION)[:, None, None], persistent=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            seen = self.backbone((x - self.mean) / self.deviation, output_hidden_states=True)
            deep: Tensor = seen.pooler_output.flatten(1)
            return deep, self.shallow(seen.hidden_states[2].mean((2, 3)))

    return Encoder()


def fit(network: nn.Module, tensors: Mapping[str, Any], where: str) -> None:
    """Load a state dict into `network`, or `BuildError`: missing, unexpected and misshapen keys are all refused."""
    wanted = network.state_dict()
    faults = [f"{k} is missing" for k in sorted(wanted.keys() - tensors.keys())]
    faults += [f"{k} is not part of it" for k in sorted(tensors.keys() - wanted.keys())]
    faults += [
        f"{k} has shape {tuple(tensors[k].shape)}, not {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & tensors.keys())
        if tensors[k].shape != wanted[k].shape
    ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise BuildError(f"{where} does not fit this network: {'; '.join(faults[:4])}{more}. Nothing was loaded.")
    network.load_state_dict(tensors)


def multi_label_loss(projected: Tensor, origin: Tensor, named: Tensor, temperature: float = 0.07) -> Tensor:
    """SelfCon's loss for both labelings: over origin on the whole batch, plus over names on the synthetic images alone.

    `projected`: (n, 2, d) of unit length, the two views of each image. `origin`: (n,) with 1 for synthetic. `named`: (n,), read
    where `origin` is 1. A batch without synthetic images adds 0 for the second part, with finite gradients.
    """
    synthetic = origin == 1
    return contrastive(projected, origin, temperature) + contrastive(projected[synthetic], named[synthetic], temperature)


def contrastive(projected: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, the sum outside the logarithm) with every view of every image as anchor.

    `projected`: (n, 2, d); `labels`: (n,). The mean over the 2 n anchors of the mean over their positives (every other view of
    the same label) of -log softmax over all other views. 0 with finite gradients for n = 0.
    """
    import torch

    n = projected.shape[0]
    if n == 0:
        return projected.sum()
    views = torch.cat([projected[:, 0], projected[:, 1]])
    same = labels.repeat(2)[:, None] == labels.repeat(2)[None]
    itself = torch.eye(2 * n, dtype=torch.bool, device=views.device)
    logits = (views @ views.T / temperature).masked_fill(itself, float("-inf"))
    log_p = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)
    positive = (same & ~itself).to(log_p.dtype)
    return -((log_p * positive).sum(1) / positive.sum(1)).mean()
