"""The columns of a study of tuning: settings of trained optimizers and of baselines, as programs that make runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import l2o
from experiments.study.cells import run_on_host
from experiments.study.columns import identity, label
from experiments.study.pieces import Arrays
from experiments.study.tuning.config import Rival, Settings, Tuning, Variant
from experiments.study.tuning.tasks import Fixed, TuningCell, prompts
from l2o.core import BaselineConfig, HostOptimizer, Optimizer
from l2o.errors import UserError
from l2o.loaded import Loaded
from l2o.optformer.optformer import OptFormerConfig
from l2o.registry import kinds, nearest
from meta.recordings.rollouts import rollout, study_keys

# a task and seeds [n] to "x" [n, trials, d] and "y" [n, trials]
Run = Callable[[TuningCell, np.ndarray], dict[str, Any]]


class TuningSetting(NamedTuple):
    """One way of running a column.

    Attributes:
      choice: what it has of its own.
      identity: a short name of everything that decides its runs, for files.
      make: what makes its runs on the tasks of a study, a program for each number of parameters.
      time: seconds of a suggestion on one of these tasks, the mean of a run.
    """

    choice: Settings
    identity: str
    make: Callable[[Sequence[TuningCell]], Run]
    time: Callable[[Sequence[TuningCell], TuningCell], float]


class TuningColumn(NamedTuple):
    """A method.

    Attributes:
      name: in the report.
      runs: on each task.
      settings: of which one is reported.
    """

    name: str
    runs: int
    settings: tuple[TuningSetting, ...]


def trained(study: Tuning) -> dict[str, Loaded]:
    """The trained optimizers of a study, by their names in the report.

    Raises:
      UserError: one of them does not exist, is a baseline or reads gradients, or two have one name.
    """
    found: dict[str, Loaded] = {}
    for name in study.optimizers:
        if name in kinds(BaselineConfig):
            raise UserError(f"optimizers: {name} is a baseline, expected a trained optimizer")
        loaded = l2o.load(name)
        if loaded.config.reads_gradients:
            raise UserError(f"optimizers: {name} reads gradients, and these tasks give none")
        if label(name) in found:
            raise UserError(f"optimizers: two are called {label(name)}, expected different names")
        found[label(name)] = loaded
    return found


def _optimizer_of_variant(name: str, column: Variant, given: dict[str, Loaded]) -> Loaded:
    alike = [loaded for loaded in given.values() if loaded.config.kind == column.of]
    if len(alike) != 1:
        names = ", ".join(f"{name} ({loaded.config.kind})" for name, loaded in given.items()) or "none"
        raise UserError(f"variants.{name}: expected one optimizer of kind {column.of!r} as --optimizer, found {names}")
    return alike[0]


def left_out(study: Tuning) -> dict[str, str]:
    """What the columns lack that cannot be run, by name.

    Raises:
      UserError: the column that others are compared with or that is tried for real is one of them.
    """
    lacking = {name: rival.optimizer.lacks for name, rival in study.baselines.items() if rival.optimizer.lacks}
    for where, names in _needed(study).items():
        for name in names:
            if name in lacking:
                raise UserError(f"{where}: {lacking[name]}")
    return lacking


def _needed(study: Tuning) -> dict[str, tuple[str, ...]]:
    return {"compared": (study.compared,), "live.columns": study.live.columns if study.live else ()}


def columns(study: Tuning, given: dict[str, Loaded]) -> list[TuningColumn]:
    """The columns in the order of the report, but those that are left out.

    Raises:
      UserError: a variant of none of the given optimizers, or a setting that it does not have; two columns of one name;
        or `study` asks for something of a column that there is not.
    """
    variants = {name: (_optimizer_of_variant(name, of, given), of) for name, of in study.variants.items()}
    varied = {of.of for of in study.variants.values()}
    own = {name: (loaded, Variant()) for name, loaded in given.items() if loaded.config.kind not in varied}
    for name in own:
        if name in study.columns:
            raise UserError(f"optimizers: another column is called {name}, too, expected another name")
    found, lacking = [], left_out(study)
    for name, (loaded, column) in (own | variants).items():
        settings = [_setting_of_variant(study, name, column, loaded, choice) for choice in column.choices]
        found.append(TuningColumn(name, column.runs or study.runs, tuple(settings)))
    for name, column in study.baselines.items():
        if name not in lacking:
            settings = [_setting_of_baseline(study, column, choice) for choice in column.choices]
            found.append(TuningColumn(name, column.runs or study.runs, tuple(settings)))
    known = [column.name for column in found]
    for where, names in _needed(study).items():
        for name in names:
            if name not in known:
                raise UserError(f"{where}: {name!r}{nearest(name, known)} is none of the columns")
    return found


def _setting_of_variant(study: Tuning, name: str, column: Variant, loaded: Loaded, choice: Settings) -> TuningSetting:
    room = {"max_trials": study.trials} if "max_trials" in type(loaded.config).model_fields else {}
    if isinstance(loaded.config, OptFormerConfig):  # which was trained on studies of as many
        room = {"max_trials": max(loaded.config.max_trials, study.trials)}
    try:
        chosen = loaded.configured(**(room | column.settings | choice))
    except UserError as error:
        raise UserError(f"variants.{name}: {error}") from None
    config = chosen.config

    def told(some: Sequence[TuningCell]) -> dict[tuple[str, str], Any]:
        return prompts(some, config.algorithm) if column.named and isinstance(config, OptFormerConfig) else {}

    def make(some: Sequence[TuningCell]) -> Run:
        of_task = told(some)
        program = compiled(chosen.learned.bind, study.trials)
        return lambda cell, seeds: program(chosen.theta, of_task.get((cell.group, cell.name)), cell.family, seeds)

    def time(some: Sequence[TuningCell], cell: TuningCell) -> float:
        optimizer = on_its_own(chosen.learned.bind, chosen.theta, told(some).get((cell.group, cell.name)))
        return seconds(optimizer, cell, study.trials)

    return TuningSetting(choice, identity([config.model_dump(mode="json"), loaded.sha256, column.named]), make, time)


def _setting_of_baseline(study: Tuning, column: Rival, choice: Settings) -> TuningSetting:
    config = column.chosen(choice)
    optimizer = config.build()

    def make(some: Sequence[TuningCell]) -> Run:
        del some
        if isinstance(optimizer, HostOptimizer):
            program = on_host(optimizer, study.trials)
            return lambda cell, seeds: program(cell.family, seeds)
        jitted = compiled(lambda _: optimizer, study.trials)
        return lambda cell, seeds: jitted(None, None, cell.family, seeds)

    def time(some: Sequence[TuningCell], cell: TuningCell) -> float:
        del some
        host = optimizer if isinstance(optimizer, HostOptimizer) else on_its_own(lambda _: optimizer, None, None)
        return seconds(host, cell, study.trials)

    return TuningSetting(choice, identity([config.model_dump(mode="json")]), make, time)


def compiled(bind: Callable[[Any], Optimizer], trials: int) -> Callable[..., dict[str, jax.Array]]:
    """`(theta, prompt or None, family, seeds [n]) -> arrays of n runs`, of an optimizer that is told the prompt."""

    @jax.jit
    def run(theta, prompt, family, seeds):
        optimizer = bind(theta)

        def init(key, problem):
            return optimizer.init(key, problem._replace(context=prompt))

        found = rollout(optimizer._replace(init=init), trials)(family, seeds)
        return {name: found[name] for name in ("x", "y")}

    return run


def on_its_own(bind: Callable[[Any], Optimizer], theta: Any, prompt: Any) -> HostOptimizer:
    """An optimizer for a loop on the host, each of its functions a program that theta is an argument of."""
    init = jax.jit(lambda theta, key, problem: bind(theta).init(key, problem))
    ask, tell = (
        jax.jit(lambda theta, *given, name=name: getattr(bind(theta), name)(*given)) for name in ("ask", "tell")
    )
    return HostOptimizer(
        lambda key, problem: init(theta, key, problem._replace(context=prompt)),
        partial(ask, theta),
        partial(tell, theta),
    )


def seconds(optimizer: HostOptimizer, cell: TuningCell, trials: int) -> float:
    """Seconds of asking for a point and telling its value, the mean of a run, before which all is compiled."""
    problem_of = jax.jit(lambda family: family.task(family.params).with_horizon(trials).problem)
    value_of = jax.jit(lambda family, key, x: family.task(family.params).evaluate(key, x).value)
    keys = jax.random.split(jax.random.key(cell.seeds[0]), (trials, 3))
    for some in (keys[:2], keys):
        _, y, took = run_on_host(optimizer, keys[0, 0], problem_of(cell.family), partial(value_of, cell.family), some)
    return took / sum(map(len, y))


def on_host(optimizer: HostOptimizer, trials: int) -> Callable[[Fixed, np.ndarray], Arrays]:
    """`(family, seeds [n]) -> arrays of n runs`, one after the other."""
    problem_of = jax.jit(lambda family: family.task(family.params).with_horizon(trials).problem)
    value_of = jax.jit(lambda family, key, x: family.task(family.params).evaluate(key, x).value)

    @jax.jit
    def keys_of(seed):  # of the start, and of each ask, evaluation and tell
        _, init_key, run_key = study_keys(seed)
        return init_key, jax.random.split(run_key, (trials, 3))

    def run(family: Fixed, seeds: np.ndarray) -> Arrays:
        problem, points, values = problem_of(family), [], []
        for seed in seeds:
            init_key, keys = keys_of(seed)
            x, y, _ = run_on_host(optimizer, init_key, problem, partial(value_of, family), keys)
            points.append(np.concatenate(x)[:trials])
            values.append(np.concatenate(y)[:trials])
        y = np.stack(values)
        return {"x": np.stack(points), "y": np.where(np.isfinite(y), y, np.nan)}

    return run
