"""Image classifiers as tasks: what is optimized are the weights of a small network on real data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import Field, SerializeAsAny

from l2o.registry import by_kind, register
from tasks.datasets import Dataset, DatasetConfig, DigitsConfig
from tasks.family import Split
from tasks.networks.base import NetworkConfig, NetworkFamily, accuracy, rows
from tasks.networks.layers import ACTIVATIONS, Activation, Depth, Size, hidden_layers

Activations = Activation | Annotated[tuple[Activation, ...], Field(min_length=1, strict=False)]


class ClassifierConfig(NetworkConfig):
    """What every classifier has in common.

    Attributes:
      dataset: any registered dataset.
      activation: nonlinearity of the hidden layers; with several, each task draws one.
      loss: "cross_entropy", or "squared_error" against one-hot labels; both averaged over the minibatch.
      init: "normal" draws every weight and bias from N(0, start_scale^2); "lecun" takes haiku's default, times
        start_scale.
      start_scale: see `init`.
      validation: weight w of a validation loss in what a meta-loss scores, `training^(1 - w) validation^w`, in [0, 1].
        When it is positive, minibatches are drawn from four fifths of the images, and validation minibatches from the
        others.
      training_floor: training losses below this count as this beside a validation loss.
    """

    dataset: Annotated[SerializeAsAny[DatasetConfig], by_kind(DatasetConfig)] = DigitsConfig()
    activation: Activations = "sigmoid"
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    init: Literal["normal", "lecun"] = "normal"
    start_scale: float = Field(default=0.1, ge=0)
    validation: float = Field(default=0.0, ge=0, le=1)
    training_floor: float = Field(default=0.0, ge=0)

    def network(
        self, images: Float[Array, "batch h w c"], classes: int, activation: Callable[[Array], Array]
    ) -> Float[Array, "batch classes"]:
        """The logits; called inside `hk.transform`."""
        raise TypeError(f"{type(self).__name__} does not define network()")

    def build(self, split: Split = "train") -> "Classifier":
        """The family on one split of the images (see `DatasetConfig.load`)."""
        data = self.dataset.load(split)
        classes = int(max(data.labels.max(), data.heldout_labels.max())) + 1
        return Classifier(Dataset(*map(jnp.asarray, data)), classes, self)


@register
class MLPClassifierConfig(ClassifierConfig):
    """A multilayer perceptron.

    Attributes:
      width: hidden units per layer.
      depth: hidden layers; 0 is softmax regression.
      residual: every hidden layer but the first adds to its input.
      layer_norm: normalise what enters each activation, with a learned scale and offset.
    """

    kind: Literal["mlp_classifier"] = "mlp_classifier"
    width: Size = 20
    depth: Depth = 1
    residual: bool = False
    layer_norm: bool = False

    def network(self, images, classes, activation):
        x = images.reshape(images.shape[0], -1)
        x = hidden_layers(x, self.width, self.depth, activation, self.residual, self.layer_norm)
        return hk.Linear(classes)(x)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Classifier(NetworkFamily):
    """The family of `ClassifierConfig`; where there are several activations, they are its variants."""

    data: Dataset
    classes: int = field(metadata={"static": True})
    config: ClassifierConfig = field(metadata={"static": True})

    @property
    def _activations(self) -> list[Callable[[Array], Array]]:
        names = self.config.activation
        return [ACTIVATIONS[name] for name in ((names,) if isinstance(names, str) else names)]

    @property
    def variants(self):
        return len(self._activations)

    def outputs(self, inputs, variant):
        functions = self._activations

        def activation(x):
            return functions[0](x) if len(functions) == 1 else jax.lax.switch(variant, functions, x)

        return self.config.network(inputs, self.classes, activation)

    def start(self, key):
        scale = self.config.start_scale
        shapes_key, normal_key = jax.random.split(key)
        example, network = self.data.images[:1], self.network(0)
        if self.config.init == "lecun":
            return jax.tree.map(lambda a: scale * a, network.init(shapes_key, example))
        leaves, tree = jax.tree.flatten(jax.eval_shape(network.init, shapes_key, example))
        keys = jax.random.split(normal_key, len(leaves))
        draws = [scale * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, draws)

    @property
    def _seen(self) -> int:
        """How many of the images minibatches are drawn from; the others are for validation."""
        share, images = self.config.validation, self.data.labels.shape[0]
        seen = images if share == 0 else images * 4 // 5
        return seen

    def _draw(self, key, first, last):
        numbers = rows(key, self.config, first, last)
        return self.data.images[numbers], self.data.labels[numbers]

    def minibatch(self, key, variant):
        return self._draw(key, 0, self._seen)

    def heldout(self, variant):
        return self.data.heldout_images, self.data.heldout_labels

    def judge(self, mean_loss):
        share, images = self.config.validation, self.data.labels.shape[0]
        if not share:
            return None

        def judge(key, weights, value):
            batch = self._draw(key, self._seen, images)
            validation = jnp.maximum(mean_loss(weights, batch), 0)  # rounding can leave a loss below zero
            return jnp.maximum(value, self.config.training_floor) ** (1 - share) * validation**share

        return judge

    def scores(self, outputs, targets):
        return {"loss": self._mean_loss(outputs, targets), "accuracy": accuracy(outputs, targets)}

    def _mean_loss(self, logits: Float[Array, "batch classes"], labels: Array) -> Float[Array, ""]:
        if self.config.loss == "cross_entropy":
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return jnp.mean(jnp.sum((logits - jax.nn.one_hot(labels, self.classes)) ** 2, axis=-1))
