"""A study of black-box optimizers: simple regret on the same functions, evaluation by evaluation.

The regret after t evaluations is the lowest value among them minus the minimum of the function. Where a family does
not know its minima, `tasks.optimum` finds them; and a minimum is never above the lowest value that any column found.
Values are as the optimizers were told, so studies with noise say little.
"""

import time
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study.blackbox.config import BlackBox
from experiments.study.cells import Cell, employed, run_on_host, shape_of_problem, sole_family, together
from experiments.study.columns import Column, columns
from experiments.study.pieces import Pieces
from l2o.core import HostOptimizer
from l2o.errors import UserError
from meta.evaluate import evaluate
from tasks.optimum import minima

Values = dict[str, dict[str, np.ndarray]]  # by cell and by column
Seconds = dict[str, dict[str, float]]  # per proposal, by column and by way of running it


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      columns: the optimizers.
      cells: the tasks.
      sizes: how many points an optimizer asks for at a time, by names of cell and column.
    """

    study: BlackBox
    columns: list[Column]
    cells: list[Cell]
    sizes: dict[tuple[str, str], int]

    @property
    def opening(self) -> str:
        """How much it is."""
        size = f"{self.study.runs} runs of {self.study.evaluations} evaluations each"
        return f"{len(self.cells)} cells, {len(self.columns)} optimizers, {size}"

    @property
    def pieces(self) -> int:
        """In each cell one for its minima, and one for each column."""
        return len(self.cells) * (len(self.columns) + 1)


class Found(NamedTuple):
    """What was found.

    Attributes:
      values: by cell and column [runs, evaluations].
      optima: the minima of the tasks of a cell [runs].
      seconds: per proposal, by cell, column, and way of running it.
    """

    values: Values
    optima: dict[str, np.ndarray]
    seconds: dict[str, Seconds]


def cells(study: BlackBox) -> list[Cell]:
    """The cells of a study; one does not depend on which others there are.

    Raises:
      UserError: a family whose tasks no black-box optimizer can search.
    """
    found = []
    for name, config in study.tasks.items():
        family = sole_family(name, config, "test")
        if shape_of_problem(family).space.is_free:
            raise UserError(f"tasks.{name}: {config.kind} has no bounds, and black-box optimizers need some")
        key = jax.random.fold_in(jax.random.key(study.seed), zlib.crc32(name.encode()))
        found.append(Cell(name, family, key))
    return found


def plan(study: BlackBox) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist or does not fit.
    """
    found = [employed(column, study.workers) for column in columns(study, groups=study.groups)]
    settings = cells(study)
    for column in found:
        if column.gradients:
            raise UserError(f"{column.name} reads gradients, and a black-box study gives none")
    for field in ("relative_to", "reference"):
        name = getattr(study, field)
        if name is not None and name not in [column.name for column in found]:
            raise UserError(f"{field}: {name!r} is none of the optimizers of the study")
    sizes = {(cell.name, column.name): together(cell, column) for cell in settings for column in found}
    return Plan(study, found, settings, sizes)


def run(plan: Plan, pieces: Pieces) -> Found:
    """Runs of all columns on all cells."""
    found = Found({}, {}, {})
    for cell in plan.cells:
        path = f"cells/{cell.name}/optimum"
        made = pieces(path, f"minima of {cell.name}", lambda cell=cell: {"f_opt": optimum(plan.study, cell)})
        found.optima[cell.name] = made["f_opt"]
        for column in plan.columns:

            def runs(cell=cell, column=column) -> dict[str, Any]:
                return runs_of(plan.study, cell, column, plan.sizes[cell.name, column.name])

            made = pieces(f"cells/{cell.name}/{column.file}", f"ran {column.name} on {cell.name}", runs)
            found.values.setdefault(cell.name, {})[column.name] = made["values"].astype(np.float64)
            times = {way: float(made[way]) for way in ("alone", "batch")}
            found.seconds.setdefault(cell.name, {})[column.name] = times
        jax.clear_caches()  # hundreds of programs in one process are more than its memory map can hold
    return found


def optimum(study: BlackBox, cell: Cell) -> np.ndarray:
    """The minimum of each task of a cell [runs]."""
    params, _ = cell.draw(study.runs)
    known = jax.jit(jax.vmap(lambda p: cell.family.task(p).info.get("f_opt")))(params)
    if known is None:
        known = minima(cell.family, params, jax.random.key(study.seed))
    return np.asarray(known, np.float64)


def runs_of(study: BlackBox, cell: Cell, column: Column, n: int) -> dict[str, Any]:
    """The "values" [runs, evaluations] of a column on a cell, asking for n points at a time, and seconds per proposal.

    "alone" are the seconds of an ask and a tell in a Python loop over one run, "batch" those of a compiled optimizer
    with `study.batch` runs side by side.
    """
    optimizer, rounds = column.make(column.argument), -(-study.evaluations // n)
    if isinstance(optimizer, HostOptimizer):
        values, alone = in_python(optimizer, cell, study.runs, rounds, n)
        batch = np.nan
    else:
        values, batch = compiled(column, cell, study.runs, rounds, study.batch, n)
        _, alone = in_python(HostOptimizer(*map(jax.jit, optimizer)), cell, 2, rounds, n)
    return {"values": values[:, : study.evaluations], "alone": np.array(alone), "batch": np.array(batch)}


def compiled(column: Column, cell: Cell, runs: int, rounds: int, batch: int, n: int) -> tuple[np.ndarray, float]:
    """Values in the order of asking [runs, rounds * n], and seconds per proposal.

    The seconds are those of the whole compiled program, in which `batch` runs go side by side and the functions are
    evaluated too, divided by the number of all proposals.
    """
    key = jax.random.clone(cell.key)
    program = evaluate.lower(
        column.make, column.argument, cell.family, key,
        tasks=runs, horizon=rounds, batch=batch, measure=False, every=True,
    ).compile()  # fmt: skip
    start = time.perf_counter()
    values = np.asarray(program(column.argument, cell.family, key)["every"])
    # one round more than is asked for: `evaluate` also queries after the last update
    return values[:, : rounds * n], (time.perf_counter() - start) / values.size


def in_python(optimizer: HostOptimizer, cell: Cell, runs: int, rounds: int, n: int) -> tuple[np.ndarray, float]:
    """As `compiled`, but one run after the other: what `evaluate` does, for an optimizer that cannot be traced.

    The seconds are those of ask and tell, without the evaluation, and without the first run, which compiles.
    """
    params, keys = cell.draw(runs)
    problem_of = jax.jit(lambda params: cell.family.task(params).with_horizon(rounds).problem)
    value_of = jax.jit(lambda params, key, x: cell.family.task(params).evaluate(key, x).value)

    @jax.jit
    def keys_of(run):  # of every round, as in `l2o.unroll`
        data = jax.random.key_data(run)

        def three(t):
            key = jax.random.fold_in(jax.random.wrap_key_data(data), t)
            return jax.vmap(lambda which: jax.random.fold_in(key, which))(jnp.arange(3))

        return jax.vmap(three)(jnp.arange(rounds))

    values, seconds = np.zeros((runs, rounds, n)), np.zeros(runs)
    for i in range(runs):
        one = jax.tree.map(lambda a, i=i: a[i], params)
        _, told, seconds[i] = run_on_host(
            optimizer,
            keys.init[i],
            problem_of(one),
            lambda key, x, one=one: value_of(one, key, x),
            keys_of(keys.run[i]),
        )
        values[i] = told
    return values.reshape(runs, -1), seconds[1:].mean() / (rounds * n)
