"""Truncated backpropagation through time."""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from l2o.registry import register
from meta.estimator.base import Estimator, EstimatorConfig, Runs


@register
class BackpropConfig(EstimatorConfig):
    """Truncated backpropagation through the unrolled run (Andrychowicz et al. 2016, section 2).

    Every estimate advances all runs by one window and differentiates through that window alone.

    Attributes:
      unroll_length: updates in a window, at least 1. A window that reaches past the horizon is cut there.
      second_derivative: keep the derivative of the inner gradient; the paper drops it.
      stagger: start the runs at different phases, so that each batch covers the whole horizon.
    """

    kind: Literal["backprop"] = "backprop"
    unroll_length: int = Field(default=20, ge=1)
    second_derivative: bool = False
    stagger: bool = True

    def build(self, learned, objective, horizon, tasks):
        runs_of = Runs(learned, objective, horizon)
        length = min(self.unroll_length, horizon)

        def init(key, theta, family):
            runs = jax.vmap(lambda k: runs_of.start(theta, k, family))(jax.random.split(key, tasks))
            windows = -(-horizon // length)
            phase = (jnp.arange(tasks) * windows // tasks) * length if self.stagger else jnp.zeros(tasks, jnp.int32)
            return runs._replace(step=runs.step + phase.astype(jnp.int32))

        def estimate(theta, runs, family):
            def meta_loss(theta):
                fresh = runs_of.restart_finished(theta, runs, family)
                advanced, losses = jax.vmap(
                    lambda run: runs_of.advance(theta, run, family, length, not self.second_derivative)
                )(fresh)
                return jnp.mean(losses), advanced

            (loss, advanced), gradient = jax.value_and_grad(meta_loss, has_aux=True)(theta)
            return gradient, jax.lax.stop_gradient(advanced), loss

        return Estimator(init, estimate)
