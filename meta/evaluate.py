"""Complete runs of an optimizer on many tasks of a family: validation, tuning and studies all call this."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from l2o.core import Objective, Optimizer, Trajectory
from l2o.unroll import queries_and_values, query, unroll, values_only
from meta.objective import accumulate
from meta.parallel import AXIS, DIVIDED, WHOLE
from tasks.family import TaskFamily


class RunKeys(NamedTuple):
    """Randomness of one run: of the task, and of an optimizer's init, of its rounds (see `unroll`), and of measures."""

    sample: PRNGKeyArray
    init: PRNGKeyArray
    run: PRNGKeyArray
    measure: PRNGKeyArray


def run_keys(key: PRNGKeyArray) -> RunKeys:
    """How `evaluate` divides the key of a task, of which it splits one for each task from its own."""
    return RunKeys(*jax.random.split(key, 4))


@functools.partial(
    jax.jit, static_argnames=("make", "tasks", "horizon", "batch", "objective", "measure", "every", "mesh")
)
def evaluate(
    make: Callable[[Any], Optimizer],
    argument: Any,
    family: TaskFamily,
    key: PRNGKeyArray,
    *,
    tasks: int,
    horizon: int,
    batch: int | None = None,
    objective: Objective | None = None,
    measure: bool = True,
    every: bool = False,
    mesh: Mesh | None = None,
) -> dict[str, Float[Array, "tasks ..."]]:
    """Run an optimizer on freshly drawn tasks.

    Task i depends on the key and on i alone, so different optimizers with one key see the same starts and the same
    minibatches.

    Args:
      make: builds the optimizer from `argument` (theta, a learning rate), which may be traced; static.
      argument: see `make`.
      family: where tasks come from; the parts of a mixture share them evenly, the first ones first.
      key: randomness.
      tasks: how many tasks.
      horizon: updates in a run.
      batch: tasks computed side by side on each device, to bound memory; all when None.
      measure: also take each task's measures at the last point.
      every: also return the value of every query, in the order of asking.
      objective: also report its mean loss per update as "objective".
      mesh: divide the tasks among these devices.

    Returns:
      "value" [tasks, horizon + 1], the value after t updates, the best one of n where an optimizer asks for n points at
      a time; each measure of the task at the last point [tasks]; and "every" [tasks, (horizon + 1) n].
    """

    def one(argument, family, key):
        optimizer = make(argument)
        sample_key, init_key, run_key, measure_key = run_keys(key)
        task = family.task(family.sample(sample_key)).with_horizon(horizon)
        state = optimizer.init(init_key, task.problem)
        record = queries_and_values if objective is not None and objective.queries else values_only
        state, run = unroll(optimizer, task, state, run_key, horizon, record=record)
        x, last, _ = query(optimizer, task, state, run_key, horizon)
        point = jax.tree.map(lambda a: a[jnp.argmin(last.value)], x)
        out = {"value": jnp.append(run.evaluation.value.min(-1), last.value.min())}
        if measure:
            out |= task.measure(measure_key, point)
        if every:
            out["every"] = jnp.append(run.evaluation.value, last.value[None], axis=0).reshape(-1)
        if objective is not None:
            ends = jax.tree.map(lambda a: a[None], record(x, last))
            xs, values = jax.tree.map(lambda a, b: jnp.append(a, b, axis=0), (run.x, run.evaluation), ends)
            history = Trajectory(xs, values, jnp.ones(horizon + 1, bool))
            out["objective"] = accumulate(objective, objective.init(task), history)[1][1:].mean()
        return out

    def several(argument, family, keys):
        return jax.lax.map(lambda k: one(argument, family, k), keys, batch_size=min(batch or len(keys), len(keys)))

    def divided(argument, family, keys):
        return jax.lax.all_gather(several(argument, family, keys), AXIS, tiled=True)

    def run(family, keys):
        if mesh is None:
            return several(argument, family, keys)
        padded = keys[jnp.arange(-(-len(keys) // mesh.size) * mesh.size) % len(keys)]  # some are run twice
        specs = (WHOLE, WHOLE, DIVIDED)
        shared = jax.shard_map(divided, mesh=mesh, in_specs=specs, out_specs=WHOLE, check_vma=False)
        return jax.tree.map(lambda a: a[: len(keys)], shared(argument, family, padded))

    keys, parts = jax.random.split(key, tasks), family.parts
    counts = [tasks // len(parts) + (i < tasks % len(parts)) for i in range(len(parts))]
    ends = itertools.accumulate(counts)
    found = [run(part, keys[end - n : end]) for part, n, end in zip(parts, counts, ends, strict=True) if n]
    common = [name for name in found[0] if all(name in values for values in found)]
    return {name: jnp.concatenate([values[name] for values in found]) for name in common}
