"""Influence balancing: the classical example on which truncation points the wrong way (Tallec and Ollivier 2017).

The state s in R^23 follows `s_{t+1} = A s_t + theta v` with A bidiagonal, 1/2 on both diagonals, and v = +1 on the
first ten coordinates, -1 on the others; the loss is `(s[0] - 1)^2 / 2`. Under a theta pushed up s[0] rises for
forty steps and then falls for good: whoever sees only a few steps of each push gets the sign of the gradient wrong.
In this project's words s is the query of an optimizer whose only meta-parameter is theta.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from l2o.core import LearnedOptimizer, Optimizer, Problem, Task
from l2o.space.domain import Space
from meta.curriculum import FixedConfig
from meta.estimator.base import EstimatorConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import SumConfig
from tasks.family import TaskFamily

SIZE, POSITIVE = 23, 10
MATRIX = 0.5 * (np.eye(SIZE) + np.eye(SIZE, k=1)).astype(np.float32)
DIRECTION = np.where(np.arange(SIZE) < POSITIVE, 1.0, -1.0).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Influence(TaskFamily):
    """The one task there is; its parameters are empty."""

    def sample(self, key):
        del key
        return ()

    def task(self, params):
        del params
        return Task.from_loss(lambda key, x: 0.5 * (x[0] - 1) ** 2, Problem(Space.free(), jnp.zeros(SIZE)))


def system() -> LearnedOptimizer:
    """The linear system as an optimizer; theta is a scalar that starts at 1/2."""

    def bind(theta):
        return Optimizer(
            init=lambda key, problem: problem.start,
            ask=lambda key, state: (state[None], state),
            tell=lambda key, state, x, evaluation: jnp.asarray(MATRIX) @ state + theta * jnp.asarray(DIRECTION),
        )

    return LearnedOptimizer(lambda key: jnp.asarray(0.5), bind)


def exact(theta: Float[Array, ""] | float, horizon: int) -> tuple[float, float]:
    """Mean loss after 1, ..., horizon updates and its derivative, in float64.

    The state is linear in theta, so the loss is a parabola and smoothing by noise leaves its derivative as it is.
    """
    response, loss, gradient = np.zeros(SIZE), 0.0, 0.0
    for _ in range(horizon):
        response = MATRIX.astype(np.float64) @ response + DIRECTION
        error = float(theta) * response[0] - 1
        loss, gradient = loss + 0.5 * error**2, gradient + error * response[0]
    return loss / horizon, gradient / horizon


def estimates(
    config: EstimatorConfig, theta: Float[Array, ""], horizon: int, repeats: int, tasks: int = 1, seed: int = 0
) -> Float[np.ndarray, "repeats"]:
    """Independent estimates of the meta-gradient, each the mean over the windows of whole runs that start together."""
    windows = horizon // (getattr(config, "unroll_length", None) or horizon)
    estimator = config.build(system(), SumConfig().build(), horizon, tasks)
    family = FixedConfig(length=horizon).family(Influence())

    @jax.jit
    @jax.vmap
    def one(key):
        def window(state, _):
            gradient, state, _ = estimator.estimate(theta, state, family)
            return state, gradient

        _, gradients = jax.lax.scan(window, estimator.init(key, theta, family), None, windows)
        return jnp.mean(gradients)

    return np.asarray(one(jax.random.split(jax.random.key(seed), repeats)), np.float64)


def learn(
    config: EstimatorConfig, horizon: int, steps: int, tasks: int, rate: float, seed: int = 0
) -> Float[np.ndarray, "steps+1"]:
    """theta after 0, 1, ... meta-steps of Adam on an estimator's gradient."""
    rule = AdamLearnerConfig(learning_rate=rate, schedule="constant", clip=1e9, average=0.0)
    learner = rule.build(system(), SumConfig().build(), config, horizon, tasks, steps)
    family = FixedConfig(length=horizon).family(Influence())
    state = learner.init(jax.random.key(seed), family, jnp.asarray(0.5))

    @jax.jit
    def run(state):
        def step(state, _):
            state, _ = learner.step(state, family)
            return state, state.theta

        return jax.lax.scan(step, state, None, steps)[1]

    return np.concatenate([[0.5], np.asarray(run(state))])
