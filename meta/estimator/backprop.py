"""Truncated backpropagation through time."""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from l2o.errors import UserError
from l2o.registry import register
from l2o.unroll import Remat
from meta.estimator.base import Estimator, EstimatorConfig, Windows, nanmean, replace, successor


@register
class BackpropConfig(EstimatorConfig):
    """Truncated backpropagation through the unrolled run (Andrychowicz et al. 2016, section 2).

    Every estimate advances all runs by one window and differentiates through that window alone: what happened before
    it is a constant, so the gradient is biased towards what pays off soon.

    Attributes:
      unroll_length: updates in a window, at least 1. A window that reaches past the horizon is cut there.
      second_derivative: keep the derivative of the inner gradient; the paper drops it.
      stagger: start the runs at different phases, so that each batch covers the whole horizon.
      remat: what the backward pass stores: "none" everything, "step" the state before every update, "segment" the
        state before every segment of about the square root of unroll_length updates, for long windows.
    """

    kind: Literal["backprop"] = "backprop"
    unroll_length: int = Field(default=20, ge=1)
    second_derivative: bool = False
    stagger: bool = True
    remat: Remat = "step"

    def build(self, learned, objective, horizon, tasks, axis=None):
        del axis
        runs_of = Windows(learned, objective, min(self.unroll_length, horizon), self.remat)

        def init(key, theta, family):
            runs = jax.vmap(lambda k: runs_of.start(theta, k, family))(jax.random.split(key, tasks))
            return runs_of.staggered(runs, family) if self.stagger else runs

        def estimate(theta, runs, family):
            due = jax.vmap(lambda run: runs_of.finished(run, family))(runs)

            def meta_loss(theta):
                def fresh():
                    return jax.vmap(lambda key: runs_of.start(theta, successor(key), family))(runs.key)

                advanced, total, mean = jax.vmap(
                    lambda run: runs_of.advance(theta, run, family, not self.second_derivative)
                )(replace(due, fresh, runs))
                return jnp.mean(total), (advanced, nanmean(mean))

            try:
                (_, (advanced, loss)), gradient = jax.value_and_grad(meta_loss, has_aux=True)(theta)
            except Exception as error:  # while_loops and callbacks of a user's task raise all kinds
                jax.eval_shape(meta_loss, theta)  # if this fails too, differentiation is not to blame
                raise UserError(
                    f"meta.estimator: backprop cannot differentiate this task ({str(error).splitlines()[0]}); "
                    "expected a differentiable task, or an estimator without derivatives: es, pes or nres"
                ) from error
            return gradient, jax.lax.stop_gradient(advanced), loss

        return Estimator(init, estimate, tasks)
