"""How predictions become distributions over bins, and which of several ways is the best on tasks to tune on."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.study.prediction import scores
from experiments.study.prediction.config import PredictionTuneConfig
from l2o.optformer.prompt import HIGH, LOW, REACH


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


class Chosen(NamedTuple):
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


def chosen(tuning: PredictionTuneConfig, bins: int, model: Predicted, processes: dict[str, Predicted]) -> Chosen:
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
    return Chosen(temperature, tried[0], truncated, temperatures, tried)


def by_task(predicted: Predicted, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "u ..."]:
    """Means over the predictions of each task, in the order of their names."""
    return total(predicted, values) / total(predicted, np.ones_like(values))


def total(predicted: Predicted, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "u ..."]:
    """Sums over them."""
    names, index = np.unique(predicted.task, return_inverse=True)
    found = np.zeros((names.size, *values.shape[1:]))
    np.add.at(found, index, values)
    return found
