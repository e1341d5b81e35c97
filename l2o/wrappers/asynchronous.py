"""Several workers inside a rollout: results arrive out of order (the parallel version of Chen et al. 2017)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o.core import Optimizer, State
from l2o.errors import UserError
from l2o.space.domain import X


class Workers(NamedTuple):
    """What w workers are doing.

    Attributes:
      inner: state of the optimizer, which has been asked for everything in progress.
      x: the points in progress, leading axis w.
      finish: when each will be done; an evaluation takes 1 on average.
    """

    inner: State
    x: X
    finish: Float[Array, "w"]


def asynchronous(optimizer: Optimizer, workers: int, spread: float = 0.5) -> Optimizer:
    """Run an optimizer that asks one point at a time with several workers.

    Each worker evaluates one point; when it is done, the optimizer is told and asked for the next one. In a rollout, a
    round is the evaluation that ends next.

    Args:
      optimizer: asks n = 1 point.
      workers: at least 1; with 1 the queries are those of the optimizer alone.
      spread: run times are uniform on [1 - spread, 1 + spread], spread in [0, 1).

    Raises:
      ValueError: workers or spread are out of range.
      UserError: when a run begins: the optimizer asks several points at once.
    """
    if workers < 1 or not 0 <= spread < 1:
        raise ValueError(f"expected workers >= 1 and 0 <= spread < 1, found {workers} and {spread}")

    def duration(key):
        return jax.random.uniform(key, minval=1 - spread, maxval=1 + spread)

    def hire(key, inner) -> tuple[Any, X, Float[Array, ""]]:
        ask_key, time_key = jax.random.split(key)
        x, inner = optimizer.ask(ask_key, inner)
        if any(leaf.shape[0] != 1 for leaf in jax.tree.leaves(x)):
            raise UserError("several workers need an optimizer that asks for one point at a time")
        return inner, jax.tree.map(lambda a: a[0], x), duration(time_key)

    def init(key, problem):
        init_key, *keys = jax.random.split(key, workers + 1)
        inner, points, times = optimizer.init(init_key, problem), [], []
        for k in keys:
            inner, x, time = hire(k, inner)
            points.append(x)
            times.append(time)
        return Workers(inner, jax.tree.map(lambda *a: jnp.stack(a), *points), jnp.stack(times))

    def ask(key, state):
        del key
        first = jnp.argmin(state.finish)
        return jax.tree.map(lambda a: a[first][None], state.x), state

    def tell(key, state, x, evaluation):
        tell_key, hire_key = jax.random.split(key)
        first = jnp.argmin(state.finish)
        inner = optimizer.tell(tell_key, state.inner, x, evaluation)
        inner, new, time = hire(hire_key, inner)
        points = jax.tree.map(lambda a, b: a.at[first].set(b), state.x, new)
        return Workers(inner, points, state.finish.at[first].add(time))

    return Optimizer(init, ask, tell)
