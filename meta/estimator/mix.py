"""A weighted sum of estimators."""

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, SerializeAsAny, model_validator

from l2o.registry import by_kind, register
from meta.estimator.base import Estimator, EstimatorConfig, nanmean

Part = Annotated[SerializeAsAny[EstimatorConfig], by_kind(EstimatorConfig)]


@register
class MixConfig(EstimatorConfig):
    """`sum_i w_i g_i` of several estimators, each with runs of its own (Metz et al. 2019 mix backprop and es).

    Weights that sum to 1 keep the scale of the gradient.

    Attributes:
      estimators: at least two.
      weights: one for each, positive; equal and summing to 1 when left out.
    """

    kind: Literal["mix"] = "mix"
    estimators: tuple[Part, ...] = Field(min_length=2, strict=False)
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _check(self):
        if self.weights is not None and len(self.weights) != len(self.estimators):
            raise ValueError(f"found {len(self.weights)} weights, expected one for each of {len(self.estimators)}")
        return self

    def build(self, learned, objective, horizon, tasks, axis=None):
        parts = [config.build(learned, objective, horizon, tasks, axis) for config in self.estimators]
        weights = self.weights or tuple(1 / len(parts) for _ in parts)

        def init(key, theta, family):
            keys = jax.random.split(key, len(parts))
            return tuple(part.init(k, theta, family) for part, k in zip(parts, keys, strict=True))

        def estimate(theta, state, family):
            estimates = [part.estimate(theta, s, family) for part, s in zip(parts, state, strict=True)]
            gradients, states, losses = zip(*estimates, strict=True)
            gradient = jax.tree.map(lambda *g: sum(w * a for w, a in zip(weights, g, strict=True)), *gradients)
            return gradient, states, nanmean(jnp.stack(losses))

        return Estimator(init, estimate, math.gcd(*(part.runs for part in parts)))
