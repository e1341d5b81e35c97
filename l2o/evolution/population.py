"""What learned evolution strategies share: a population a round, flat points, failed members, features of fitness.

A strategy is three functions over flat points, and `lift` makes an `Optimizer` of it. On a free space it works in the
space's own coordinates and begins with `problem.scale` as its standard deviation; on a box it works in the unit cube,
begins with the config's `sigma`, and its queries are projected: told are the points that were evaluated.
"""

from collections.abc import Callable
from statistics import NormalDist, pstdev
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import Optimizer, OptimizerConfig
from l2o.space.domain import X
from l2o.wrappers.cube import in_unit_cube

Inner = Any  # a strategy's own state
Layer = dict[str, Array]
SMALLEST, LARGEST = 1e-30, 1e15  # of standard deviations: their squares are finite in single precision, and not 0 / 0


class EvolutionStrategyConfig(OptimizerConfig):
    """What all of them share.

    Attributes:
      population_size: members of each generation. The same theta serves any number.
      sigma: initial standard deviation in widths of the box; on a free space `problem.scale` takes its place.
    """

    population_size: int = Field(default=16, ge=2)
    sigma: float = Field(default=0.3, gt=0)


class StrategyState(NamedTuple):
    """State of a run.

    Attributes:
      inner: the strategy's own. A strategy that samples around a mean calls it `mean` [d] and its standard deviation
        `sigma` ([d], or a scalar); one that keeps a population calls that `population` [N, d] and `fitness` [N].
      best: lowest value told so far, infinite before the first.
      best_x: where.
      generation: generations told so far.
    """

    inner: Inner
    best: Float[Array, ""]
    best_x: X
    generation: Int[Array, ""]


class Strategy(NamedTuple):
    """An evolution strategy over flat points.

    Attributes:
      init: `(key, mean [d], sigma []) -> Inner`.
      ask: `(key, StrategyState) -> (x [N, d], Inner)`.
      tell: `(key, StrategyState, x [N, d], value [N]) -> Inner`; the state is as it was before this generation,
        and the value of a failed member is +inf.
    """

    init: Callable[[PRNGKeyArray, Float[Array, "d"], Float[Array, ""]], Inner]
    ask: Callable[[PRNGKeyArray, StrategyState], tuple[Float[Array, "n d"], Inner]]
    tell: Callable[[PRNGKeyArray, StrategyState, Float[Array, "n d"], Float[Array, "n"]], Inner]


def lift(strategy: Strategy, config: EvolutionStrategyConfig) -> Optimizer:
    """The optimizer that a strategy is, on points of any structure and with or without bounds."""

    def init(key, problem):
        start = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), problem.start)
        mean = _flat(start)
        sigma = jnp.asarray(problem.scale if problem.space.is_free else config.sigma, mean.dtype)
        best = jnp.full((), jnp.inf, mean.dtype)
        return StrategyState(strategy.init(key, mean, sigma), best, start, jnp.zeros((), jnp.int32))

    def ask(key, state):
        x, inner = strategy.ask(key, state)
        like, unravel = ravel_pytree(state.best_x)
        return jax.vmap(unravel)(x.astype(like.dtype)), state._replace(inner=inner)

    def tell(key, state, x, evaluation):
        value = evaluation.value.astype(state.best.dtype)
        value = jnp.where(jnp.isfinite(value), value, jnp.inf)
        inner = strategy.tell(key, state, jax.vmap(_flat)(x), value)
        i = jnp.argmin(value)
        better = value[i] < state.best
        best_x = jax.tree.map(lambda a, b: jnp.where(better, a[i].astype(b.dtype), b), x, state.best_x)
        return StrategyState(inner, jnp.minimum(value[i], state.best), best_x, state.generation + 1)

    return in_unit_cube(Optimizer(init, ask, tell))


def _flat(x: X) -> Float[Array, "d"]:
    """The vector in single precision at least: half precision has too few digits for standard deviations to adapt."""
    flat, _ = ravel_pytree(x)
    return flat.astype(jnp.promote_types(flat.dtype, jnp.float32))


# Features of fitness. A failed member has the value +inf. All of them permute with the members.


def centred_ranks(value: Float[Array, "n"]) -> Float[Array, "n"]:
    """Ranks in [-0.5, 0.5], the best first; members of equal value share their mean rank."""
    worse_than = jnp.sum(value[None, :] < value[:, None], axis=1)
    better_than = jnp.sum(value[None, :] > value[:, None], axis=1)
    return (worse_than - better_than).astype(value.dtype) / (2 * (value.shape[0] - 1))


def normal_scores(value: Float[Array, "n"]) -> Float[Array, "n"]:
    """What z-scores of normal values would be, from the ranks alone: of unit variance where no two members tie."""
    n = value.shape[0]
    unit = pstdev(NormalDist().inv_cdf((i + 0.5) / n) for i in range(n))
    return ndtri(0.5 + centred_ranks(value) * (n - 1) / n) / unit


def unit_range(value: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """Values as fractions of the way from the lowest to the highest finite one, and how far that is.

    Zeros where all are equal. A failed member is at 2: worse than the worst by as much as that is worse than the best.
    """
    ok, value = jnp.isfinite(value), jnp.clip(value, -1e30, 1e30)  # so that differences are finite
    lowest = jnp.min(jnp.where(ok, value, jnp.inf), initial=1e30)
    spread = jnp.max(jnp.where(ok, value - lowest, 0.0))
    unit = (value - lowest) / jnp.where(spread > 0, spread, 1.0)
    return jnp.where(ok, unit, jnp.where(jnp.any(ok), 2.0, 0.0)), spread


def z_scores(value: Float[Array, "n"], epsilon: float = 0.0) -> Float[Array, "n"]:
    """Standard deviations above the mean, failed members as in `unit_range`; zeros where all are equal.

    Args:
      value: of the members.
      epsilon: what is added to the standard deviation, in the values' own units.
    """
    unit, spread = unit_range(value)
    centred = unit - jnp.mean(unit)
    variance = jnp.mean(centred**2)
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    return centred / (deviation + epsilon / jnp.where(spread > 0, spread, 1.0))


def improved(value: Float[Array, "n"], best: Float[Array, ""]) -> Float[Array, "n"]:
    """1 for members that are better than all told before, else 0."""
    return (value < best).astype(value.dtype)


def features(value: Float[Array, "n"], best: Float[Array, ""], scores: Literal["normal", "z"]) -> Float[Array, "3 n"]:
    """What a member's fitness is to Lange et al. (2022): improvement, centred rank, score.

    Args:
      value: of the members.
      best: lowest value before.
      scores: "normal": `normal_scores`. "z": `z_scores`, as published.
    """
    score = normal_scores(value) if scores == "normal" else z_scores(value, 1e-10)
    return jnp.stack([improved(value, best), centred_ranks(value), score])


def best_point(run: StrategyState, x: Float[Array, "n d"], value: Float[Array, "n"]) -> Float[Array, "d"]:
    """The best point of all, this generation included."""
    i = jnp.argmin(value)
    return jnp.where(value[i] < run.best, x[i], _flat(run.best_x))


def unless_stuck(state: Inner, fresh: Inner, since: Float[Array, ""], n: int, d: int) -> Inner:
    """The state, or a fresh one after 10 + 30 d / n generations of n members in d dimensions without anything better.

    The criterion of Hansen (2016), "The CMA evolution strategy: a tutorial", appendix B.3.
    """
    return jax.tree.map(lambda a, b: jnp.where(since >= 10 + 30 * d / n, a, b), fresh, state)


def bounded(sigma: Float[Array, "..."], mean: Float[Array, "..."]) -> Float[Array, "..."]:
    """A standard deviation that can be worked with: not below what a step from the mean is rounded to."""
    return jnp.clip(sigma, jnp.maximum(SMALLEST, jnp.finfo(mean.dtype).eps * jnp.abs(mean)), LARGEST)


# Layers. Members or coordinates run along the last axis.


def layer(key: PRNGKeyArray, inputs: int, units: int) -> Layer:
    """Fresh weights of unit gain, biases of zero."""
    w = jax.random.truncated_normal(key, -2, 2, (units, inputs)) * inputs**-0.5
    return {"w": w, "b": jnp.zeros(units)}


def dense(weights: Layer, x: Float[Array, "i n"]) -> Float[Array, "o n"]:
    """A dense layer."""
    return weights["w"] @ x + weights["b"][:, None]
