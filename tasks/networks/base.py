"""What families of networks share: a task's parameters are starting weights, learned from minibatches of real data."""

import abc
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import Problem, Task
from l2o.space.domain import Space
from tasks.family import FamilyConfig, TaskFamily

CHUNK = 400  # most held-out inputs that go through a network at once

Batch = tuple[Any, Any]  # inputs and targets, arrays with a common leading axis


class NetworkConfig(FamilyConfig):
    """What every family of networks has in common.

    Attributes:
      batch_size: examples in a minibatch, drawn with replacement at every evaluation.
    """

    batch_size: int = Field(default=128, ge=1, le=1_000_000)


class NetworkFamily(TaskFamily):
    """A family of networks, each of which learns from the same data.

    A task's parameters are the starting weights. Where a family has several variants, such as one for every
    activation, they are a pair of the weights and the number of the task's variant.
    """

    @property
    def variants(self) -> int:
        """How many variants a task is drawn from."""
        return 1

    @abc.abstractmethod
    def outputs(self, inputs: Array, variant: Array | int) -> Array:
        """What the network says of inputs [n, ...], an array [n, ...]; called inside `hk.transform`."""

    @abc.abstractmethod
    def minibatch(self, key: PRNGKeyArray, variant: Array | int) -> Batch:
        """Inputs and targets of one evaluation, drawn from the data to learn from."""

    @abc.abstractmethod
    def heldout(self, variant: Array | int) -> Batch:
        """Inputs and targets that no minibatch holds."""

    @abc.abstractmethod
    def scores(self, outputs: Array, targets: Array) -> dict[str, Any]:
        """The scalar "loss" that is minimised, and what else is reported of held-out data."""

    def start(self, key: PRNGKeyArray) -> Any:
        """Fresh weights, as haiku starts them."""
        return self.network(0).init(key, self.heldout(0)[0][:1])

    def judge(self, mean_loss: Callable[[Any, Batch], Array]) -> Callable[[PRNGKeyArray, Any, Array], Array] | None:
        """What a meta-loss scores in place of the loss (see `Task.from_loss`), from `mean_loss(weights, batch)`."""
        del mean_loss
        return None

    def network(self, variant: Array | int) -> hk.Transformed:
        """The network of a variant."""
        return hk.without_apply_rng(hk.transform(lambda inputs: self.outputs(inputs, variant)))

    def sample(self, key):
        if self.variants == 1:
            return self.start(key)
        weights_key, variant_key = jax.random.split(key)
        return self.start(weights_key), jax.random.randint(variant_key, (), 0, self.variants)

    def task(self, params):
        weights, variant = (params, 0) if self.variants == 1 else params
        network = self.network(variant)

        def mean_loss(weights, batch):
            return self.scores(network.apply(weights, batch[0]), batch[1])["loss"]

        def loss(key, weights):
            return mean_loss(weights, self.minibatch(key, variant))

        def measure(key, weights) -> dict[str, Any]:
            del key
            inputs, targets = self.heldout(variant)
            scores = self.scores(_in_chunks(network, weights, inputs), targets)
            return {f"heldout_{name}": value for name, value in scores.items()}

        problem = Problem(Space.free(), weights)
        return Task.from_loss(loss, problem, measure=measure, judge=self.judge(mean_loss))


def rows(key: PRNGKeyArray, config: NetworkConfig, first: int, last: int) -> Int[Array, "batch"]:
    """The numbers of a minibatch's examples, from first to last - 1."""
    return jax.random.randint(key, (config.batch_size,), first, last)


def _in_chunks(network: hk.Transformed, weights: Any, inputs: Array) -> Array:
    """The outputs of a network; many inputs take the memory of a few."""
    if len(inputs) <= CHUNK:
        return network.apply(weights, inputs)
    return jax.lax.map(lambda x: network.apply(weights, x[None])[0], inputs, batch_size=CHUNK)


def accuracy(logits: Array, labels: Array) -> Array:
    """The share of the examples whose label has the largest logit."""
    return jnp.mean(jnp.argmax(logits, -1) == labels)
