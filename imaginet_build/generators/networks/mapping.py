"""The mapping network of style-based generators: a latent and a class in, styles out, truncated towards the mean style."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from imaginet_build.generators.networks.base import Sampling, Shapes, Weights, Width
from imaginet_build.generators.networks.operations import dense, leaky, unit

if TYPE_CHECKING:
    from torch import Tensor


class Mapping(BaseModel):
    """Sizes of a mapping network.

    `widths`: of its layers, the last of which is the style's. `rate`: their learning rate, which scales weights and biases.
    `embedding`: how many numbers stand for a class beside the latent. `vectors`: the size of the fixed vectors of the classes
    (StyleGAN-XL: features of a classifier, arXiv:2202.00273, section 3.2), 0 where an embedding is learned alone; with
    them the mean style is kept for each class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    widths: Annotated[list[Width], Field(min_length=1, max_length=64)]
    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    embedding: Annotated[int, Field(ge=0, le=16_384)] = 0
    vectors: Annotated[int, Field(ge=0, le=16_384)] = 0

    @property
    def style_size(self) -> int:
        """How many numbers a style has."""
        return self.widths[-1]

    def shapes(self, latent_size: int, classes: int) -> Shapes:
        """Names and shapes of the weights."""
        found: Shapes = {}
        if classes:
            found["mapping.embed.weight"] = (self.embedding, self.vectors or classes)
            found["mapping.embed.bias"] = (self.embedding,)
            if self.vectors:
                found["mapping.vectors"] = (classes, self.vectors)
        inputs = latent_size + (self.embedding if classes else 0)
        for i, (before, after) in enumerate(pairwise([inputs, *self.widths])):
            found[f"mapping.layers.{i}.weight"] = (after, before)
            found[f"mapping.layers.{i}.bias"] = (after,)
        found["mapping.mean"] = (classes, self.style_size) if classes and self.vectors else (self.style_size,)
        return found

    def styles(self, weights: Weights, z: Tensor, label: Tensor | None, count: int, how: Sampling) -> Tensor:
        """(n, count, style_size): the same style `count` times, nearer to the mean where it is truncated."""
        import torch

        x = unit(z)
        if label is not None:
            weight, bias = weights["mapping.embed.weight"], weights["mapping.embed.bias"]
            if self.vectors:
                embedded = leaky(dense(weights["mapping.vectors"][label], weight, bias))
            else:
                # One column of the weights is what a one-hot vector picks.
                embedded = weight.T[label] / weight.shape[1] ** 0.5 + bias
            x = torch.cat([x, unit(embedded)], 1)
        for i in range(len(self.widths)):
            x = leaky(dense(x, weights[f"mapping.layers.{i}.weight"], weights[f"mapping.layers.{i}.bias"], self.rate))
        styles = x[:, None].repeat(1, count, 1)
        if how.truncation != 1:
            mean = weights["mapping.mean"]
            middle = mean[label] if mean.ndim == 2 else mean.expand_as(x)
            styles[:, : how.cutoff] = torch.lerp(middle[:, None], styles[:, : how.cutoff], how.truncation)
        return styles
