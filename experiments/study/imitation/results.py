"""What a study of imitation reports: best values, who the runs are taken for, likelihoods of the teachers' own runs."""

from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.study import statistics
from experiments.study.imitation.behaviour import Judge, features
from experiments.study.imitation.config import Imitation
from experiments.study.imitation.run import ByCell, Found, ModelRuns, Plan
from experiments.study.imitation.teachers import own_log_prob
from experiments.study.optformers import checksums


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json.

    Returns:
      "models": for each its "judge", with what it takes the teachers' own runs for, and for each teacher "best" values
      with paired differences, "curves", what its imitations are "taken_for", "distance" to each teacher, "log_prob" of
      the teacher's runs under each prompt, and "own_log_prob".
    """
    study, (taught, examples, models) = plan.study, found
    scales = _scales_of_instances(
        study, [*taught.values(), *(runs for each in models for runs in each.runs.values())], taught
    )
    return {
        **checksums(plan.models),
        "cells": [cell.name for cell in plan.held_out],
        "models": {each.model.name: _results_of_model(study, scales, taught, examples, each) for each in models},
    }


def _scales_of_instances(
    study: Imitation, every: list[ByCell], taught: dict[str, ByCell]
) -> tuple[np.ndarray, np.ndarray]:
    """For each instance the lowest value of any run, and how far above it the median of `relative_to` is."""
    values = np.stack([_values_of_runs(runs) for runs in every])
    lowest = values.min((0, 2))
    spread = np.median(_values_of_runs(taught[study.relative_to]), 1) - lowest
    # where few points are to be had, the median may be the lowest
    spread = np.where(spread > 0, spread, values.max((0, 2)) - lowest)
    return lowest, np.where(spread > 0, spread, 1.0)


def _values_of_runs(runs: ByCell) -> Float[np.ndarray, "n t"]:
    return np.concatenate([of.y for of in runs.values()]).astype(np.float64)


def best_values(runs: ByCell, scales: tuple[np.ndarray, np.ndarray]) -> Float[np.ndarray, "n t"]:
    """The lowest value so far, where the lowest of all runs is 0 and the median of the reference 1."""
    lowest, spread = scales
    return (np.minimum.accumulate(_values_of_runs(runs), 1) - lowest[:, None]) / spread[:, None]


def _results_of_model(
    study: Imitation, scales: tuple[np.ndarray, np.ndarray], taught: dict[str, ByCell], examples: dict[str, ByCell],
    found: ModelRuns,
) -> dict[str, Any]:  # fmt: skip
    def behaviour(runs: dict[str, ByCell]) -> dict[str, Float[np.ndarray, "n f"]]:
        return {
            name: np.concatenate([features(some, found.model.config.bins) for some in of.values()])
            for name, of in runs.items()
        }

    judge = Judge(behaviour(examples), study.seed)
    own, imitated = behaviour(taught), behaviour(found.runs)
    guesses = {name: judge.taken_for(of) for name, of in own.items()}
    rows = {}
    for teacher in study.teachers:
        name = teacher.name
        ours, theirs = (best_values(runs[name], scales) for runs in (found.runs, taught))
        log_probs = np.concatenate(list(found.log_probs[name].values())).mean(2)  # of a trial [run, prompt]
        known = [own_log_prob(teacher.optimizer, runs, found.model.config.bins) for runs in taught[name].values()]
        known = [log_prob for log_prob in known if log_prob is not None]
        taken = judge.taken_for(imitated[name])
        rows[name] = {
            "best": {
                str(step): _compared_values(study, ours[:, step - 1], theirs[:, step - 1]) for step in study.steps
            },
            "curves": {"model": _mean_and_quartiles(ours), "teacher": _mean_and_quartiles(theirs)},
            "taken_for": _shares_of_guesses(study, taken),
            "recognised": _rate_of_guesses(taken, name),
            "distance": {other: judge.distance(imitated[name], of) for other, of in own.items()},
            "distance_between_teachers": {o: judge.distance(own[name], of) for o, of in own.items() if o != name},
            "log_prob": dict(zip(study.algorithms, log_probs.mean(0).tolist(), strict=True)),
            "log_prob_interval": list(statistics.interval(log_probs[:, study.algorithms.index(name)])),
            "own_log_prob": float(np.concatenate(known).mean()) if known else None,
        }
    right = [_rate_of_guesses(guesses[name], name)[0] for name in study.algorithms]
    return {
        "teachers": rows,
        "judge": {
            "accuracy": float(np.mean(right)),
            "taken_for": {name: _shares_of_guesses(study, guesses[name]) for name in study.algorithms},
        },
        "recognised": float(np.mean([row["recognised"][0] for row in rows.values()])),
    }


def _compared_values(
    study: Imitation, ours: Float[np.ndarray, "n"], theirs: Float[np.ndarray, "n"]
) -> dict[str, list[float]]:
    difference = statistics.bootstrap(lambda a, b: a - b, [ours, theirs], seed=study.seed)
    return {
        "model": [float(ours.mean()), float(ours.std(ddof=1))],
        "teacher": [float(theirs.mean()), float(theirs.std(ddof=1))],
        "difference": list(difference),
    }


def _mean_and_quartiles(values: Float[np.ndarray, "n t"]) -> dict[str, list[float]]:
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return {"mean": values.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}


def _shares_of_guesses(study: Imitation, guesses: list[str]) -> dict[str, float]:
    return {name: guesses.count(name) / len(guesses) for name in study.algorithms}


def _rate_of_guesses(guesses: list[str], name: str) -> list[float]:
    """Share of the guesses that name it, with Wilson's 95 % interval."""
    from scipy import stats

    right = guesses.count(name)
    interval = stats.binomtest(right, len(guesses)).proportion_ci(statistics.CONFIDENCE, method="wilson")
    return [right / len(guesses), float(interval.low), float(interval.high)]
