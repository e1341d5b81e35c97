"""A study: tuned baselines and learned optimizers on the same held-out tasks, starts and minibatches."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import ValidationError

import l2o
from experiments import page as report
from experiments.document import explain
from experiments.progress import Say
from experiments.run import claim
from experiments.study import statistics
from experiments.study.base import Comparison, Population, RatesConfig, Study
from l2o.baselines.evosax import EvosaxConfig
from l2o.core import BaselineConfig
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.registry import kinds
from meta.evaluate import evaluate


class Column(NamedTuple):
    """One optimizer of a study.

    Attributes:
      name: its label in the report.
      make: `make(argument) -> Optimizer`.
      argument: theta or a learning rate; None where the rate is tuned.
      tuned: whether the study tunes it.
      learned: whether it was meta-trained.
      sha256: checksum of a learned optimizer's theta.
      gradients: whether it reads gradients.
      identity: a short name of a learned optimizer's architecture and theta, for files.
    """

    name: str
    make: Callable[..., l2o.Optimizer | l2o.HostOptimizer]
    argument: Any
    tuned: bool
    learned: bool
    sha256: str = ""
    gradients: bool = True
    identity: str = ""


def columns(study: Comparison) -> list[Column]:
    """The optimizers of a study, learned ones first.

    Raises:
      UserError: an optimizer that does not exist.
    """
    found = []
    groups = {} if isinstance(study, Study | Population) else study.groups
    size = study.population_size if isinstance(study, Population) else None
    members = [member for group in groups.values() for member in group]
    for name in [*study.optimizers, *(m for m in dict.fromkeys(members) if m not in study.optimizers)]:
        if name in kinds(BaselineConfig):
            found.append(_baseline(_sized(kinds(BaselineConfig)[name](), size, name)))
            continue
        loaded = l2o.load(name, also=list(kinds(BaselineConfig)))
        column = _learned(replace(loaded, config=_sized(loaded.config, size, name)), label(name))
        found.append(column._replace(name=name) if column.name in [c.name for c in found] else column)
    asked = [column.name for column in found]
    baselines = study.baselines
    named = baselines.items() if isinstance(baselines, dict) else [(b.label, b) for b in baselines]
    found += [_baseline(_sized(b, size, name))._replace(name=name) for name, b in named if name not in asked]
    if not found:
        raise UserError("the study has no optimizers, expected some in optimizers or baselines, or --optimizer")
    labels = [column.name for column in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"the study has two optimizers named {twice[0]!r}, expected different names")
    return found


def _sized(config: Any, population_size: int | None, name: str) -> Any:
    """The config with so many members in a population, if that is given and it has any.

    Raises:
      UserError: it does not take so many.
    """
    if population_size is None or "population_size" not in type(config).model_fields:
        return config
    fields = {field: getattr(config, field) for field in type(config).model_fields}
    fields["population_size"] = population_size
    try:
        return type(config).model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, type(config), fields)}") from None


def label(name: str) -> str:
    """What a learned optimizer is called in tables: its shipped name, or the last part of its directory."""
    return name if name in l2o.names() else Path(name).resolve().name


def _learned(loaded: l2o.Loaded, name: str) -> Column:
    whole = loaded.sha256 + json.dumps(loaded.config.model_dump(mode="json"), sort_keys=True)
    return Column(
        name, loaded.learned.bind, loaded.theta, tuned=False, learned=True, sha256=loaded.sha256,
        gradients=loaded.learned.native is not None, identity=hashlib.sha256(whole.encode()).hexdigest()[:12],
    )  # fmt: skip


def _baseline(baseline: Any) -> Column:
    if "learning_rate" not in type(baseline).model_fields:
        return Column(baseline.label, lambda _: baseline.build(), None, tuned=False, learned=False, gradients=False)
    rate = baseline.learning_rate
    reads = not isinstance(baseline, EvosaxConfig)
    return Column(baseline.label, baseline.build, rate, tuned=rate is None, learned=False, gradients=reads)


def measures(study: Study) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is reported of the values [runs, horizon + 1]: the loss at each step, and the mean after 1 to s updates."""
    steps = {f"step {s}": (lambda v, s=s: v[:, s]) for s in study.steps}
    means = {f"mean to {s}": (lambda v, s=s: v[:, 1 : s + 1].mean(1)) for s in study.steps}
    return {**steps, **means}


def rates_of(tune: RatesConfig) -> np.ndarray:
    """The learning rates that are tried: powers of ten, `per_decade` of them to a decade."""
    first, last = (round(math.log10(end) * tune.per_decade) for end in (tune.low, tune.high))
    return 10.0 ** (np.arange(first, last + 1) / tune.per_decade)


def tune(study: Study, column: Column, family: Any, say: Say) -> dict[str, float]:
    """The best learning rate on the training family for each reported measure.

    Raises:
      UserError: no rate of the grid gives a finite loss.
    """
    rates, reported = rates_of(study.tune), measures(study)
    chosen_by = dict.fromkeys(reported, "")
    candidates = dict(reported)
    if study.tune.measure == "each":
        chosen_by = {name: name for name in reported}
    elif study.tune.measure == "mean":
        chosen_by = dict.fromkeys(reported, "mean")
        candidates["mean"] = lambda value: value[:, 1:].mean(1)
    else:
        chosen_by = dict.fromkeys(reported, "step")
        candidates["step"] = lambda value: value[:, int(study.tune.measure)]
    key = jax.random.fold_in(jax.random.key(study.seed), 1)
    scores: dict[str, list[float]] = {name: [] for name in candidates}
    for rate in rates:
        value = _values(study, column.make, float(rate), family, key, study.tune.runs, measure=False)["value"]
        for name, measure in candidates.items():
            scores[name].append(float(np.mean(measure(value))))
    best = {}
    for name, by in chosen_by.items():
        index = int(np.argmin(np.where(np.isfinite(scores[by]), scores[by], np.inf)))
        if not np.isfinite(scores[by][index]):
            raise UserError(
                f"{column.name}: no learning rate from {rates[0]:.3g} to {rates[-1]:.3g} gives a finite loss"
            )
        best[name] = float(rates[index])
    edge = " (at the edge of the grid: widen it)" if {rates[0], rates[-1]} & set(best.values()) else ""
    rates_said = sorted(set(best.values()))
    if len(rates_said) == 1:
        say(f"tuned {column.name}: learning rate {rates_said[0]:.3g}{edge}")
    else:
        say(f"tuned {column.name}: " + ", ".join(f"{rate:.3g} for {name}" for name, rate in best.items()) + edge)
    return best


def _values(
    study: Study, make: Any, argument: Any, family: Any, key: Any, runs: int, measure: bool = True
) -> dict[str, np.ndarray]:
    out = evaluate(
        make, argument, family, jax.random.clone(key),
        tasks=runs, horizon=study.horizon, batch=study.batch, measure=measure,
    )  # fmt: skip
    return {name: np.asarray(value, np.float64) for name, value in out.items()}


def run(study: Study, out: Path, say: Say = print) -> dict[str, Any]:
    """Run a study into an empty directory: results.json, curves.png, report.html, config.toml.

    Returns:
      The contents of results.json: "chosen" learning rates, one of "rows" per optimizer and seed, "curves" of mean
      loss with 95 % intervals, and paired "comparisons" of each learned optimizer with every other one.
    """
    found, start = columns(study), time.perf_counter()
    train, test = study.task.build("train"), study.task.build("test")
    claim(out)
    write_whole(out / "config.toml", study.toml())
    say(f"{study.runs} runs of {study.horizon} steps for each of {len(found)} optimizers")
    key = jax.random.fold_in(jax.random.key(study.seed), 0)
    names = list(measures(study))
    chosen: dict[str, Any] = {}
    at_the_edge = []
    rows, curves = [], {}
    for column in found:
        rates = tune(study, column, train, say) if column.tuned else dict.fromkeys(names, column.argument)
        if column.tuned and {rates_of(study.tune)[0], rates_of(study.tune)[-1]} & set(rates.values()):
            at_the_edge.append(column.name)
        if column.tuned or (not column.learned and column.argument is not None):
            chosen[column.name] = rates
        if column.tuned:
            runs = {rate: _values(study, column.make, rate, test, key, study.runs) for rate in set(rates.values())}
            by_measure = {name: runs[rate] for name, rate in rates.items()}
        else:
            by_measure = dict.fromkeys(names, _values(study, column.make, column.argument, test, key, study.runs))
        scored = {name: measure(by_measure[name]["value"]) for name, measure in measures(study).items()}
        last = by_measure[f"step {study.steps[-1]}"]
        curves[column.name] = statistics.curve(last["value"])
        for seed in range(study.runs):
            row = {"optimizer": column.name, "task": study.task.kind, "seed": seed}
            row |= {name: _json(value[seed]) for name, value in scored.items()}
            row |= {name: _json(value[seed]) for name, value in last.items() if name != "value"}
            rows.append(row | {"diverged": bool(not np.isfinite(last["value"][seed]).all())})
        say(f"ran {column.name}: " + ", ".join(f"{value.mean():.4g} at {name}" for name, value in scored.items()))
    results = {
        "study": study.model_dump(mode="json"),
        "learned": [column.name for column in found if column.learned],
        "sha256": {column.name: column.sha256 for column in found if column.learned},
        "at_the_edge": at_the_edge,
        "chosen": chosen,
        "measures": names,
        "rows": rows,
        "curves": curves,
        "comparisons": compare(rows, [c.name for c in found], [c.name for c in found if c.learned], names),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report.study(out, results)
    return results


def compare(
    rows: list[dict[str, Any]], names: list[str], learned: list[str], reported: list[str]
) -> list[dict[str, Any]]:
    """Paired comparisons, run by run, of each learned optimizer with every other one."""
    by_name = {name: [row for row in rows if row["optimizer"] == name] for name in names}
    found = []
    for ours in learned:
        for other in names:
            for measure in reported if other != ours else []:
                a, b = ([row[measure] for row in by_name[name]] for name in (ours, other))
                found.append({"optimizer": ours, "against": other, "measure": measure, **statistics.paired(a, b)})
    return found


def _json(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
