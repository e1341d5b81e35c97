"""PFN: a prior-fitted network, which predicts values from earlier ones, and asks where it hopes most.

Müller et al. (2022), "Transformers can do Bayesian inference", and (2023), "PFNs4BO". A network is trained to predict
values of functions that are drawn from a prior: what it says is then the posterior predictive distribution, in one
pass, without any fitting.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from pydantic import Field, model_validator

from l2o.acquisition import without_failures
from l2o.core import LearnedOptimizer
from l2o.registry import register
from l2o.surrogate import processes
from l2o.surrogate.buckets import Buckets
from l2o.surrogate.policy import SurrogateConfig, searching
from l2o.surrogate.prediction import Prediction, Surrogate, Units, units_of
from l2o.surrogate.set_transformer import Memory, Sizes, set_transformer


class Belief(NamedTuple):
    """What was read, and the units it was read in."""

    memory: Memory
    units: Units


@register
class PFNConfig(SurrogateConfig):
    """The acquisition function of a prior-fitted network (Müller et al. 2023).

    That of its Gaussian processes alone is climbed from many points; the network's own chooses among what was found.

    Attributes:
      width: of what is known of an observation; a multiple of the heads.
      heads: of each attention.
      feedforward: width of the hidden layers.
      layers: of attention.
      parameter_width: of what is known of a parameter.
      processes: Gaussian processes that are averaged.
      buckets: of the predicted distribution.
    """

    kind: Literal["pfn"] = "pfn"
    width: int = Field(default=64, ge=4)
    heads: int = Field(default=8, ge=1)
    feedforward: int = Field(default=128, ge=1)
    layers: int = Field(default=3, ge=1)
    parameter_width: int = Field(default=32, ge=1)
    processes: int = Field(default=4, ge=1)
    buckets: int = Field(default=64, ge=3)

    @model_validator(mode="after")
    def _check(self):
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of the heads, found {self.width} and {self.heads}")
        return self

    def build(self) -> LearnedOptimizer:
        sizes = Sizes(
            self.width, self.heads, self.feedforward, self.layers, self.parameter_width, self.processes, self.buckets
        )
        network = set_transformer(sizes)
        buckets = Buckets.of(self.buckets)

        def read(theta, x, y, used, ordered):
            y = without_failures(y, used)
            units = units_of(y, used)
            seen = (jnp.where(used, y, units.shift) - units.shift) / units.scale
            return Belief(network.read(theta, x, seen, used, ordered), units)

        def in_buckets(normals, units):
            mean, deviation = normals.moments()
            edges = mean[:, None] + deviation[:, None] * buckets.edges[None]
            of_points = Units(units.shift + units.scale * mean, units.scale * deviation)
            return Prediction(normals.log_masses(edges), buckets, of_points)

        def predict(theta, belief, x):
            normals, corrections = network.predict(theta, belief.memory, x)
            said = in_buckets(normals, belief.units)
            return said._replace(logits=said.logits + corrections)

        def sketch(theta, belief, x):
            """What the processes say, without the network's corrections."""
            del theta
            return in_buckets(processes.predict(belief.memory.processes, x), belief.units)

        surrogate = Surrogate(read, predict, sketch)
        return LearnedOptimizer(network.init, lambda theta: searching(self, surrogate, theta), surrogate=surrogate)
