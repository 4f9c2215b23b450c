"""Generator networks of GANs in plain PyTorch: inference only, own code from the papers, no custom CUDA, no pickles.

`build(config)` turns a `config.json` into a `base.Network`, which has sizes but no weights until `load` gives it all of them. A
new architecture is one module here and a line in `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from imaginet_build import toml
from imaginet_build.errors import UsageError, suggest
from imaginet_build.generators.networks.base import Network, Noise, Sampling
from imaginet_build.generators.networks.dcgan import DCGAN
from imaginet_build.generators.networks.progan import ProGAN
from imaginet_build.generators.networks.skiplayer import SkipLayer
from imaginet_build.generators.networks.stylegan2 import StyleGAN2
from imaginet_build.generators.networks.stylegan3 import StyleGAN3, StyleGANXL

__all__ = ["ARCHITECTURES", "Network", "Noise", "Sampling", "build"]

ARCHITECTURES: dict[str, type[Network]] = {
    "dcgan": DCGAN,
    "progan": ProGAN,
    "skip-layer": SkipLayer,
    "stylegan2": StyleGAN2,
    "stylegan3": StyleGAN3,
    "stylegan-xl": StyleGANXL,
}


def build(config: Mapping[str, Any], name: str = "this model") -> Network:
    """The network that `config["architecture"]` names, without weights; the other keys are its sizes.

    UsageError where the architecture is unknown, or sizes are missing, not understood or do not fit together, all at once;
    `name` is for the message.
    """
    settings = dict(config)
    architecture = str(settings.pop("architecture", ""))
    if architecture not in ARCHITECTURES:
        near = suggest(architecture, ARCHITECTURES)
        known = ", ".join(sorted(ARCHITECTURES))
        raise UsageError(f"{name}: config.json names the architecture '{architecture}'{near}; known here: {known}")
    make = ARCHITECTURES[architecture]
    try:
        return make.model_validate(settings)
    except ValidationError as e:
        faults = "; ".join(toml.describe(e, make, settings)).removeprefix("the recipe: ")
        raise UsageError(f"{name}: config.json does not fit the architecture '{architecture}': {faults}") from e
