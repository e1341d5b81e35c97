"""The one unroll: every run of every optimizer on every task is this scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from l2o.core import Evaluation, Optimizer, State, Task, Trajectory
from l2o.space import X

Record = Callable[[X, Evaluation], tuple[X, Evaluation]]


def everything(x: X, evaluation: Evaluation) -> tuple[X, Evaluation]:
    """Keep queries, values and gradients."""
    return x, evaluation


def values_only(x: X, evaluation: Evaluation) -> tuple[X, Evaluation]:
    """Keep values alone: what one wants when x is a large network."""
    return None, Evaluation(evaluation.value, None)


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
    remat: bool = False,
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
      remat: recompute each round in the backward pass instead of storing its intermediates; on a CPU this is also
        about twice as fast for the coordinatewise LSTM.

    Returns:
      The state after the last tell, and the trajectory with leading axis `steps`.
    """

    def round_(state: State, t: Int[Array, ""]):
        x, evaluation, state = query(optimizer, task, state, key, t, stop_gradient=stop_gradient)
        state = optimizer.tell(jax.random.fold_in(jax.random.fold_in(key, t), 2), state, x, evaluation)
        return state, (*record(x, evaluation), t <= task.problem.horizon)

    body = jax.checkpoint(round_) if remat else round_  # pyright: ignore[reportPrivateImportUsage], it is public
    state, (x, evaluation, mask) = jax.lax.scan(body, state, jnp.arange(steps) + offset)
    return state, Trajectory(x, evaluation, mask)
