"""Trains in one of several processes, as `accelerate launch` starts them: `sharing.py RELEASE OUT SETTINGS(json)`.

Dropout is left out: each process draws masks of its own, which one process for all cannot repeat.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch import nn

from imaginet_build.baseline import loop
from imaginet_build.baseline.settings import Settings
from imaginet_build.baseline.train import train

built = loop.build


def without_dropout(*arguments: object) -> nn.Module:
    network = built(*arguments)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


if __name__ == "__main__":
    loop.build = without_dropout
    train(Path(sys.argv[1]), Path(sys.argv[2]), Settings.of(**json.loads(sys.argv[3])))
