"""A study of evolution strategies: the same functions, starts and evaluations for all, sigma and rates tuned for all.

The cells of BBOB in one dimension differ in data alone, so one compiled program runs a column on all of them; the
factors of sigma and the learning rates that are tried are data, too. Values are as the optimizers were told them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import cells as shared
from experiments.study.cells import drawn_task
from experiments.study.columns import Column, columns
from experiments.study.pieces import Arrays, Pieces
from experiments.study.population.cells import PopulationCell, cells
from experiments.study.population.choice import Choice, choose
from experiments.study.population.config import Population
from l2o.core import HostOptimizer
from l2o.errors import UserError
from meta.evaluate import evaluate, run_keys
from meta.objective import WeightedSumConfig
from tasks.family import TaskFamily, Wrapper

LATE = WeightedSumConfig(power=8).build()  # the last ninth of a run, mostly


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      columns: the optimizers.
      cells: the tasks that are reported.
      tuned_on: those that columns are tuned on.
    """

    study: Population
    columns: list[Column]
    cells: list[PopulationCell]
    tuned_on: list[PopulationCell]

    @property
    def opening(self) -> str:
        """How much it is."""
        study = self.study
        size = f"{study.runs} runs of {study.generations} generations of {study.population_size} each"
        return f"{len(self.cells)} cells, {len(self.columns)} optimizers, {size}"

    @property
    def pieces(self) -> int:
        """For each column those of the cells, and what it is tuned with for each family where there is a choice."""
        tuned = sum(len(choices(self.study, column)) > 1 for column in self.columns)
        return len(self.columns) * len(self.cells) + tuned * len(self.study.tasks)


class Found(NamedTuple):
    """What was found.

    Attributes:
      runs: by cell and column, see `Programs.run`; "best" is a regret where the minimum is known.
      known: whether the minima of a cell are, by its name.
      chosen: what the columns were run with, by task and column.
    """

    runs: dict[str, dict[str, Arrays]]
    known: dict[str, bool]
    chosen: dict[str, dict[str, Choice]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled(Wrapper):
    """A family whose tasks begin with another standard deviation: `problem.scale` times a factor, which is data."""

    family: TaskFamily
    factor: Any

    def sample(self, key):
        return self.family.sample(key)

    def task(self, params):
        task = self.family.task(params)
        return task._replace(problem=task.problem._replace(scale=self.factor * task.problem.scale))


class Programs:
    """A column's compiled programs, each of which is compiled once."""

    def __init__(self, study: Population, column: Column):
        self.study, self.column = study, column
        self._known: dict[tuple[str, int, int], Callable[..., Any]] = {}

    def run(self, cell: PopulationCell, choice: Choice, runs: int) -> dict[str, np.ndarray]:
        """Runs of the column on a cell.

        Returns:
          "best" [runs, generations], the lowest value so far, infinite before the first finite one; where the study
          has measures each of them [runs], and "late" [runs], what is judged towards the end of the run; and "seconds",
          without those of compilation.
        """
        study, column = self.study, self.column
        argument = jnp.float32(choice.learning_rate) if column.tuned else column.argument
        family = Scaled(cell.family, np.float32(choice.scale))
        where = cell.task, cell.dimension, runs
        if where not in self._known:
            self._known[where] = self._compile(cell, argument, family, runs)
        start = time.perf_counter()
        found = self._known[where](argument, family, jax.random.clone(cell.key))
        out = {name: np.asarray(value, np.float64) for name, value in found.items()}
        seconds = time.perf_counter() - start
        values = out.pop("every")
        lowest = np.minimum.accumulate(np.where(np.isfinite(values), values, np.inf), axis=1)
        # what asks for another number of points has no generations: it is read off after as many evaluations
        ends = np.minimum(np.arange(1, study.generations + 1) * study.population_size, values.shape[1]) - 1
        late = {"late": out["objective"]} if study.measures else {}
        measures = {f"measure {name}": out[name] for name in study.measures if name in out}
        return {"best": lowest[:, ends], "seconds": np.array(seconds)} | late | measures

    def _compile(self, cell: PopulationCell, argument: Any, family: Scaled, runs: int) -> Callable[..., Any]:
        study, column = self.study, self.column
        n = together(cell, column)
        rounds = study.generations * study.population_size // n
        if not rounds:
            raise UserError(
                f"{column.name} on {cell.name}: it asks for {n} points at a time, expected at most the"
                f" {study.generations * study.population_size} evaluations of a run"
            )
        return evaluate.lower(
            column.make, argument, family, cell.key,
            tasks=runs, horizon=rounds - 1, batch=study.batch, measure=bool(study.measures), every=True,
            objective=LATE if study.measures else None,
        ).compile()  # fmt: skip


def together(cell: PopulationCell, column: Column) -> int:
    """How many points an optimizer asks for at a time.

    Raises:
      UserError: it does not take the tasks of the cell, or cannot be compiled.
    """
    if isinstance(column.make(column.argument), HostOptimizer):
        raise UserError(f"{column.name} cannot be compiled, which a study of evolution strategies needs")
    return shared.together(cell, column)


@jax.jit
def _minima_of(family: TaskFamily, keys: jax.Array) -> jax.Array:
    def one(key):
        return jnp.asarray(family.task(family.sample(key)).info.get("f_opt", jnp.nan))

    return jax.vmap(one)(jax.vmap(run_keys)(keys).sample)


def optima(cell: PopulationCell, runs: int) -> np.ndarray | None:
    """The minimum of the task of each run [runs], None where the family does not know it."""
    found = np.asarray(_minima_of(cell.family, jax.random.split(jax.random.clone(cell.key), runs)), np.float64)
    return None if np.isnan(found).any() else found


def choices(study: Population, column: Column) -> list[Choice]:
    """What is tried for a column."""
    rates: Sequence[float | None] = study.tune.learning_rates if column.tuned else (None,)
    return [Choice(scale, rate) for scale in study.tune.scales for rate in rates]


def tune(
    study: Population, task: str, on: list[PopulationCell], programs: Programs, minima: dict[str, Any], pieces: Pieces
) -> Choice:
    """The choice of a column for a family of tasks, see `choose`; what is tried and saved are final values
    [choices, cells, runs]."""
    candidates, column = choices(study, programs.column), programs.column
    if len(candidates) == 1:
        return candidates[0]
    mine = [cell for cell in on if cell.task == task]

    def tried() -> dict[str, Any]:
        last = [[what_counts(programs.run(c, choice, study.tune.runs)) for c in mine] for choice in candidates]
        return {"last": np.array(last)}

    last = pieces(f"tuned/{task}/{column.file}", f"tuned {column.name} on {task}", tried)["last"]
    chosen = candidates[choose(last, [minima[cell.name] for cell in mine], study.floor)]
    pieces.say(f"tuned {column.name} on {task}: {chosen.said(study.tune)}")
    return chosen


def what_counts(found: Arrays) -> np.ndarray:
    """What choices are compared by [runs]: the lowest value, but where there are measures what is judged.

    The lowest of noisy values says little, and a validation loss is judged on other data than the values are of.
    """
    return np.where(np.isfinite(found["late"]), found["late"], np.inf) if "late" in found else found["best"][:, -1]


def plan(study: Population) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer or a task does not exist or does not fit.
    """
    found = Plan(study, columns(study, population_size=study.population_size), cells(study), cells(study, tuning=True))
    for column in found.columns:
        if column.gradients:
            raise UserError(f"{column.name} reads gradients, and a study of evolution strategies gives none")
    known: set[str] = set()
    for cell in {cell.task: cell for cell in found.cells}.values():
        for column in found.columns:
            together(cell, column)

        def measures(key, family=cell.family):
            sample_key, measure_key = jax.random.split(key)
            task = drawn_task(family, sample_key)
            return task.measure(measure_key, task.problem.start)

        known |= set(jax.eval_shape(measures, jax.random.key(0)))
    for name in study.measures:
        if name not in known:
            raise UserError(f"measures: no task has {name!r}, expected some of {', '.join(sorted(known)) or 'none'}")
    return found


def run(plan: Plan, pieces: Pieces) -> Found:
    """Tune all columns for all families, and run them on all cells."""
    study = plan.study
    minima = {cell.name: optima(cell, study.runs) for cell in plan.cells}
    minima_to_tune = {cell.name: optima(cell, study.tune.runs) for cell in plan.tuned_on}
    chosen: dict[str, dict[str, Choice]] = {task: {} for task in study.tasks}
    runs: dict[str, dict[str, Arrays]] = {cell.name: {} for cell in plan.cells}
    for column in plan.columns:
        programs = Programs(study, column)
        for task in study.tasks:
            chosen[task][column.name] = tune(study, task, plan.tuned_on, programs, minima_to_tune, pieces)
        for cell in plan.cells:

            def made(cell=cell, programs=programs, choice=chosen[cell.task][column.name]) -> dict[str, Any]:
                found, minimum = programs.run(cell, choice, study.runs), minima[cell.name]
                return found if minimum is None else {**found, "best": found["best"] - minimum[:, None]}

            path = f"cells/{cell.name}/{column.file}"
            runs[cell.name][column.name] = pieces(path, f"ran {column.name} on {cell.name}", made)
        jax.clear_caches()  # many programs in one process are more than its memory map can hold
    return Found(runs, {name: found is not None for name, found in minima.items()}, chosen)
