"""Autoencoders of images, the classical test of optimizers on networks that narrow (Hinton and Salakhutdinov, 2006)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import SerializeAsAny

from l2o.registry import by_kind, register
from tasks.datasets import DatasetConfig, DigitsConfig
from tasks.family import Split
from tasks.networks.base import NetworkConfig, NetworkFamily, rows
from tasks.networks.layers import ACTIVATIONS, Activation, Depth, Size, hidden_layers


@register
class AutoencoderConfig(NetworkConfig):
    """Images through a bottleneck and back; tasks differ in their start.

    Attributes:
      dataset: any registered dataset; its labels are not read.
      width: hidden units per layer.
      depth: hidden layers before the bottleneck, and as many after it.
      bottleneck: numbers, without an activation, that an image has to go through.
      activation: nonlinearity of the hidden layers.
      loss: "squared_error" of the intensities, or the "cross_entropy" of pixels that are white with a probability;
        both are means over pixels.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    dataset: Annotated[SerializeAsAny[DatasetConfig], by_kind(DatasetConfig)] = DigitsConfig()
    width: Size = 64
    depth: Depth = 1
    bottleneck: Size = 8
    activation: Activation = "tanh"
    loss: Literal["squared_error", "cross_entropy"] = "squared_error"

    def build(self, split: Split = "train") -> "Autoencoder":
        """The family on one split of the images (see `DatasetConfig.load`)."""
        data = self.dataset.load(split)
        return Autoencoder(jnp.asarray(data.images), jnp.asarray(data.heldout_images), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Autoencoder(NetworkFamily):
    """The family of `AutoencoderConfig`. What comes out are logits where the loss is a cross entropy."""

    images: Float[Array, "n h w c"]
    heldout_images: Float[Array, "m h w c"]
    config: AutoencoderConfig = field(metadata={"static": True})

    def outputs(self, inputs, variant):
        config, activation = self.config, ACTIVATIONS[self.config.activation]
        x = inputs.reshape(len(inputs), -1)
        pixels = x.shape[-1]
        x = hidden_layers(x, config.width, config.depth, activation)
        x = hk.Linear(config.bottleneck, name="bottleneck")(x)
        x = hidden_layers(x, config.width, config.depth, activation)
        return hk.Linear(pixels, name="head")(x)

    def minibatch(self, key, variant):
        images = self.images[rows(key, self.config, 0, len(self.images))]
        return images, images

    def heldout(self, variant):
        return self.heldout_images, self.heldout_images

    def scores(self, outputs, targets):
        targets = targets.reshape(len(targets), -1)
        if self.config.loss == "cross_entropy":
            return {"loss": jnp.mean(optax.losses.sigmoid_binary_cross_entropy(outputs, targets))}
        return {"loss": jnp.mean((outputs - targets) ** 2)}
