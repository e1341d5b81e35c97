"""What every estimator of the meta-gradient shares: its interface, and a batch of runs in progress."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from l2o.core import Carry, LearnedOptimizer, Objective, State, Theta
from l2o.registry import Config
from l2o.unroll import query, unroll, values_only
from meta.objective import accumulate
from tasks.family import TaskFamily


class Estimator(NamedTuple):
    """An estimator of the gradient of the meta-loss with respect to theta.

    Attributes:
      init: `(key, theta, family) -> state`, a pytree that is saved with every checkpoint.
      estimate: `(theta, state, family) -> (gradient, state, loss)`, where loss is the mean meta-loss per inner step.
    """

    init: Callable[[PRNGKeyArray, Theta, TaskFamily], Any]
    estimate: Callable[[Theta, Any, TaskFamily], tuple[Theta, Any, Float[Array, ""]]]


class EstimatorConfig(Config):
    """Room of the estimators."""

    kind: str

    def build(self, learned: LearnedOptimizer, objective: Objective, horizon: int, tasks: int) -> Estimator:
        """The estimator.

        Args:
          learned: the architecture whose meta-parameters are estimated.
          objective: the meta-loss.
          horizon: inner steps in a run.
          tasks: runs advanced side by side.
        """
        raise TypeError(f"{type(self).__name__} does not define build()")


class Run(NamedTuple):
    """One inner run in progress.

    Attributes:
      key: randomness of this run, as raw key data: the same key is folded with every step, in one window after
        another, which a typed key's reuse checker would take for a mistake.
      params: the task's parameters.
      state: the optimizer's state before query number `step`.
      carry: the objective's running state before it.
      step: updates made so far.
    """

    key: UInt32[Array, "2"]
    params: Any
    state: State
    carry: Carry
    step: Int[Array, ""]


class Runs(NamedTuple):
    """How to start and advance runs; everything is pure and per run, so batches are a vmap."""

    learned: LearnedOptimizer
    objective: Objective
    horizon: int

    def start(self, theta: Theta, key: PRNGKeyArray, family: TaskFamily) -> Run:
        """A new run on a newly drawn task, before its first query."""
        sample_key, init_key, run_key = jax.random.split(key, 3)
        params = family.sample(sample_key)
        task = family.task(params).with_horizon(self.horizon)
        state = self.learned.bind(theta).init(init_key, task.problem)
        return Run(jax.random.key_data(run_key), params, state, self.objective.init(task), jnp.zeros((), jnp.int32))

    def advance(
        self, theta: Theta, run: Run, family: TaskFamily, steps: int, stop_gradient: bool = True
    ) -> tuple[Run, Float[Array, ""]]:
        """Advance a run by `steps` updates; also the mean meta-loss after those of them inside the horizon.

        The last query is judged but not told: telling it is the first thing the next window does, so that every update
        is differentiated in the window that sees what came of it.
        """
        task = family.task(run.params).with_horizon(self.horizon)
        optimizer, key = self.learned.bind(theta), jax.random.wrap_key_data(run.key)
        state, trajectory = unroll(
            optimizer, task, run.state, key, steps, run.step,
            stop_gradient=stop_gradient, record=values_only, remat=True,
        )  # fmt: skip
        carry, losses = accumulate(self.objective, run.carry, trajectory, run.step)
        t = run.step + steps
        x, evaluation, _ = query(optimizer, task, state, key, t, stop_gradient=stop_gradient)
        _, last = self.objective.step(carry, t, *values_only(x, evaluation))
        inside = jnp.append(trajectory.mask[1:], t <= self.horizon)
        loss = jnp.sum(jnp.where(inside, jnp.append(losses[1:], last), 0.0)) / jnp.maximum(jnp.sum(inside), 1)
        return run._replace(state=state, carry=carry, step=t), loss

    def restart_finished(self, theta: Theta, runs: Run, family: TaskFamily) -> Run:
        """Replace the runs of a batch that have reached the horizon or left the finite numbers by new ones.

        New runs are prepared only when at least one is due.
        """
        finite = jax.tree.map(lambda a: jnp.all(jnp.isfinite(a), axis=tuple(range(1, a.ndim))), _floats(runs))
        healthy = jax.tree.reduce(jnp.logical_and, finite, jnp.ones(runs.step.shape, bool))
        due = (runs.step >= self.horizon) | ~healthy

        def restart(runs: Run) -> Run:
            keys = jax.vmap(jax.random.fold_in, (0, None))(jax.random.wrap_key_data(runs.key), self.horizon + 1)
            fresh = jax.vmap(lambda key: self.start(theta, key, family))(keys)
            return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(due, new, old), fresh, runs)

        return jax.lax.cond(jnp.any(due), restart, lambda runs: runs, runs)


def _floats(runs: Run) -> list[Array]:
    leaves = jax.tree.leaves(runs.state)
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
