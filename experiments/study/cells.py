"""Cells of black-box tasks, and runs of an optimizer that cannot be traced."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from experiments.study.columns import Column
from l2o.core import Evaluation, HostOptimizer, Problem, Task, population_size
from l2o.errors import UserError
from l2o.wrappers.asynchronous import asynchronous
from meta.evaluate import RunKeys, run_keys
from tasks.family import FamilyConfig, Params, TaskFamily


class Tasks(Protocol):
    """A cell of a study: tasks of one family, by a name."""

    @property
    def name(self) -> str:
        """In the study."""
        ...

    @property
    def family(self) -> TaskFamily:
        """Where the tasks come from."""
        ...


class Cell(NamedTuple):
    """Tasks of one family.

    Attributes:
      name: in the study.
      family: where they come from.
      key: decides them, and all other randomness of the runs.
    """

    name: str
    family: TaskFamily
    key: jax.Array

    def draw(self, runs: int) -> tuple[Params, RunKeys]:
        """What `evaluate` draws with the same key."""
        keys = jax.vmap(run_keys)(jax.random.split(jax.random.clone(self.key), runs))
        return jax.jit(jax.vmap(self.family.sample))(keys.sample), keys


def sole_family(name: str, config: FamilyConfig, split: Any) -> TaskFamily:
    """The family of a cell.

    Raises:
      UserError: it is a mixture of several.
    """
    family, *others = config.build(split).parts
    if others:
        raise UserError(
            f"tasks.{name}: a mixture has tasks of several shapes, expected a cell for each of its families"
        )
    return family


def drawn_task(family: TaskFamily, key: jax.Array) -> Task:
    """A task of a family at random."""
    return family.task(family.sample(key))


def shape_of_problem(family: TaskFamily) -> Problem:
    """The problem of the tasks of a family; of its arrays the shapes alone."""
    return jax.eval_shape(lambda key: drawn_task(family, key).problem, jax.random.key(0))


def employed(column: Column, workers: int) -> Column:
    """The column with so many evaluations in progress at a time.

    Raises (when it is built):
      UserError: the optimizer does not run with several workers.
    """
    if workers == 1:
        return column

    def make(argument):
        optimizer = column.make(argument)
        if isinstance(optimizer, HostOptimizer):
            raise UserError(f"workers: {column.name} cannot be compiled, which a study with several workers needs")
        return asynchronous(optimizer, workers)

    return column._replace(make=make)


def together(cell: Tasks, column: Column) -> int:
    """How many points an optimizer asks for at a time.

    Raises:
      UserError: it does not take the tasks of the cell.
    """
    optimizer = column.make(column.argument)

    def ask(key):
        sample_key, init_key, ask_key = jax.random.split(key, 3)
        state = optimizer.init(init_key, drawn_task(cell.family, sample_key).problem)
        return optimizer.ask(ask_key, state)[0]

    key = jax.random.key(0)
    try:
        return population_size(ask(key) if isinstance(optimizer, HostOptimizer) else jax.eval_shape(ask, key))
    except UserError as error:
        raise UserError(f"{column.name} on {cell.name}: {error}") from None


def run_on_host(
    optimizer: HostOptimizer, init_key: jax.Array, problem: Problem, value_of: Callable[[Any, Any], jax.Array],
    keys: Iterable[Any],
) -> tuple[list[np.ndarray], list[np.ndarray], float]:  # fmt: skip
    """One run in a Python loop.

    Args:
      optimizer: what asks and is told.
      init_key: of its state.
      problem: of the task.
      value_of: `(key, x) -> values`, the evaluation of the points of a round.
      keys: for each round those of the ask, the evaluation and the tell.

    Returns:
      The points [n, d] and the values [n] of each round, and the seconds of asking and telling.
    """
    state, points, values, seconds = optimizer.init(init_key, problem), [], [], 0.0
    for ask_key, evaluate_key, tell_key in keys:
        start = time.perf_counter()
        x, state = jax.block_until_ready(optimizer.ask(ask_key, state))
        seconds += time.perf_counter() - start
        told = Evaluation(jax.block_until_ready(value_of(evaluate_key, x)))
        points.append(np.asarray(x))
        values.append(np.asarray(told.value))
        start = time.perf_counter()
        state = jax.block_until_ready(optimizer.tell(tell_key, state, x, told))
        seconds += time.perf_counter() - start
    return points, values, seconds
