"""A study of losses: tuned baselines and learned optimizers on the same held-out tasks, starts and minibatches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.study.columns import Column, columns
from experiments.study.curves.config import Curves
from experiments.study.pieces import Arrays, Pieces, apart, together
from experiments.study.rates import name_of_rate, rates_of
from l2o.errors import UserError
from meta.evaluate import evaluate
from tasks.family import TaskFamily


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      columns: the optimizers.
      train: what learning rates are tuned on.
      test: what is reported.
    """

    study: Curves
    columns: list[Column]
    train: TaskFamily
    test: TaskFamily

    @property
    def opening(self) -> str:
        """How much it is."""
        return f"{self.study.runs} runs of {self.study.horizon} steps for each of {len(self.columns)} optimizers"

    @property
    def pieces(self) -> int:
        """One for the runs of a column, and one for tuning it."""
        return len(self.columns) + sum(column.tuned for column in self.columns)


class Found(NamedTuple):
    """What a column did.

    Attributes:
      rates: its learning rate for each measure; None where it has none.
      runs: for each measure what `meta.evaluate.evaluate` returns, "value" [runs, horizon + 1] and others [runs].
    """

    rates: dict[str, Any]
    runs: dict[str, Arrays]


def plan(study: Curves) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist, or data are missing.
    """
    return Plan(study, columns(study), study.task.build("train"), study.task.build("test"))


def measures(study: Curves) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is reported of the values [runs, horizon + 1]: the loss at each step, and the mean after 1 to s updates."""
    steps = {f"step {s}": (lambda v, s=s: v[:, s]) for s in study.steps}
    means = {f"mean to {s}": (lambda v, s=s: v[:, 1 : s + 1].mean(1)) for s in study.steps}
    return {**steps, **means}


def judged_by(study: Curves) -> tuple[dict[str, str], dict[str, Callable[[np.ndarray], np.ndarray]]]:
    """For each reported measure the name of that which its rate is chosen by, and by their names how those are read."""
    reported, measure = measures(study), study.tune.measure
    if measure == "each":
        return {name: name for name in reported}, reported
    if measure == "mean":
        return dict.fromkeys(reported, "mean"), {"mean": lambda value: value[:, 1:].mean(1)}
    return dict.fromkeys(reported, "step"), {"step": lambda value: value[:, int(measure)]}


def tune(study: Curves, column: Column, family: TaskFamily, pieces: Pieces) -> dict[str, float]:
    """The best learning rate on a family for each reported measure.

    Raises:
      UserError: no rate of the grid gives a finite loss.
    """
    rates, (chosen_by, judges) = rates_of(study.tune), judged_by(study)
    key = jax.random.fold_in(jax.random.key(study.seed), 1)

    def scores() -> dict[str, Any]:
        each = [
            _values_of_runs(study, column.make, float(r), family, key, study.tune.runs, measure=False)["value"]
            for r in rates
        ]
        return {name: np.array([np.mean(judge(value)) for value in each]) for name, judge in judges.items()}

    found, best = pieces(f"cells/{column.file}-tune", f"tried rates of {column.name}", scores), {}
    for name, by in chosen_by.items():
        index = int(np.argmin(np.where(np.isfinite(found[by]), found[by], np.inf)))
        if not np.isfinite(found[by][index]):
            raise UserError(
                f"{column.name}: no learning rate from {rates[0]:.3g} to {rates[-1]:.3g} gives a finite loss"
            )
        best[name] = float(rates[index])
    edge = " (at the edge of the grid: widen it)" if at_the_edge(study, best) else ""
    said = sorted(set(best.values()))
    if len(said) == 1:
        pieces.say(f"tuned {column.name}: learning rate {said[0]:.3g}{edge}")
    else:
        pieces.say(f"tuned {column.name}: " + ", ".join(f"{rate:.3g} for {name}" for name, rate in best.items()) + edge)
    return best


def at_the_edge(study: Curves, chosen: dict[str, float]) -> bool:
    """Whether a chosen rate is the first or the last of those that were tried."""
    rates = rates_of(study.tune)
    return bool({rates[0], rates[-1]} & set(chosen.values()))


def _values_of_runs(
    study: Curves, make: Any, argument: Any, family: Any, key: Any, runs: int, measure: bool = True
) -> dict[str, np.ndarray]:
    out = evaluate(
        make, argument, family, jax.random.clone(key),
        tasks=runs, horizon=study.horizon, batch=study.batch, measure=measure,
    )  # fmt: skip
    return {name: np.asarray(value, np.float64) for name, value in out.items()}


def run(plan: Plan, pieces: Pieces) -> dict[str, Found]:
    """What every column did, by its name."""
    study, names, found = plan.study, list(measures(plan.study)), {}
    key = jax.random.fold_in(jax.random.key(study.seed), 0)
    for column in plan.columns:
        rates: dict[str, Any]
        if column.tuned:
            rates = tune(study, column, plan.train, pieces)
            arguments = {name_of_rate(rate): rate for rate in sorted(set(rates.values()))}
            by_measure = {name: name_of_rate(rate) for name, rate in rates.items()}
        else:
            rates = dict.fromkeys(names, None if column.learned else column.argument)
            arguments = {name_of_rate(column.argument): column.argument}
            by_measure = dict.fromkeys(names, name_of_rate(column.argument))

        def each(column=column, arguments=arguments) -> dict[str, Any]:
            return together(
                {
                    name: _values_of_runs(study, column.make, argument, plan.test, key, study.runs)
                    for name, argument in arguments.items()
                }
            )

        path = "-".join(filter(None, [f"cells/{column.file}", *arguments]))
        runs = apart(pieces(path, f"ran {column.name}", each))
        found[column.name] = Found(rates, {name: runs[which] for name, which in by_measure.items()})
        means = {
            name: measure(found[column.name].runs[name]["value"]).mean() for name, measure in measures(study).items()
        }
        pieces.say(f"ran {column.name}: " + ", ".join(f"{mean:.4g} at {name}" for name, mean in means.items()))
    return found
