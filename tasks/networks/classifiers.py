"""Image classifiers as tasks: what is optimized are the weights of a small network on real data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field, SerializeAsAny

from l2o.core import Problem, Task
from l2o.registry import by_kind, register
from l2o.space.domain import Space
from tasks.datasets import Dataset, DatasetConfig, DigitsConfig
from tasks.family import FamilyConfig, Split, TaskFamily

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "swish": jax.nn.swish,
}
Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "swish"]
Size = Annotated[int, Field(ge=1, le=100_000)]


class ClassifierConfig(FamilyConfig):
    """What every classifier has in common.

    Attributes:
      dataset: any registered dataset.
      activation: nonlinearity of the hidden layers; with several, each task draws one.
      loss: "cross_entropy", or "squared_error" against one-hot labels; both averaged over the minibatch.
      batch_size: images in a minibatch, drawn with replacement at every evaluation.
      init: "normal" draws every weight and bias from N(0, start_scale^2); "lecun" takes haiku's default, times
        start_scale.
      start_scale: see `init`.
      validation: weight w of a validation loss in what a meta-loss scores, `training^(1 - w) validation^w`, in [0, 1].
        When it is positive, minibatches are drawn from four fifths of the images, and validation minibatches from the
        others.
      training_floor: training losses below this count as this beside a validation loss.
    """

    dataset: Annotated[SerializeAsAny[DatasetConfig], by_kind(DatasetConfig)] = DigitsConfig()
    activation: Activation | Annotated[tuple[Activation, ...], Field(min_length=1, strict=False)] = "sigmoid"
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
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
    depth: int = Field(default=1, ge=0, le=100)
    residual: bool = False
    layer_norm: bool = False

    def network(self, images, classes, activation):
        x = images.reshape(images.shape[0], -1)
        for layer in range(self.depth):
            y = hk.Linear(self.width)(x)
            if self.layer_norm:
                y = hk.LayerNorm(-1, create_scale=True, create_offset=True)(y)
            y = activation(y)
            x = x + y if self.residual and layer else y
        return hk.Linear(classes)(x)


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Classifier(TaskFamily):
    """The family of `ClassifierConfig`.

    A task's parameters are the starting weights; where there are several activations, a pair of the weights and the
    number of the task's activation.
    """

    data: Dataset
    classes: int = field(metadata={"static": True})
    config: ClassifierConfig = field(metadata={"static": True})

    @property
    def _activations(self) -> list[Callable[[Array], Array]]:
        names = self.config.activation
        return [ACTIVATIONS[name] for name in ((names,) if isinstance(names, str) else names)]

    def _network(self, number: Array | int) -> hk.Transformed:
        functions = self._activations

        def activation(x):
            return functions[0](x) if len(functions) == 1 else jax.lax.switch(number, functions, x)

        return hk.without_apply_rng(hk.transform(lambda images: self.config.network(images, self.classes, activation)))

    def sample(self, key):
        if len(self._activations) == 1:
            return self._start(key)
        weights_key, activation_key = jax.random.split(key)
        return self._start(weights_key), jax.random.randint(activation_key, (), 0, len(self._activations))

    def _start(self, key: PRNGKeyArray) -> Any:
        scale = self.config.start_scale
        shapes_key, normal_key = jax.random.split(key)
        example, network = self.data.images[:1], self._network(0)
        if self.config.init == "lecun":
            return jax.tree.map(lambda a: scale * a, network.init(shapes_key, example))
        leaves, tree = jax.tree.flatten(jax.eval_shape(network.init, shapes_key, example))
        keys = jax.random.split(normal_key, len(leaves))
        draws = [scale * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, draws)

    def task(self, params):
        weights, number = (params, 0) if len(self._activations) == 1 else params
        data, network = self.data, self._network(number)

        share, images = self.config.validation, data.labels.shape[0]
        seen = images if share == 0 else images * 4 // 5

        def on(key, weights, first, last):
            rows = jax.random.randint(key, (self.config.batch_size,), first, last)
            return self._mean_loss(network.apply(weights, data.images[rows]), data.labels[rows])

        def loss(key, weights):
            return on(key, weights, 0, seen)

        def judge(key, weights, value):
            validation = jnp.maximum(on(key, weights, seen, images), 0)  # rounding can leave a loss below zero
            return jnp.maximum(value, self.config.training_floor) ** (1 - share) * validation**share

        def measure(key, weights) -> dict[str, Any]:
            del key
            logits = network.apply(weights, data.heldout_images)
            return {
                "heldout_loss": self._mean_loss(logits, data.heldout_labels),
                "heldout_accuracy": jnp.mean(jnp.argmax(logits, -1) == data.heldout_labels),
            }

        return Task.from_loss(loss, Problem(Space.free(), weights), measure=measure, judge=judge if share else None)

    def _mean_loss(self, logits: Float[Array, "batch classes"], labels: Array) -> Float[Array, ""]:
        if self.config.loss == "cross_entropy":
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return jnp.mean(jnp.sum((logits - jax.nn.one_hot(labels, self.classes)) ** 2, axis=-1))
