"""Between this project's contract and optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from l2o.core import LearnedOptimizer, Optimizer, Theta
from l2o.errors import UserError
from l2o.schedules import warmup_cosine
from l2o.space.domain import X


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
    native: Callable[..., optax.GradientTransformationExtraArgs],
    labelled: bool = False,
) -> LearnedOptimizer:
    """A learned optimizer from its native form `(theta, horizon) -> optax transformation`.

    The form that users get refuses a wrong `horizon` or `value=` with a `UserError`, whether or not the family reads
    it, so that one optimizer can be exchanged for another. So it takes a `label=`, which only a native form that is
    `labelled` gets, as its third argument.
    """

    def bind(theta: Theta) -> Optimizer:
        return from_optax(lambda horizon: native(theta, horizon))

    def checked(theta: Theta, horizon: Any = None, label: Any = None) -> optax.GradientTransformationExtraArgs:
        _check_horizon(horizon)
        tx = native(theta, horizon, label) if labelled else native(theta, horizon)

        def update(updates, state, params=None, **extra):
            if extra.get("value") is not None:
                extra["value"] = _loss(extra["value"])
            return tx.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return LearnedOptimizer(init, bind, checked)


def decayed(tx: optax.GradientTransformation, share: Any, horizon: Any = None) -> optax.GradientTransformationExtraArgs:
    """A transformation whose updates also take away a share of every leaf of two axes or more.

    With a horizon the share follows `warmup_cosine`; without one it is constant.
    """

    def planned(count):
        return -share * (1.0 if horizon is None else warmup_cosine(count, horizon))

    def matrices(params):
        return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)

    return optax.with_extra_args_support(optax.chain(tx, optax.add_decayed_weights(planned, matrices)))


def _loss(value: Any) -> Any:
    """One number: itself, or the mean of several, such as the losses of several devices."""
    if not _is_number(value, any_shape=True) or 0 in getattr(value, "shape", ()):
        raise UserError(f"value {_found(value)}: expected one number, the loss of this step, several, or None")
    return jnp.mean(jnp.asarray(value, jnp.float32)) if getattr(value, "shape", ()) else value


def _check_horizon(horizon: Any) -> None:
    """What is traced has no value yet, and passes if it is one number."""
    # a jax array may be of floats, which optax.inject_hyperparams makes of a schedule's numbers
    kinds = (np.integer, np.floating) if isinstance(horizon, jax.Array) else (np.integer,)
    right = horizon is None or _is_number(horizon, kinds)
    if right and horizon is not None and not isinstance(horizon, Tracer):
        number = float(horizon) if isinstance(horizon, jax.Array) else horizon
        right = number >= 1 and number % 1 == 0
    if not right:
        raise UserError(f"horizon {_found(horizon)}: expected a whole number of steps (an int) of at least 1, or None")


def _is_number(
    value: Any, kinds: tuple[Any, ...] = (np.floating, np.integer, np.bool_), any_shape: bool = False
) -> bool:
    """Whether it is one number of these kinds: of Python, of numpy, or an array of shape (), traced or not."""
    dtype = getattr(value, "dtype", type(value))
    return (any_shape or getattr(value, "shape", ()) == ()) and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _found(value: Any) -> str:
    if _is_number(value) and isinstance(value, np.ndarray | np.generic | jax.Array):
        return f"has dtype {value.dtype}" if isinstance(value, Tracer) else f"is {value.item()!r}"
    if getattr(value, "shape", ()):
        return f"has shape {value.shape} and dtype {value.dtype}"
    return f"is {' '.join(repr(value).split())}"
