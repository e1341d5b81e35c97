"""The one unroll: every run of every optimizer on every task is this scan."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from l2o.core import Evaluation, Optimizer, State, Task, Trajectory
from l2o.space.domain import X

Record = Callable[[X, Evaluation], tuple[X, Evaluation]]
Remat = Literal["none", "step", "segment"]


def everything(x: X, evaluation: Evaluation) -> tuple[X, Evaluation]:
    """Keep queries, values and gradients."""
    return x, evaluation


def values_only(x: X, evaluation: Evaluation) -> tuple[X, Evaluation]:
    """Keep values alone: what one wants when x is a large network."""
    return None, Evaluation(evaluation.value, None, evaluation.judged)


def queries_and_values(x: X, evaluation: Evaluation) -> tuple[X, Evaluation]:
    """Keep all but the gradients."""
    return x, Evaluation(evaluation.value, None, evaluation.judged)


def query(
    optimizer: Optimizer,
    task: Task,
    state: State,
    key: PRNGKeyArray,
    t: Int[Array, ""] | int,
    *,
    stop_gradient: bool = True,
) -> tuple[X, Evaluation, State]:
    """The first half of round t of `unroll`: ask and evaluate, tell nothing.

    This is how a run ends: the queries after the last update are judged, and nobody learns from them.

    Returns:
      The queries with their leading axis n, their evaluation, and the state that `ask` returned.
    """
    key = jax.random.fold_in(key, t)
    x, state = optimizer.ask(jax.random.fold_in(key, 0), state)
    evaluation = task.evaluate(jax.random.fold_in(key, 1), x)
    if stop_gradient and evaluation.gradient is not None:
        evaluation = evaluation._replace(gradient=jax.lax.stop_gradient(evaluation.gradient))
    return x, evaluation, state


def unroll(
    optimizer: Optimizer,
    task: Task,
    state: State,
    key: PRNGKeyArray,
    steps: int,
    offset: Int[Array, ""] | int = 0,
    *,
    stop_gradient: bool = True,
    record: Record = everything,
    remat: Remat = "none",
) -> tuple[State, Trajectory]:
    """Run `steps` rounds of ask, evaluate, tell.

    Query t (counted from 0 over the whole run) is made after t updates. Randomness is folded from t, so
    `unroll(20)` twice, the second with `offset=20`, equals `unroll(40)`.

    Args:
      optimizer: any optimizer.
      task: what to optimize.
      state: the optimizer's state, from `optimizer.init` or from an earlier unroll.
      key: the key of the whole run, the same for every part of it.
      steps: number of rounds; static.
      offset: rounds already made in this run; data.
      stop_gradient: drop the derivative of the inner gradient (the second derivative of the task). The value stays
        differentiable with respect to the query.
      record: what the trajectory keeps of each round.
      remat: what the backward pass stores. "none": the intermediates of every round. "step": the state before every
        round, from which the round is recomputed; on a CPU also about twice as fast for the coordinatewise LSTM.
        "segment": the state before every segment of about sqrt(steps) rounds, from which the segment is recomputed:
        memory grows with the square root of `steps`, for about a third more time.

    Returns:
      The state after the last tell, and the trajectory with leading axis `steps`.
    """

    # raw, because a typed key that a nested loop folds again and again looks like reuse to JAX's checker
    data, impl = jax.random.key_data(key), jax.random.key_impl(key)

    def round_(state: State, t: Int[Array, ""]):
        key = jax.random.wrap_key_data(data, impl=impl)
        x, evaluation, state = query(optimizer, task, state, key, t, stop_gradient=stop_gradient)
        told = evaluation._replace(judged=None)
        state = optimizer.tell(jax.random.fold_in(jax.random.fold_in(key, t), 2), state, x, told)
        return state, (*record(x, evaluation), t <= task.problem.horizon)

    state, (x, evaluation, mask) = _scan(round_, state, jnp.arange(steps) + offset, remat)
    return state, Trajectory(x, evaluation, mask)


def _scan(body: Callable, state: State, steps: Int[Array, "T"], remat: Remat) -> tuple[State, tuple]:
    if remat != "none":
        body = jax.checkpoint(body)  # pyright: ignore[reportPrivateImportUsage], it is public
    length = math.isqrt(steps.size)
    if remat != "segment" or length < 2:
        return jax.lax.scan(body, state, steps)
    whole = steps.size // length * length

    def segment(state, steps):
        return jax.lax.scan(body, state, steps)

    outer = jax.checkpoint(segment)  # pyright: ignore[reportPrivateImportUsage], it is public
    state, first = jax.lax.scan(outer, state, steps[:whole].reshape(-1, length))
    first = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), first)
    state, last = jax.lax.scan(body, state, steps[whole:])
    return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)
