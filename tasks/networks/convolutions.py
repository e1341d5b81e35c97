"""Convolutional classifiers; a convolution is a matrix product on patches."""

from typing import Literal

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.registry import register
from tasks.networks.classifiers import ClassifierConfig
from tasks.networks.layers import Size


@register
class ConvClassifierConfig(ClassifierConfig):
    """A small convolutional network: 3 x 3 convolutions, each followed by 2 x 2 mean pooling, then a dense layer.

    Attributes:
      channels: output channels of each convolution.
    """

    kind: Literal["conv_classifier"] = "conv_classifier"
    channels: tuple[Size, ...] = Field(default=(8, 16), min_length=1, max_length=5, strict=False)

    def network(self, images, classes, activation):
        x = images
        for channels in self.channels:
            x = activation(hk.Linear(channels)(patches(x)))
            x = hk.avg_pool(x, (2, 2, 1), (2, 2, 1), "SAME")
        return hk.Linear(classes)(x.reshape(x.shape[0], -1))


def patches(images: Float[Array, "batch h w c"]) -> Float[Array, "batch h w 9*c"]:
    """The 3 x 3 neighbourhood of every pixel, zero outside the image.

    A convolution is then one matrix product, which a vmap over many small networks batches well on every backend.
    """
    _, h, w, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
