"""What a study of prediction reports: what is tuned, and scores of the model and of the process, with intervals."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.study import statistics
from experiments.study.prediction import scores as scores
from experiments.study.prediction.config import Prediction, Tuning
from l2o.optformer.prompt import HIGH, LOW, REACH

PARTS = 20  # of the unit interval, in histograms of the transforms


class Predicted(NamedTuple):
    """Predictions, one in each row.

    Attributes:
      values: logits of the bins, or mean and deviation of a normal distribution.
      truth: the scaled value; may lie beyond the unit interval.
      task: that it belongs to.
      teacher: whose run it is.
      step: which trial, counted from 1.
      curved: log(1 + curve span) of the range that the value is scaled by, see `l2o.optformer.prompt.Range`.
    """

    values: Float[np.ndarray, "n v"]
    truth: Float[np.ndarray, "n"]
    task: np.ndarray
    teacher: np.ndarray
    step: np.ndarray
    curved: Float[np.ndarray, "n"]


class Process(NamedTuple):
    """How predictions of a process become distributions over bins.

    Attributes:
      surrogate: label of the fit.
      truncated: to the unit interval, as Chen et al. (2022) do; otherwise its mass beyond that is in the first and last
        bin, where truths beyond it are, too.
      inflation: of its deviation.
      uniform: share of the uniform distribution.
      score: mean log density on the tasks that it is chosen on.
    """

    surrogate: str
    truncated: bool
    inflation: float
    uniform: float
    score: float

    def log_probs(self, normals: Predicted, bins: int) -> Float[np.ndarray, "n b"]:
        """Of the bins, by means and deviations."""
        mean, deviation = normals.values.T
        found = scores.of_normal(mean, self.inflation * deviation, even(bins, normals.curved), self.truncated)
        return scores.with_uniform(found, self.uniform)


def even(bins: int, curved: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n b+1"]:
    """Edges of the bins where shares below the least value fall as fast as they grow above it.

    A process extrapolates there: it does not know that the scale of the shares has a kink at the least value, and no
    value that it has seen is below.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    below = LOW - (HIGH - LOW) * np.log1p(REACH) / curved[:, None] * (1 - edges / LOW)
    return np.where(edges < LOW, below, edges)


class Choice(NamedTuple):
    """What is chosen for a group of tasks, on other tasks.

    Attributes:
      temperature: of the model.
      process: the best one.
      truncated: the best one of those that are.
      temperatures: mean log density by temperature.
      processes: all that were tried, the best one first.
    """

    temperature: float
    process: Process
    truncated: Process
    temperatures: list[tuple[float, float]]
    processes: list[Process]


def chosen(tuning: Tuning, bins: int, model: Predicted, processes: dict[str, Predicted]) -> Choice:
    """The temperature, and the processes, under which the truths are likeliest.

    Args:
      tuning: what there is to choose from.
      bins: of the unit interval.
      model: its logits.
      processes: by the label of the fit.
    """

    def score(log_probs: np.ndarray, of: Predicted) -> float:
        return float(by_task(of, scores.log_density(log_probs, of.truth)).mean())

    temperatures = [(t, score(scores.of_logits(model.values, t), model)) for t in tuning.temperatures]
    tried = []
    for label, of in processes.items():
        for rest in itertools.product((False, True), tuning.inflations, tuning.uniforms):
            process = Process(label, *rest, 0.0)
            tried.append(process._replace(score=score(process.log_probs(of, bins), of)))
    tried.sort(key=lambda process: -process.score)
    temperature, _ = max(temperatures, key=lambda pair: pair[1])
    truncated = next(process for process in tried if process.truncated)
    return Choice(temperature, tried[0], truncated, temperatures, tried)


def by_task(predicted: Predicted, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "u ..."]:
    """Means over the predictions of each task, in the order of their names."""
    return total(predicted, values) / total(predicted, np.ones_like(values))


def total(predicted: Predicted, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "u ..."]:
    """Sums over them."""
    names, index = np.unique(predicted.task, return_inverse=True)
    found = np.zeros((names.size, *values.shape[1:]))
    np.add.at(found, index, values)
    return found


def overview(study: Prediction, sha256: dict[str, str]) -> dict[str, Any]:
    """results.json without results: "groups" is to have, by group and model, what `compared` returns."""
    return {"study": study.model_dump(mode="json"), "learned": list(sha256), "sha256": sha256, "groups": {}}


def compared(
    study: Prediction, choice: Choice, bins: int, known: Predicted, unknown: Predicted,
    normals: dict[str, Predicted], asked: int,
) -> dict[str, Any]:  # fmt: skip
    """Scores on the tasks that are reported.

    Args:
      study: what was asked.
      choice: what was chosen on others.
      bins: of the unit interval.
      known: logits of the model when it is told the algorithm.
      unknown: when it is not.
      normals: of processes, by the label of the fit.
      asked: predictions, those included that do not count.

    Returns:
      How many "tasks" and "predictions" there are, how many are "left_out", the share of truths "beyond" the unit
      interval, what was "tuned", and by column ("model", "unknown", "gp", "truncated") mean log densities with 95 %
      intervals, over all ("log_density", and "difference" to "gp" and "difference_truncated"), "by_step" and
      "by_teacher", calibration errors of all intervals and of the likeliest one ("ece", "ece_likeliest", their
      differences to "gp"), the histogram of "pit", and its "distance" from the uniform distribution.
    """
    log_probs = {
        "model": scores.of_logits(known.values, choice.temperature),
        "unknown": scores.of_logits(unknown.values, choice.temperature),
        "gp": choice.process.log_probs(normals[choice.process.surrogate], bins),
        "truncated": choice.truncated.log_probs(normals[choice.truncated.surrogate], bins),
    }
    truth = known.truth
    densities = {name: scores.log_density(found, truth) for name, found in log_probs.items()}
    columns = {
        name: {
            **_part(study, known, densities, name, np.ones(truth.size, bool)),
            "by_step": {str(t): _part(study, known, densities, name, known.step == t) for t in study.steps},
            "by_teacher": {t: _part(study, known, densities, name, known.teacher == t) for t in study.algorithms},
            **_calibration(study, known, found, log_probs["gp"]),
        }
        for name, found in log_probs.items()
    }
    return {
        "tasks": np.unique(known.task).size,
        "predictions": truth.size,
        "left_out": asked - truth.size,
        "beyond": float(np.mean((truth < 0) | (truth > 1))),
        "bins": bins,
        "tuned": {
            **choice._asdict(),
            "process": choice.process._asdict(),
            "truncated": choice.truncated._asdict(),
            "processes": [process._asdict() for process in choice.processes],
        },
        "columns": columns,
    }


def _part(
    study: Prediction, of: Predicted, densities: dict[str, Float[np.ndarray, "n"]], name: str, which: np.ndarray
) -> dict[str, Any]:
    """Mean log density, and the differences to the processes, of some predictions; None where there are none."""
    if not which.any():
        return {"log_density": None, "difference": None, "difference_truncated": None}
    some = Predicted(*(a[which] for a in of))
    ours, process, truncated = (by_task(some, densities[other][which]) for other in (name, "gp", "truncated"))
    return {
        "log_density": list(statistics.bootstrap(lambda a: a, [ours], study.seed)),
        "difference": list(statistics.bootstrap(lambda a, b: a - b, [ours, process], study.seed)),
        "difference_truncated": list(statistics.bootstrap(lambda a, b: a - b, [ours, truncated], study.seed)),
    }


def _calibration(
    study: Prediction, of: Predicted, log_probs: Float[np.ndarray, "n b"], process: Float[np.ndarray, "n b"]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, likeliest in (("ece", False), ("ece_likeliest", True)):
        pair = []
        for some in (log_probs, process):
            each = scores.calibration(some, of.truth, likeliest)
            pair.append(scores.Calibration(*(total(of, values) for values in each)))
        (ours, _), difference = scores.errors(pair, study.seed)
        found |= {name: ours, f"{name}_difference": difference}
    pits = scores.pit(log_probs, of.truth, study.seed)
    histogram = np.histogram(pits, PARTS, (0.0, 1.0))[0] / pits.size
    return {**found, "pit": histogram.tolist(), "distance": scores.distance(pits)}
