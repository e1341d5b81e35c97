"""What every estimator of the meta-gradient shares: its interface, and a batch of runs in progress."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from l2o.core import Carry, LearnedOptimizer, Objective, State, Theta
from l2o.registry import Config
from l2o.unroll import Remat, queries_and_values, query, unroll, values_only
from meta.objective import accumulate
from tasks.family import TaskFamily

RESTART = 2**32 - 1  # folded into a key for its successor; no step is that large


class Estimator(NamedTuple):
    """An estimator of the gradient of the meta-loss with respect to theta.

    Every leaf of the state has a leading axis of length `runs`. The devices of a mesh divide that axis among them; each
    of them calls `estimate` with its part, and the gradients and losses are averaged.

    Attributes:
      init: `(key, theta, family) -> state`, a pytree that is saved with every checkpoint.
      estimate: `(theta, state, family) -> (gradient, state, loss)`, where loss is the mean meta-loss per inner step of
        those runs that are finite, NaN if none is.
      runs: length of the leading axis of the state.
    """

    init: Callable[[PRNGKeyArray, Theta, TaskFamily], Any]
    estimate: Callable[[Theta, Any, TaskFamily], tuple[Theta, Any, Float[Array, ""]]]
    runs: int


class EstimatorConfig(Config):
    """Room of the estimators."""

    kind: str

    def build(
        self, learned: LearnedOptimizer, objective: Objective, horizon: int, tasks: int, axis: str | None = None
    ) -> Estimator:
        """The estimator.

        Args:
          learned: the architecture whose meta-parameters are estimated.
          objective: the meta-loss.
          horizon: the largest number of inner steps that a run may have; each task has its own.
          tasks: tasks worked on side by side.
          axis: name of the mesh axis that the runs are divided along, for estimators that must see all of them.
        """
        raise TypeError(f"{type(self).__name__} does not define build()")


class InnerRun(NamedTuple):
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


class Windows(NamedTuple):
    """How to start and advance runs by windows; everything is pure and per run, so batches are a vmap.

    Attributes:
      learned: the architecture.
      objective: the meta-loss.
      length: updates in a window.
      remat: what the backward pass stores, see `l2o.unroll`.
    """

    learned: LearnedOptimizer
    objective: Objective
    length: int
    remat: Remat = "none"

    def start(self, theta: Theta, key: PRNGKeyArray, family: TaskFamily) -> InnerRun:
        """A new run on a newly drawn task, before its first query."""
        sample_key, init_key, run_key = jax.random.split(key, 3)
        params = family.sample(sample_key)
        task = family.task(params)
        state = self.learned.bind(theta).init(init_key, task.problem)
        return InnerRun(
            jax.random.key_data(run_key), params, state, self.objective.init(task), jnp.zeros((), jnp.int32)
        )

    def advance(
        self, theta: Theta, run: InnerRun, family: TaskFamily, stop_gradient: bool = True
    ) -> tuple[InnerRun, Float[Array, ""], Float[Array, ""]]:
        """Advance a run by a window.

        The last query is judged but not told: telling it is the first thing the next window does, so that every update
        is differentiated in the window that sees what came of it.

        Returns:
          The run; the meta-losses after the window's updates, summed over those inside the horizon and divided by the
          window's length; their mean over those inside the horizon. The first is what windows of one run add up from,
          the second is what a person wants to read.
        """
        task = family.task(run.params)
        optimizer, key = self.learned.bind(theta), jax.random.wrap_key_data(run.key)
        record = queries_and_values if self.objective.queries else values_only
        state, trajectory = unroll(
            optimizer, task, run.state, key, self.length, run.step,
            stop_gradient=stop_gradient, record=record, remat=self.remat,
        )  # fmt: skip
        carry, losses = accumulate(self.objective, run.carry, trajectory, run.step)
        t = run.step + self.length
        x, evaluation, _ = query(optimizer, task, state, key, t, stop_gradient=stop_gradient)
        _, last = self.objective.step(carry, t, *record(x, evaluation))
        inside = jnp.append(trajectory.mask[1:], t <= task.problem.horizon)
        total = jnp.sum(jnp.where(inside, jnp.append(losses[1:], last), 0.0))
        new = run._replace(state=state, carry=carry, step=t)
        return new, total / self.length, total / jnp.maximum(jnp.sum(inside), 1)

    def finished(self, run: InnerRun, family: TaskFamily) -> Bool[Array, ""]:
        """Whether a run has reached its horizon or left the finite numbers."""
        healthy = [jnp.all(jnp.isfinite(leaf)) for leaf in _floats(run.state)]
        return (run.step >= family.task(run.params).problem.horizon) | ~functools.reduce(jnp.logical_and, healthy, True)

    def phase(self, params: Any, family: TaskFamily, fraction: Float[Array, ""]) -> Int[Array, ""]:
        """The window boundary at a fraction in [0, 1) of a run, in updates."""
        windows = -(-family.task(params).problem.horizon // self.length)
        return (jnp.floor(fraction * windows) * self.length).astype(jnp.int32)

    def staggered(self, runs: InnerRun, family: TaskFamily) -> InnerRun:
        """A batch of new runs at different phases, so that together they cover the whole horizon."""
        fractions = jnp.arange(len(runs.step)) / len(runs.step)
        return runs._replace(step=jax.vmap(lambda p, f: self.phase(p, family, f))(runs.params, fractions))


def over_parts(estimator: Estimator, parts: int, clip: float | None = None) -> Estimator:
    """One copy of an estimator for each part of a mixture of families; gradient and loss are the means.

    Args:
      estimator: of one part.
      parts: how many there are.
      clip: gradients of parts are made no longer than this many times the median of their norms.
    """
    if parts == 1:
        return estimator

    def init(key, theta, family):
        keys = jax.random.split(key, parts)
        return tuple(estimator.init(k, theta, part) for k, part in zip(keys, family.parts, strict=True))

    def estimate(theta, state, family):
        pairs = zip(state, family.parts, strict=True)
        gradients, states, losses = zip(*(estimator.estimate(theta, s, part) for s, part in pairs), strict=True)
        if clip is not None:
            norms = jnp.stack([optax.tree.norm(gradient) for gradient in gradients])
            shares = jnp.minimum(1.0, clip * jnp.median(norms) / jnp.where(norms > 0, norms, 1.0))
            gradients = [optax.tree.scale(share, g) for share, g in zip(shares, gradients, strict=True)]
        return jax.tree.map(lambda *g: sum(g) / parts, *gradients), states, nanmean(jnp.stack(losses))

    return Estimator(init, estimate, estimator.runs)


def replace(due: Bool[Array, "runs"], fresh: Callable[[], Any], state: Any) -> Any:
    """New entries where they are due, prepared only when at least one is."""

    def choose(state):
        return jax.tree.map(lambda new, old: jax.vmap(jnp.where)(due, new, old), fresh(), state)

    return jax.lax.cond(jnp.any(due), choose, lambda state: state, state)


def successor(key: UInt32[Array, "2"]) -> PRNGKeyArray:
    """The key of whatever follows once what was drawn from this one is over."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), RESTART)


def nanmean(losses: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean of the finite losses, NaN if there are none."""
    return jnp.nanmean(jnp.where(jnp.isfinite(losses), losses, jnp.nan))


def _floats(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
