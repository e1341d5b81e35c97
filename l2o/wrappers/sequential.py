"""Populations point by point: what asks for a generation at a time, for those who evaluate one point at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from l2o.core import Evaluation, Optimizer, State, population_size
from l2o.space.domain import X


class Generation(NamedTuple):
    """A generation in progress.

    Attributes:
      inner: state of the optimizer that asks for n points.
      asked: its last n points.
      handed: how many of them have been asked for; 0 when the next one is of a new generation.
      told: points that it will be told, leading axis n.
      value: their values.
      filled: how many rows of both are in use.
    """

    inner: State
    asked: X
    handed: Int[Array, ""]
    told: X
    value: Float[Array, "n"]
    filled: Int[Array, ""]


def one_at_a_time(optimizer: Optimizer) -> Optimizer:
    """Run an optimizer that asks for n points as one that asks for one.

    It is told n results together, in the order in which they came. Where each point is told before the next one is
    asked for, its generations are those of the optimizer alone; otherwise it may be asked for a new generation before
    it has been told all of the last one. Gradients are not passed on.

    Args:
      optimizer: any, whose n does not change.
    """

    def init(key, problem):
        inner = optimizer.init(key, problem)
        points, _ = jax.eval_shape(optimizer.ask, key, inner)
        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), points)
        zero = jnp.zeros((), jnp.int32)
        return Generation(inner, empty, zero, empty, jnp.zeros(population_size(empty)), zero)

    def ask(key, state):
        def renew(key, state):
            asked, inner = optimizer.ask(key, state.inner)
            return state._replace(inner=inner, asked=asked)

        state = jax.lax.cond(state.handed == 0, renew, lambda key, state: state, key, state)
        x = jax.tree.map(lambda a: a[state.handed][None], state.asked)
        return x, state._replace(handed=(state.handed + 1) % state.value.size)

    def tell(key, state, x, evaluation):
        keys = jax.random.split(key, evaluation.value.size)

        def one(state, result):
            key, point, value = result
            told = jax.tree.map(lambda a, b: a.at[state.filled].set(b), state.told, point)
            values = state.value.at[state.filled].set(value)
            full = state.filled + 1 == values.size
            inner = jax.lax.cond(
                full, lambda: optimizer.tell(key, state.inner, told, Evaluation(values)), lambda: state.inner
            )
            filled = jnp.where(full, 0, state.filled + 1)
            return state._replace(inner=inner, told=told, value=values, filled=filled), None

        return jax.lax.scan(one, state, (keys, x, evaluation.value.astype(jnp.float32)))[0]

    return Optimizer(init, ask, tell)
