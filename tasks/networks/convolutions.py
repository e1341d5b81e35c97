"""Convolutional classifiers; a convolution is a matrix product on patches."""

from typing import Literal

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from l2o.registry import register
from tasks.networks.classifiers import Activations, ClassifierConfig
from tasks.networks.layers import Normalisation, Size, normalise


@register
class ConvClassifierConfig(ClassifierConfig):
    """A small convolutional network: 3 x 3 convolutions, each followed by 2 x 2 mean pooling, then a dense layer.

    Attributes:
      channels: output channels of each convolution.
      normalisation: of what enters each activation: "none", "layer" (the channels of a pixel) or "group" (groups of
        channels, over the image).
      groups: groups of channels where normalisation is "group"; a divisor of all channels.
    """

    kind: Literal["conv_classifier"] = "conv_classifier"
    channels: tuple[Size, ...] = Field(default=(8, 16), min_length=1, max_length=5, strict=False)
    normalisation: Normalisation = "none"
    groups: Size = 4

    @model_validator(mode="after")
    def _check(self):
        check_groups(self.normalisation, self.groups, self.channels)
        return self

    def network(self, images, classes, activation):
        x = images
        for channels in self.channels:
            x = activation(normalise(hk.Linear(channels)(patches(x)), self.normalisation, self.groups))
            x = mean_pool(x)
        return hk.Linear(classes)(x.reshape(x.shape[0], -1))


@register
class ResidualClassifierConfig(ClassifierConfig):
    """A small residual network of 3 x 3 convolutions, after He et al. (2016), "Identity mappings", without batch norm.

    A convolution, then stages of pre-activation blocks; between stages 2 x 2 mean pooling and a linear map to the next
    number of channels. The mean over all pixels goes to a dense layer, "head".

    Attributes:
      channels: of each stage.
      blocks: blocks of two convolutions in each stage.
      normalisation: "layer" (the channels of a pixel), "group" (groups of channels, over the image) or "none".
      groups: groups of channels where normalisation is "group"; a divisor of all channels.
      pool_first: 2 x 2 mean pooling of the images before anything else, so that all costs a quarter.
    """

    kind: Literal["residual_classifier"] = "residual_classifier"
    activation: Activations = "relu"
    init: Literal["normal", "lecun"] = "lecun"
    start_scale: float = Field(default=1.0, ge=0)
    channels: tuple[Size, ...] = Field(default=(8, 16, 32), min_length=1, max_length=5, strict=False)
    blocks: int = Field(default=1, ge=1, le=20)
    normalisation: Normalisation = "group"
    groups: Size = 4
    pool_first: bool = False

    @model_validator(mode="after")
    def _check(self):
        check_groups(self.normalisation, self.groups, self.channels)
        return self

    def network(self, images, classes, activation):
        def convolution(x, channels):
            return hk.Linear(channels, name="convolution")(patches(x))

        def active(x):
            return activation(normalise(x, self.normalisation, self.groups))

        x = mean_pool(images) if self.pool_first else images
        x = convolution(x, self.channels[0])
        for stage, channels in enumerate(self.channels):
            if stage:
                x = hk.Linear(channels, name="projection")(mean_pool(x))
            for _ in range(self.blocks):
                x = x + convolution(active(convolution(active(x), channels)), channels)
        return hk.Linear(classes, name="head")(active(x).mean((1, 2)))


def mean_pool(images: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c"]:
    """The means of 2 x 2 pixels."""
    return hk.avg_pool(images, (2, 2, 1), (2, 2, 1), "SAME")


def check_groups(normalisation: str, groups: int, channels: tuple[int, ...]) -> None:
    """Groups must share the channels of every layer evenly.

    Raises:
      ValueError: they do not.
    """
    if normalisation == "group" and any(n % groups for n in channels):
        raise ValueError(f"groups must divide all channels, found {groups} and {channels}")


def patches(images: Float[Array, "batch h w c"]) -> Float[Array, "batch h w 9*c"]:
    """The 3 x 3 neighbourhood of every pixel, zero outside the image.

    A convolution is then one matrix product, which a vmap over many small networks batches well on every backend.
    """
    _, h, w, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
