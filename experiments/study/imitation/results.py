"""What a study of imitation reports: best values, who the runs are taken for, likelihoods of the teachers' own runs."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.study import statistics
from experiments.study.imitation.behaviour import Judge, Runs, features
from experiments.study.imitation.config import Imitation
from experiments.study.imitation.teachers import own_log_prob

ByCell = dict[str, Runs]


class Prompted(NamedTuple):
    """What an OptFormer did.

    Attributes:
      name: its label in the report.
      sha256: checksum of its theta.
      bins: of the unit interval.
      runs: by the teacher's name in the prompt, and by cell.
      log_probs: of the points of the teachers' own runs, by teacher and cell [n, prompts, trials].
    """

    name: str
    sha256: str
    bins: int
    runs: dict[str, ByCell]
    log_probs: dict[str, dict[str, Float[np.ndarray, "n prompts t"]]]


def summary(
    study: Imitation, taught: dict[str, ByCell], examples: dict[str, ByCell], models: list[Prompted]
) -> dict[str, Any]:
    """results.json.

    Args:
      study: what was asked.
      taught: runs of the teachers on the tasks of the study, by name and cell.
      examples: their runs for the classifier.
      models: what the models did on the tasks of the study.

    Returns:
      "models": for each its "judge", with what it takes the teachers' own runs for, and for each teacher "best" values
      with paired differences, "curves", what its imitations are "taken_for", "distance" to each teacher, "log_prob" of
      the teacher's runs under each prompt, and "own_log_prob".
    """
    scales = _scales(study, [*taught.values(), *(runs for model in models for runs in model.runs.values())], taught)
    return {
        "study": study.model_dump(mode="json"),
        "learned": [model.name for model in models],
        "sha256": {model.name: model.sha256 for model in models},
        "cells": list(next(iter(taught.values()))),
        "models": {model.name: _model(study, scales, taught, examples, model) for model in models},
    }


def _scales(study: Imitation, every: list[ByCell], taught: dict[str, ByCell]) -> tuple[np.ndarray, np.ndarray]:
    """For each instance the lowest value of any run, and how far above it the median of `relative_to` is."""
    values = np.stack([_values(runs) for runs in every])
    lowest = values.min((0, 2))
    spread = np.median(_values(taught[study.relative_to]), 1) - lowest
    # where few points are to be had, the median may be the lowest
    spread = np.where(spread > 0, spread, values.max((0, 2)) - lowest)
    return lowest, np.where(spread > 0, spread, 1.0)


def _values(runs: ByCell) -> Float[np.ndarray, "n t"]:
    return np.concatenate([of.y for of in runs.values()]).astype(np.float64)


def best_values(runs: ByCell, scales: tuple[np.ndarray, np.ndarray]) -> Float[np.ndarray, "n t"]:
    """The lowest value so far, where the lowest of all runs is 0 and the median of the reference 1."""
    lowest, spread = scales
    return (np.minimum.accumulate(_values(runs), 1) - lowest[:, None]) / spread[:, None]


def _model(
    study: Imitation, scales: tuple[np.ndarray, np.ndarray], taught: dict[str, ByCell], examples: dict[str, ByCell],
    model: Prompted,
) -> dict[str, Any]:  # fmt: skip
    def behaviour(runs: dict[str, ByCell]) -> dict[str, Float[np.ndarray, "n f"]]:
        return {name: np.concatenate([features(some, model.bins) for some in of.values()]) for name, of in runs.items()}

    judge = Judge(behaviour(examples), study.seed)
    own, imitated = behaviour(taught), behaviour(model.runs)
    guesses = {name: judge.taken_for(found) for name, found in own.items()}
    rows = {}
    for teacher in study.teachers:
        name = teacher.name
        ours, theirs = (best_values(runs[name], scales) for runs in (model.runs, taught))
        log_probs = np.concatenate(list(model.log_probs[name].values())).mean(2)  # of a trial [run, prompt]
        known = [own_log_prob(teacher.optimizer, runs, model.bins) for runs in taught[name].values()]
        known = [log_prob for log_prob in known if log_prob is not None]
        taken = judge.taken_for(imitated[name])
        rows[name] = {
            "best": {str(step): _compared(study, ours[:, step - 1], theirs[:, step - 1]) for step in study.steps},
            "curves": {"model": _quartiles(ours), "teacher": _quartiles(theirs)},
            "taken_for": _shares(study, taken),
            "recognised": _rate(taken, name),
            "distance": {other: judge.distance(imitated[name], found) for other, found in own.items()},
            "distance_between_teachers": {o: judge.distance(own[name], found) for o, found in own.items() if o != name},
            "log_prob": dict(zip(study.algorithms, log_probs.mean(0).tolist(), strict=True)),
            "log_prob_interval": list(statistics.interval(log_probs[:, study.algorithms.index(name)])),
            "own_log_prob": float(np.concatenate(known).mean()) if known else None,
        }
    right = [_rate(guesses[name], name)[0] for name in study.algorithms]
    return {
        "teachers": rows,
        "judge": {
            "accuracy": float(np.mean(right)),
            "taken_for": {name: _shares(study, guesses[name]) for name in study.algorithms},
        },
        "recognised": float(np.mean([row["recognised"][0] for row in rows.values()])),
    }


def _compared(study: Imitation, ours: Float[np.ndarray, "n"], theirs: Float[np.ndarray, "n"]) -> dict[str, list[float]]:
    difference = statistics.bootstrap(lambda a, b: a - b, [ours, theirs], seed=study.seed)
    return {
        "model": [float(ours.mean()), float(ours.std(ddof=1))],
        "teacher": [float(theirs.mean()), float(theirs.std(ddof=1))],
        "difference": list(difference),
    }


def _quartiles(values: Float[np.ndarray, "n t"]) -> dict[str, list[float]]:
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return {"mean": values.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}


def _shares(study: Imitation, guesses: list[str]) -> dict[str, float]:
    return {name: guesses.count(name) / len(guesses) for name in study.algorithms}


def _rate(guesses: list[str], name: str) -> list[float]:
    """Share of the guesses that name it, with Wilson's 95 % interval."""
    from scipy import stats

    right = guesses.count(name)
    interval = stats.binomtest(right, len(guesses)).proportion_ci(statistics.CONFIDENCE, method="wilson")
    return [right / len(guesses), float(interval.low), float(interval.high)]
