"""A study of evolution strategies: the same functions, starts and evaluations for all, sigma and rates tuned for all.

The cells of BBOB in one dimension differ in data alone, so one compiled program runs a column on all of them; the
factors of sigma and the learning rates that are tried are data, too. Values are as the optimizers were told them.
"""

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.progress import Say, pieces
from experiments.study.blackbox import run as blackbox
from experiments.study.curves.run import Column, columns
from experiments.study.pieces import arrays_of, begin, save
from experiments.study.population import report as report_population
from experiments.study.population.config import Population
from experiments.study.population.results import Choice, choose, summary
from l2o.core import HostOptimizer
from l2o.errors import UserError
from l2o.files import write_whole
from meta.evaluate import evaluate, run_keys
from meta.objective import WeightedSumConfig
from tasks.bbob.bbob import BBOBConfig
from tasks.family import TaskFamily, Wrapper

LATE = WeightedSumConfig(power=8).build()  # the last ninth of a run, mostly


class Cell(NamedTuple):
    """Tasks of one family.

    Attributes:
      name: in the study.
      task: the entry of the study's tasks that it comes from.
      function: of BBOB, else "".
      dimension: number of coordinates. Cells of one task and dimension run in the same programs.
      family: where its tasks come from.
      key: decides them, and all other randomness of the runs.
    """

    name: str
    task: str
    function: str
    dimension: int
    family: TaskFamily
    key: jax.Array


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


def cells(study: Population, tuning: bool = False) -> list[Cell]:
    """The cells that are reported, or those that columns are tuned on; one does not depend on which others there are.

    Raises:
      UserError: a family that is no cell of such a study, or two cells of one name.
    """
    several = sum(isinstance(config, BBOBConfig) for config in study.tasks.values()) > 1
    found: list[Cell] = []
    for task, config in study.tasks.items():
        if isinstance(config, BBOBConfig):
            found += _bbob(study, task, config, f"{task}-" if several else "", tuning)
            continue
        family, *others = config.build("train" if tuning else "test").parts
        if others:
            raise UserError(
                f"tasks.{task}: a mixture has tasks of several shapes, expected a cell for each of its families"
            )
        start = jax.eval_shape(lambda key, family=family: _problem(family, key), jax.random.key(0)).start
        dimension = sum(leaf.size for leaf in jax.tree.leaves(start))
        found.append(Cell(task, task, "", dimension, family, _key(study, task, tuning)))
    for cell in found:
        if not jax.eval_shape(lambda key, family=cell.family: _problem(family, key), jax.random.key(0)).space.is_free:
            raise UserError(
                f"tasks.{cell.task}: its points have bounds, expected a free space, on which strategies begin with the"
                " scale of the problem"
            )
    names = [cell.name for cell in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"tasks: two cells are named {twice!r}, expected different names")
    return found


def _bbob(study: Population, task: str, config: BBOBConfig, prefix: str, tuning: bool) -> list[Cell]:
    # one family for what is tuned on and what is reported, and so the same programs
    trained = study.trained.functions or config.functions
    tried = study.tune.dimensions or config.dimensions
    functions = tuple(dict.fromkeys((*config.functions, *trained)))
    dimensions = tuple(dict.fromkeys((*config.dimensions, *tried)))
    families = config.model_copy(update={"functions": functions, "dimensions": dimensions}).indexed()
    return [
        Cell(name := f"{prefix}{function}-d{d}", task, function, d, families[d][i], _key(study, name, tuning))
        for d in dimensions if d in (tried if tuning else config.dimensions)
        for i, function in enumerate(functions) if function in (trained if tuning else config.functions)
    ]  # fmt: skip


def _key(study: Population, name: str, tuning: bool) -> jax.Array:
    whole = f"tuning on {name}" if tuning else name  # which is the name of no cell
    return jax.random.fold_in(jax.random.key(study.seed), zlib.crc32(whole.encode()))


def _problem(family: TaskFamily, key: jax.Array) -> Any:
    return family.task(family.sample(key)).problem


class Programs:
    """A column's compiled programs, each of which is compiled once."""

    def __init__(self, study: Population, column: Column):
        self.study, self.column = study, column
        self._known: dict[tuple[str, int, int], Callable[..., Any]] = {}

    def run(self, cell: Cell, choice: Choice, runs: int) -> dict[str, np.ndarray]:
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

    def _compile(self, cell: Cell, argument: Any, family: Scaled, runs: int) -> Callable[..., Any]:
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


def together(cell: Cell, column: Column) -> int:
    """How many points an optimizer asks for at a time.

    Raises:
      UserError: it does not take the tasks of the cell, or cannot be compiled.
    """
    if isinstance(column.make(column.argument), HostOptimizer):
        raise UserError(f"{column.name} cannot be compiled, which a study of evolution strategies needs")
    return blackbox.together(blackbox.Cell(cell.name, cell.family, cell.key), column)


@jax.jit
def _optima(family: TaskFamily, keys: jax.Array) -> jax.Array:
    def one(key):
        return jnp.asarray(family.task(family.sample(key)).info.get("f_opt", jnp.nan))

    return jax.vmap(one)(jax.vmap(run_keys)(keys).sample)


def optima(cell: Cell, runs: int) -> np.ndarray | None:
    """The minimum of the task of each run [runs], None where the family does not know it."""
    found = np.asarray(_optima(cell.family, jax.random.split(jax.random.clone(cell.key), runs)), np.float64)
    return None if np.isnan(found).any() else found


def choices(study: Population, column: Column) -> list[Choice]:
    """What is tried for a column."""
    rates: Sequence[float | None] = study.tune.learning_rates if column.tuned else (None,)
    return [Choice(scale, rate) for scale in study.tune.scales for rate in rates]


def tune(
    study: Population, task: str, on: list[Cell], programs: Programs, path: Path, minima: dict[str, Any]
) -> tuple[Choice, np.ndarray]:
    """The choice of a column for a family of tasks, see `choose`, and the final values [choices, cells, runs]."""
    candidates = choices(study, programs.column)
    mine = [cell for cell in on if cell.task == task]
    if not path.is_file():
        start = time.perf_counter()
        last = [[_score(programs.run(c, choice, study.tune.runs)) for c in mine] for choice in candidates]
        save(path, last=np.array(last), took=np.array(time.perf_counter() - start))
    last = arrays_of(path)["last"]
    return candidates[choose(last, [minima[cell.name] for cell in mine], study.floor)], last


def _score(found: dict[str, np.ndarray]) -> np.ndarray:
    """What choices are compared by [runs]: the lowest value, but where there are measures what is judged.

    The lowest of noisy values says little, and a validation loss is judged on other data than the values are of.
    """
    return np.where(np.isfinite(found["late"]), found["late"], np.inf) if "late" in found else found["best"][:, -1]


def run(study: Population, out: Path, say: Say = print, resume: bool = False) -> dict[str, Any]:
    """Run a study into a directory: cells/*/*.npz, tuned/*/*.npz, results.json, figures, report.html, config.toml.

    Returns:
      The contents of results.json, see `experiments.study.population.results.summary`.

    Raises:
      UserError: the directory is in use or holds another study, or an optimizer or a task does not exist or fit.
    """
    found, reported, tuned_on = columns(study), cells(study), cells(study, tuning=True)
    _check(study, found, reported)
    folder = begin(study, out, resume)
    say(
        f"{len(reported)} cells, {len(found)} optimizers, {study.runs} runs of {study.generations} generations of"
        f" {study.population_size} each"
    )
    known = {cell.name: optima(cell, study.runs) for cell in reported}
    known_tuned = {cell.name: optima(cell, study.tune.runs) for cell in tuned_on}
    chosen: dict[str, dict[str, Choice]] = {task: {} for task in study.tasks}
    runs: dict[str, dict[str, dict[str, np.ndarray]]] = {cell.name: {} for cell in reported}
    took = 0.0
    with pieces(len(found) * (len(study.tasks) + len(reported)), say) as done:
        for column in found:
            programs, file = Programs(study, column), f"{column.identity or column.name}.npz"
            for task in study.tasks:
                path = out / "tuned" / task / file
                if len(choices(study, column)) > 1:
                    chosen[task][column.name], _ = tune(study, task, tuned_on, programs, path, known_tuned)
                    took += float(arrays_of(path)["took"])
                    say(f"tuned {column.name} on {task}: {chosen[task][column.name].said(study.tune)}")
                else:
                    chosen[task][column.name] = choices(study, column)[0]
                done(f"tuned {column.name} on {task}")
            for cell in reported:
                path = folder / cell.name / file
                if not path.is_file():
                    start = time.perf_counter()
                    made = programs.run(cell, chosen[cell.task][column.name], study.runs)
                    optimum = known[cell.name]
                    if optimum is not None:
                        made["best"] -= optimum[:, None]
                    save(path, **made, took=np.array(time.perf_counter() - start))
                runs[cell.name][column.name] = arrays_of(path)
                took += float(runs[cell.name][column.name]["took"])
                done(f"ran {column.name} on {cell.name}")
            jax.clear_caches()  # many programs in one process are more than its memory map can hold
    facts = {cell.name: (cell.task, cell.function, cell.dimension, known[cell.name] is not None) for cell in reported}
    results = summary(study, facts, runs, chosen, [column for column in found if column.learned])
    results["seconds"] = round(took, 1)
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report_population.write(out, results)
    return results


def _check(study: Population, found: list[Column], reported: list[Cell]) -> None:
    for column in found:
        if column.gradients:
            raise UserError(f"{column.name} reads gradients, and a study of evolution strategies gives none")
    known: set[str] = set()
    for cell in {cell.task: cell for cell in reported}.values():
        for column in found:
            together(cell, column)

        def measures(key, family=cell.family):
            sample_key, measure_key = jax.random.split(key)
            task = family.task(family.sample(sample_key))
            return task.measure(measure_key, task.problem.start)

        known |= set(jax.eval_shape(measures, jax.random.key(0)))
    for name in study.measures:
        if name not in known:
            raise UserError(f"measures: no task has {name!r}, expected some of {', '.join(sorted(known)) or 'none'}")
