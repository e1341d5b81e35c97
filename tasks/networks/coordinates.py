"""Coordinate networks: an image as a function of position, learned from some of its pixels."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pydantic import Field, SerializeAsAny

from l2o.registry import by_kind, register
from tasks.datasets import DatasetConfig, PhotographsConfig
from tasks.family import Split
from tasks.networks.base import NetworkConfig, NetworkFamily, rows
from tasks.networks.layers import ACTIVATIONS, Depth, Size, hidden_layers

HOLDOUT = 0.2  # share of an image's pixels that no inner training sees
SHUFFLE_SEED = 2016


@register
class CoordinateNetworkConfig(NetworkConfig):
    """The intensity of a pixel from its position, in squared error; tasks differ in their image and start.

    Positions are in [-1, 1]^2. With frequencies, their random Fourier features are the inputs (Tancik et al., 2020):
    sine and cosine of pi times the position in directions that are drawn from a normal distribution, once and for
    all tasks.

    Attributes:
      dataset: any registered dataset; its labels are not read.
      width: hidden units per layer.
      depth: hidden layers.
      activation: nonlinearity of the hidden layers.
      frequencies: how many Fourier features there are of each kind; 0 gives the network the position itself.
      bandwidth: standard deviation of the frequencies, in periods over half of the image.
    """

    kind: Literal["coordinate_network"] = "coordinate_network"
    dataset: Annotated[SerializeAsAny[DatasetConfig], by_kind(DatasetConfig)] = PhotographsConfig()
    width: Size = 64
    depth: Depth = 3
    activation: Literal["tanh", "relu", "swish"] = "relu"
    frequencies: int = Field(default=32, ge=0, le=10_000)
    bandwidth: float = Field(default=4.0, gt=0)

    def build(self, split: Split = "train") -> "CoordinateNetworks":
        """The family on the images of one split (see `DatasetConfig.load`)."""
        images = self.dataset.load(split).images
        order = np.random.default_rng(SHUFFLE_SEED).permutation(images.shape[1] * images.shape[2])
        heldout, seen = np.split(order, [round(HOLDOUT * len(order))])
        return CoordinateNetworks(jnp.asarray(images), jnp.asarray(seen), jnp.asarray(heldout), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CoordinateNetworks(NetworkFamily):
    """The family of `CoordinateNetworkConfig`. Its variants are the images; pixels are numbered row by row."""

    images: Float[Array, "n h w c"]
    seen: Int[Array, "pixels"]
    heldout_pixels: Int[Array, "others"]
    config: CoordinateNetworkConfig = field(metadata={"static": True})

    @property
    def variants(self):
        return len(self.images)

    def outputs(self, inputs, variant):
        config, x = self.config, inputs
        if config.frequencies:
            normals = np.random.default_rng(SHUFFLE_SEED).normal(size=(2, config.frequencies))
            angles = jnp.pi * inputs @ jnp.asarray(config.bandwidth * normals, inputs.dtype)
            x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        x = hidden_layers(x, config.width, config.depth, ACTIVATIONS[config.activation])
        return hk.Linear(self.images.shape[-1], name="head")(x)

    def minibatch(self, key, variant):
        return self._pixels(self.seen[rows(key, self.config, 0, len(self.seen))], variant)

    def heldout(self, variant):
        return self._pixels(self.heldout_pixels, variant)

    def _pixels(self, numbers, variant):
        _, height, width, channels = self.images.shape
        row, column = numbers // width, numbers % width
        position = jnp.stack([column / max(width - 1, 1), row / max(height - 1, 1)], axis=-1) * 2 - 1
        return position, self.images[variant].reshape(-1, channels)[numbers]

    def scores(self, outputs, targets):
        return {"loss": jnp.mean((outputs - targets) ** 2)}
