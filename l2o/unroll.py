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
        ask_key, evaluate_key, tell_key = jax.random.split(jax.random.fold_in(key, t), 3)
        x, state = optimizer.ask(ask_key, state)
        evaluation = task.evaluate(evaluate_key, x)
        if stop_gradient and evaluation.gradient is not None:
            evaluation = evaluation._replace(gradient=jax.lax.stop_gradient(evaluation.gradient))
        state = optimizer.tell(tell_key, state, x, evaluation)
        return state, (*record(x, evaluation), t <= task.problem.horizon)

    body = jax.checkpoint(round_) if remat else round_  # type: ignore[reportPrivateImportUsage]
    state, (x, evaluation, mask) = jax.lax.scan(body, state, jnp.arange(steps) + offset)
    return state, Trajectory(x, evaluation, mask)
