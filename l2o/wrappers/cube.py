"""Optimizers that think in the unit cube, on any box."""

import jax
import jax.numpy as jnp

from l2o.core import Optimizer
from l2o.space.domain import Space, X


def in_unit_cube(optimizer: Optimizer) -> Optimizer:
    """Run an optimizer that thinks in the unit cube on any box.

    The inner optimizer sees a problem whose start, queries and bounds are in [0, 1]; asks are mapped out, tells are
    mapped in, and gradients are scaled by the chain rule; `scale` is passed on as it is, so here it is in units of the
    cube. On a free space nothing changes.
    """

    def to_unit(space: Space, x: X) -> X:
        return jax.vmap(space.to_unit)(x)

    def unit(space: Space) -> Space:
        if space.is_free:
            return space
        return Space(jax.tree.map(jnp.zeros_like, space.low), jax.tree.map(jnp.ones_like, space.high))

    def init(key, problem):
        inner = problem._replace(space=unit(problem.space), start=problem.space.to_unit(problem.start))
        return problem.space, optimizer.init(key, inner)

    def ask(key, state):
        space, inner = state
        u, inner = optimizer.ask(key, inner)
        return jax.vmap(space.from_unit)(u), (space, inner)

    def tell(key, state, x, evaluation):
        space, inner = state
        gradient = evaluation.gradient
        if gradient is not None and not space.is_free:
            gradient = jax.tree.map(lambda g, lo, hi: g * (hi - lo)[None], gradient, space.low, space.high)
        return space, optimizer.tell(key, inner, to_unit(space, x), evaluation._replace(gradient=gradient))

    return Optimizer(init, ask, tell)
