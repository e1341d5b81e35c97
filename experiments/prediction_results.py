"""What a study of prediction reports: what is tuned, and scores of the model and of the process, with intervals."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import prediction_scores as scores
from experiments import statistics
from experiments.prediction_config import Prediction, Tuning

PARTS = 20  # of the unit interval, in histograms of the transforms


class Predicted(NamedTuple):
    """Predictions, one in each row.

    Attributes:
      values: logits of the bins, or mean and deviation of a normal distribution.
      truth: the scaled value; may lie beyond the unit interval.
      task: that it belongs to.
      teacher: whose run it is.
      step: which trial, counted from 1.
    """

    values: Float[np.ndarray, "n v"]
    truth: Float[np.ndarray, "n"]
    task: np.ndarray
    teacher: np.ndarray
    step: np.ndarray


class Choice(NamedTuple):
    """What is chosen for a group of tasks, on other tasks.

    Attributes:
      temperature: of the model.
      surrogate: label of the process's fit.
      inflation: of its deviation.
      uniform: share of the uniform distribution in what it predicts.
      temperatures: mean log density by temperature.
      surrogates: of each combination of the last three, the best one first.
    """

    temperature: float
    surrogate: str
    inflation: float
    uniform: float
    temperatures: list[tuple[float, float]]
    surrogates: list[tuple[str, float, float, float]]


def chosen(tuning: Tuning, bins: int, model: Predicted, processes: dict[str, Predicted]) -> Choice:
    """The temperature, and the fit, inflation and share, under which the truths are likeliest.

    Args:
      tuning: what there is to choose from.
      bins: of the unit interval.
      model: its logits.
      processes: by the label of the fit.
    """

    def score(log_probs: np.ndarray, of: Predicted) -> float:
        return float(by_task(of, scores.log_density(log_probs, of.truth)).mean())

    temperatures = [(t, score(scores.of_logits(model.values, t), model)) for t in tuning.temperatures]
    fits = []
    for label, of in processes.items():
        mean, deviation = of.values.T
        for inflation in tuning.inflations:
            normal = scores.of_normal(mean, inflation * deviation, bins)
            fits += [(label, inflation, u, score(scores.with_uniform(normal, u), of)) for u in tuning.uniforms]
    fits.sort(key=lambda fit: -fit[-1])
    surrogate, inflation, uniform, _ = fits[0]
    temperature, _ = max(temperatures, key=lambda pair: pair[1])
    return Choice(temperature, surrogate, inflation, uniform, temperatures, fits)


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
    study: Prediction, choice: Choice, bins: int, known: Predicted, unknown: Predicted, process: Predicted, asked: int
) -> dict[str, Any]:
    """Scores on the tasks that are reported.

    Args:
      study: what was asked.
      choice: what was chosen on others.
      bins: of the unit interval.
      known: logits of the model when it is told the algorithm.
      unknown: when it is not.
      process: normal distributions.
      asked: predictions, those included that do not count.

    Returns:
      How many "tasks" and "predictions" there are, how many are "left_out", the share of truths "beyond" the unit
      interval, what was "tuned", and by column ("model", "unknown", "gp") mean log densities with 95 % intervals, over
      all ("log_density", and "difference" to "gp"), "by_step" and "by_teacher", calibration errors of all intervals and
      of the likeliest one ("ece", "ece_likeliest", their "ece_difference"s), the histogram of "pit", and its "distance"
      from the uniform distribution.
    """
    mean, deviation = process.values.T
    normal = scores.of_normal(mean, choice.inflation * deviation, bins)
    log_probs = {
        "model": scores.of_logits(known.values, choice.temperature),
        "unknown": scores.of_logits(unknown.values, choice.temperature),
        "gp": scores.with_uniform(normal, choice.uniform),
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
        "tuned": choice._asdict(),
        "columns": columns,
    }


def _part(
    study: Prediction, of: Predicted, densities: dict[str, Float[np.ndarray, "n"]], name: str, which: np.ndarray
) -> dict[str, Any]:
    """Mean log density, and the difference to the process, of some predictions; None where there are none."""
    if not which.any():
        return {"log_density": None, "difference": None}
    some = Predicted(*(a[which] for a in of))
    ours, theirs = (by_task(some, densities[other][which]) for other in (name, "gp"))
    return {
        "log_density": list(statistics.bootstrap(lambda a: a, [ours], study.seed)),
        "difference": list(statistics.bootstrap(lambda a, b: a - b, [ours, theirs], study.seed)),
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
