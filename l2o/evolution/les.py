"""The learned evolution strategy of Lange et al. (2022), "Discovering evolution strategies via meta-black-box
optimization" (arXiv 2211.11260).

A Gaussian with one standard deviation for each dimension. What is learned: how much each member of a generation counts,
by attention over their fitness, and how far each dimension follows, by a small network that reads its evolution paths:

  m += a_m (sum_i w_i x_i - m)
  s += a_s (sqrt(sum_i w_i (x_i - m)^2 + epsilon) - s)

Beside the paper, unless the config says otherwise: nothing depends on the units of x or of the values, the network that
gives the learning rates also reads what all dimensions have in common, and a search that is stuck begins again.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import LearnedOptimizer, Optimizer, Theta
from l2o.evolution.population import (
    EvolutionStrategyConfig,
    Strategy,
    best_point,
    bounded,
    dense,
    features,
    improved,
    layer,
    lift,
    unless_stuck,
)
from l2o.registry import register

PATHS = np.array([0.1, 0.5, 0.9], np.float32)  # rates at which the evolution paths forget
SUCCESSES = np.array([0.03, 0.1, 0.3], np.float32)  # and means of how many members were better than all before
TIMES = np.array([1, 3, 10, 30, 50, 100, 250, 500, 750, 1000, 1250, 1500, 2000], np.float32)  # in generations
EPSILON = 1e-8  # of the variance, so that a generation that chose one point only does not end the search
CLIP = 10.0  # a path outlives a standard deviation that collapses; in its units it is clipped here


@register
class LESConfig(EvolutionStrategyConfig):
    """Learned evolution strategy (Lange et al. 2022).

    With `scaling = "members"`, `paths = "absolute"`, `scores = "z"`, `overall = false` and `restarts = false` it is the
    published strategy as evosax has it.

    Attributes:
      keys: length of the attention's keys and queries.
      hidden: units of the network that gives the learning rates.
      scaling: the attention's logits are divided by the square root of the length of the keys, or of the number of
        members.
      paths: "relative": the path of the mean's steps is in units of the standard deviation, and what is added to the
        variance is a fraction of it, so the units of x do not matter. "absolute": in units of x.
      scores: of fitness, beside ranks. "normal": from the ranks, so that nothing but the order of values matters. "z":
        z-scores.
      overall: the learning rates also depend on the lengths of the evolution paths over all dimensions, the signal of
        cumulative step-size adaptation, and on how many members were better than all before.
      restarts: after 10 + 30 d / n generations of n members in d dimensions that found nothing better, the search
        begins again at the best point of all.
    """

    kind: Literal["les"] = "les"
    keys: int = Field(default=8, ge=1, le=1024)
    hidden: int = Field(default=8, ge=1, le=1024)
    scaling: Literal["keys", "members"] = "keys"
    paths: Literal["relative", "absolute"] = "relative"
    scores: Literal["normal", "z"] = "normal"
    overall: bool = True
    restarts: bool = True

    def build(self) -> LearnedOptimizer:
        """The architecture."""
        return les(self)


class LESState(NamedTuple):
    """State of the strategy.

    Attributes:
      mean: of the Gaussian.
      sigma: its standard deviations.
      path: exponential means of the mean's undamped steps at three rates.
      path_sigma: the same of those steps in standard deviations.
      success: exponential means of the share of members that were better than all since the search last began.
      lowest: the best value since then.
      since: generations since that was found.
      age: generations since the search last began.
      start: the standard deviation that the run began with.
    """

    mean: Float[Array, "d"]
    sigma: Float[Array, "d"]
    path: Float[Array, "3 d"]
    path_sigma: Float[Array, "3 d"]
    success: Float[Array, "3"]
    lowest: Float[Array, ""]
    since: Float[Array, ""]
    age: Float[Array, ""]
    start: Float[Array, ""]


def time_features(generation: Float[Array, ""]) -> Float[Array, "13"]:
    """How far the run is, on thirteen scales."""
    return jnp.tanh(generation / TIMES - 1)


def les(config: LESConfig) -> LearnedOptimizer:
    """Build the strategy."""

    def init(key) -> Theta:
        sizes = {
            "query": (3, config.keys), "key": (3, config.keys), "value": (3, 1),
            "hidden": (2 * PATHS.size + TIMES.size + (2 * PATHS.size if config.overall else 0), config.hidden),
            "rates": (config.hidden, 2),
        }  # fmt: skip
        keys = jax.random.split(key, len(sizes))
        return {name: layer(k, *size) for k, (name, size) in zip(keys, sizes.items(), strict=True)}

    def weights(theta: Theta, fitness: Float[Array, "3 n"]) -> Float[Array, "n"]:
        """How much each member counts."""
        scale = config.keys if config.scaling == "keys" else fitness.shape[1]
        logits = dense(theta["query"], fitness).T @ dense(theta["key"], fitness) / scale**0.5
        return jax.nn.softmax(jax.nn.softmax(logits) @ dense(theta["value"], fitness)[0])

    def rates(
        theta: Theta, paths: Float[Array, "6 d"], success: Float[Array, "3"], generation: Float[Array, ""]
    ) -> Float[Array, "2 d"]:
        """Learning rates of the mean and of the standard deviation; what all dimensions share is computed once."""
        w, b = theta["hidden"]["w"], theta["hidden"]["b"]
        common = time_features(generation)
        if config.overall:
            # 1 on average for the mean of as many random steps as there are members
            lengths = jnp.mean(paths[PATHS.size :] ** 2, axis=1) * config.population_size * (2 - PATHS) / PATHS
            common = jnp.concatenate([common, 0.5 * jnp.log(lengths + 1e-3), 2 * success - 1])
        shared = w[:, 2 * PATHS.size :] @ common + b
        hidden = jax.nn.relu(w[:, : 2 * PATHS.size] @ paths + shared[:, None])
        return jax.nn.sigmoid(dense(theta["rates"], hidden))

    def bind(theta: Theta) -> Optimizer:
        def begin(key, mean, sigma):
            zero = jnp.zeros((PATHS.size, mean.size), mean.dtype)
            half, nothing = jnp.full(PATHS.size, 0.5, mean.dtype), jnp.zeros((), mean.dtype)
            return LESState(
                mean, bounded(jnp.broadcast_to(sigma, mean.shape), mean), zero, zero, half,
                nothing + jnp.inf, nothing, nothing, sigma,
            )  # fmt: skip

        def ask(key, run):
            mean, sigma = run.inner.mean, run.inner.sigma
            noise = jax.random.normal(key, (config.population_size, mean.size), mean.dtype)
            return mean[None] + sigma[None] * noise, run.inner

        def tell(key, run, x, value):
            mean, sigma, path, path_sigma, success, lowest, since, age, start = run.inner
            since = jnp.where(jnp.min(value) < lowest, 0.0, since + 1)
            success = success + SUCCESSES * (jnp.mean(improved(value, lowest)) - success)
            w = weights(theta, features(value, lowest, config.scores))
            noise = (x - mean[None]) / sigma[None]
            step, spread = w @ noise, w @ noise**2
            path = path + PATHS[:, None] * ((sigma * step)[None] - path)
            path_sigma = path_sigma + PATHS[:, None] * (step[None] - path_sigma)
            relative = config.paths == "relative"
            seen = jnp.clip(path / sigma[None], -CLIP, CLIP) if relative else path
            rate, rate_sigma = rates(theta, jnp.concatenate([seen, path_sigma]), success, age)
            unit = sigma if relative else 1.0
            wide = unit * jnp.sqrt((sigma / unit) ** 2 * spread + EPSILON)
            mean = mean + rate * sigma * step
            new = LESState(
                mean, bounded(sigma + rate_sigma * (wide - sigma), mean), path, path_sigma, success,
                jnp.minimum(lowest, jnp.min(value)), since, age + 1, start,
            )  # fmt: skip
            if not config.restarts:
                return new
            fresh = begin(key, best_point(run, x, value), start)
            return unless_stuck(new, fresh, since, config.population_size, mean.size)

        return lift(Strategy(begin, ask, tell), config)

    return LearnedOptimizer(init, bind)
