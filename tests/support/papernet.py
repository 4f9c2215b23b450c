"""A checkpoint of the paper's network without the paper's training: its own layers and size, its head fitted to a release.

The backbone keeps its random weights, its batch norm what the release's crops look like; the origin's head is a logistic
regression on the features. So logits spread as a trained network's do, and an AUC can be lost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imaginet_build.baseline.data import splits
from imaginet_build.detectors import selfcon
from imaginet_build.detectors.checkpoint import Calibration, grid
from imaginet_build.detectors.selfcon_networks import NetworkConfig, build


def fitted(folder: Path, data: Path, crop: int = 48) -> Path:
    """Write the checkpoint to `folder`; `data`'s train split has images of `crop` pixels or more."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(0)
    shape = NetworkConfig("imaginet", ("soft", "softer"), crop)
    network = build(shape)
    rows = splits(data)["train"]
    crops = torch.from_numpy(np.concatenate([grid(rows.image(i), crop, 1) for i in range(len(rows))]))
    with torch.inference_mode():
        network.train()
        for at in range(0, len(crops), 16):
            network.views(crops[at : at + 16])
        network.eval()
        deep = torch.cat([network.views(crops[at : at + 16])[0] for at in range(0, len(crops), 16)])
    head = network.get_submodule("origin")
    norm, first, last = (layer for layer in head if any(True for _ in layer.parameters()))
    with torch.inference_mode():
        norm.running_mean.copy_(deep.mean(0))
        norm.running_var.copy_(deep.var(0))
        norm.eval()
        hidden = torch.relu(first(norm(deep))).numpy()
        scale = StandardScaler().fit(hidden)
        model = LogisticRegression(C=0.01, max_iter=1000).fit(scale.transform(hidden), rows.label)
        weight = model.coef_[0] / scale.scale_
        last.weight.copy_(torch.from_numpy(weight.astype(np.float32))[None])
        last.bias.fill_(float(model.intercept_[0] - weight @ scale.mean_))
    config = shape.as_json() | {
        "adapter": selfcon.ADAPTER, "card": "imaginet", "calibration": Calibration().as_json(), "note": "for a test",
    }  # fmt: skip
    selfcon.save(folder, network, config)
    return folder
