"""Points of any space with bounds as flat vectors of a mixed one, so that an optimizer need know no other."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from l2o.core import Optimizer, Problem, State, need_bounds
from l2o.space.domain import LINEAR, Space, X


class Flat(NamedTuple):
    """State of an optimizer of flat points.

    Attributes:
      start: a point, for its structure.
      inner: the optimizer's own state.
    """

    start: X
    inner: State


def over_flat_points(name: str, optimizer: Optimizer) -> Optimizer:
    """Run an optimizer of points [d] of a mixed space on any space with bounds; gradients are not passed on.

    Args:
      name: of the optimizer, for the error.
      optimizer: its problem has a mixed space and a start [d].

    Raises:
      UserError: when a run begins: the problem has no bounds.
    """

    def init(key, problem: Problem):
        need_bounds(name, problem)
        start = jax.tree.map(jnp.asarray, problem.start)
        inner = problem._replace(space=flat_space(problem.space), start=ravel_pytree(start)[0])
        return Flat(start, optimizer.init(key, inner))

    def ask(key, state):
        x, inner = optimizer.ask(key, state.inner)
        return jax.vmap(ravel_pytree(state.start)[1])(x), Flat(state.start, inner)

    def tell(key, state, x, evaluation):
        flat = jax.vmap(lambda point: ravel_pytree(point)[0])(x)
        return Flat(state.start, optimizer.tell(key, state.inner, flat, evaluation._replace(gradient=None)))

    return Optimizer(init, ask, tell)


def flat_space(space: Space) -> Space:
    """A mixed space is itself; a box is one of real numbers on linear scales."""
    if space.levels is not None and space.scale is not None and space.ordered is not None:
        kinds = (jnp.asarray(a) for a in (space.levels, space.scale, space.ordered))
        return Space.mixed(jnp.asarray(space.low), jnp.asarray(space.high), *kinds)
    low, high = ravel_pytree(space.low)[0], ravel_pytree(space.high)[0]
    levels, scale = jnp.zeros(low.shape, jnp.int32), jnp.full(low.shape, LINEAR, jnp.int32)
    return Space.mixed(low, high, levels, scale, jnp.ones(low.shape, bool))


def finite_or_infinity(value: Float[Array, "n"]) -> Float[Array, "n"]:
    """Values in which a failed evaluation is +inf, so that it is better than no other."""
    return jnp.where(jnp.isfinite(value), value, jnp.inf)
