"""A study of black-box optimizers: simple regret on the same functions, evaluation by evaluation.

The regret after t evaluations is the lowest value among them minus the minimum of the function. Where a family does
not know its minima, `tasks.optimum` finds them; and a minimum is never above the lowest value that any column found.
Values are as the optimizers were told, so studies with noise say little.
"""

import json
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.progress import Say, pieces
from experiments.study.base import BlackBox
from experiments.study.blackbox import report as report_blackbox
from experiments.study.blackbox.results import summary
from experiments.study.curves.run import Column, columns
from experiments.study.pieces import arrays_of, begin, save
from l2o.core import Evaluation, HostOptimizer, Task, population_size
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.wrappers.asynchronous import asynchronous
from meta.evaluate import RunKeys, evaluate, run_keys
from tasks.family import Params, TaskFamily
from tasks.optimum import minima


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


def cells(study: BlackBox) -> list[Cell]:
    """The cells of a study; one does not depend on which others there are.

    Raises:
      UserError: a family whose tasks no black-box optimizer can search.
    """
    found = []
    for name, config in study.tasks.items():
        family, *others = config.build("test").parts
        if others:
            raise UserError(
                f"tasks.{name}: a mixture has tasks of several shapes, expected a cell for each of its families"
            )
        if jax.eval_shape(lambda key, family=family: _task(family, key).problem, jax.random.key(0)).space.is_free:
            raise UserError(f"tasks.{name}: {config.kind} has no bounds, and black-box optimizers need some")
        key = jax.random.fold_in(jax.random.key(study.seed), zlib.crc32(name.encode()))
        found.append(Cell(name, family, key))
    return found


def _task(family: TaskFamily, key: jax.Array) -> Task:
    return family.task(family.sample(key))


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


def together(cell: Cell, column: Column) -> int:
    """How many points an optimizer asks for at a time.

    Raises:
      UserError: it does not take the tasks of the cell.
    """
    optimizer = column.make(column.argument)

    def ask(key):
        sample_key, init_key, ask_key = jax.random.split(key, 3)
        state = optimizer.init(init_key, _task(cell.family, sample_key).problem)
        return optimizer.ask(ask_key, state)[0]

    key = jax.random.key(0)
    try:
        return population_size(ask(key) if isinstance(optimizer, HostOptimizer) else jax.eval_shape(ask, key))
    except UserError as error:
        raise UserError(f"{column.name} on {cell.name}: {error}") from None


def run(study: BlackBox, out: Path, say: Say = print, resume: bool = False) -> dict[str, Any]:
    """Run a study into a directory: cells/*/*.npz, results.json, curves.png, report.html, config.toml.

    Returns:
      The contents of results.json, see `experiments.study.blackbox.results.summary`.

    Raises:
      UserError: the directory is in use or holds another study, or an optimizer does not exist or does not fit.
    """
    found, settings = [employed(column, study.workers) for column in columns(study)], cells(study)
    for column in found:
        if column.gradients:
            raise UserError(f"{column.name} reads gradients, and a black-box study gives none")
    for field in ("relative_to", "reference"):
        name = getattr(study, field)
        if name is not None and name not in [column.name for column in found]:
            raise UserError(f"{field}: {name!r} is none of the optimizers of the study")
    sizes = {(cell.name, column.name): together(cell, column) for cell in settings for column in found}
    folder = begin(study, out, resume)
    say(f"{len(settings)} cells, {len(found)} optimizers, {study.runs} runs of {study.evaluations} evaluations each")
    values: dict[str, dict[str, np.ndarray]] = {}
    optima: dict[str, np.ndarray] = {}
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    took = 0.0
    with pieces(len(settings) * (len(found) + 1), say) as done:
        for cell in settings:
            optima[cell.name], spent = _optimum(study, cell, folder / cell.name / "optimum.npz")
            took += spent
            done(f"minima of {cell.name}")
            for column in found:
                path = folder / cell.name / f"{column.identity or column.name}.npz"
                if not path.is_file():
                    _run(study, cell, column, sizes[cell.name, column.name], path)
                known = arrays_of(path)
                values.setdefault(cell.name, {})[column.name] = known["values"].astype(np.float64)
                seconds.setdefault(cell.name, {})[column.name] = {way: float(known[way]) for way in ("alone", "batch")}
                took += float(known["took"])
                done(f"ran {column.name} on {cell.name}")
            jax.clear_caches()  # hundreds of programs in one process are more than its memory map can hold
    results = summary(study, values, optima, seconds, [c for c in found if c.learned])
    results["seconds"] = round(took, 1)
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report_blackbox.write(out, results)
    return results


def _optimum(study: BlackBox, cell: Cell, path: Path) -> tuple[np.ndarray, float]:
    """The minimum of each task of a cell, and the seconds it took; what is on disk is not looked for again."""
    if not path.is_file():
        start = time.perf_counter()
        params, _ = cell.draw(study.runs)
        known = jax.jit(jax.vmap(lambda p: cell.family.task(p).info.get("f_opt")))(params)
        if known is None:
            known = minima(cell.family, params, jax.random.key(study.seed))
        save(path, f_opt=np.asarray(known, np.float64), took=np.array(time.perf_counter() - start))
    found = arrays_of(path)
    return found["f_opt"], float(found["took"])


def _run(study: BlackBox, cell: Cell, column: Column, n: int, path: Path) -> None:
    """Values [runs, evaluations] of a column on a cell, and seconds per proposal, into a file.

    "alone" are the seconds of an ask and a tell in a Python loop over one run, "batch" those of a compiled optimizer
    with `study.batch` runs side by side.
    """
    start = time.perf_counter()
    optimizer, rounds = column.make(column.argument), -(-study.evaluations // n)
    if isinstance(optimizer, HostOptimizer):
        values, alone = in_python(optimizer, cell, study.runs, rounds, n)
        batch = np.nan
    else:
        values, batch = compiled(column, cell, study.runs, rounds, study.batch, n)
        _, alone = in_python(HostOptimizer(*map(jax.jit, optimizer)), cell, 2, rounds, n)
    took = np.array(time.perf_counter() - start)
    save(path, values=values[:, : study.evaluations], alone=np.array(alone), batch=np.array(batch), took=took)


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
        state = optimizer.init(keys.init[i], problem_of(one))
        for t, (ask_key, evaluate_key, tell_key) in enumerate(keys_of(keys.run[i])):
            start = time.perf_counter()
            x, state = jax.block_until_ready(optimizer.ask(ask_key, state))
            seconds[i] += time.perf_counter() - start
            told = Evaluation(jax.block_until_ready(value_of(one, evaluate_key, x)))
            values[i, t] = told.value
            start = time.perf_counter()
            state = jax.block_until_ready(optimizer.tell(tell_key, state, x, told))
            seconds[i] += time.perf_counter() - start
    return values.reshape(runs, -1), seconds[1:].mean() / (rounds * n)
