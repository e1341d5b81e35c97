"""Between this project's contract and optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.core import LearnedOptimizer, Optimizer, Theta
from l2o.space import X


class OptaxState(NamedTuple):
    """State of a lifted optax transformation: current point, the transformation's own state, the horizon as data."""

    x: X
    inner: Any
    horizon: Any


def from_optax(
    make: Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation,
) -> Optimizer:
    """Lift an optax transformation to an `Optimizer` that asks one point at a time.

    Args:
      make: a transformation, or `horizon -> transformation`. The horizon arrives as a traced integer, so a schedule
        inside must be written in jnp. Extra arguments are supported: the transformation receives `value=`.

    Returns:
      An optimizer equal, to the bit, to the plain optax loop started at `problem.start`. If the space has bounds, the
      point is projected to them after each update.

    >>> import jax, optax
    >>> adam = from_optax(optax.adam(0.1))
    """

    def build(horizon) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(make if isinstance(make, optax.GradientTransformation) else make(horizon))

    def init(key, problem):
        del key
        horizon = jnp.asarray(problem.horizon)
        # strong dtypes: a weak one would change with the first update and trace everything twice
        start = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), problem.start)
        return OptaxState(start, build(horizon).init(start), horizon), problem.space

    def ask(key, state):
        del key
        return jax.tree.map(lambda a: a[None], state[0].x), state

    def tell(key, state, x, evaluation):
        del key
        if evaluation.gradient is None:
            raise TypeError("an optax transformation needs gradients, and this task gives none")
        (_, inner, horizon), space = state
        x, gradient = jax.tree.map(lambda a: a[0], (x, evaluation.gradient))
        updates, inner = build(horizon).update(gradient, inner, x, value=evaluation.value[0])
        return OptaxState(space.project(optax.apply_updates(x, updates)), inner, horizon), space

    return Optimizer(init, ask, tell)


def gradient_based(
    init: Callable[[Any], Theta],
    native: Callable[[Theta, Any], optax.GradientTransformationExtraArgs],
) -> LearnedOptimizer:
    """A learned optimizer from its native form `(theta, horizon) -> optax transformation`."""

    def bind(theta: Theta) -> Optimizer:
        return from_optax(lambda horizon: native(theta, horizon))

    return LearnedOptimizer(init, bind, native)
