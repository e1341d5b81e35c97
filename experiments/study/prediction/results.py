"""What a study of prediction reports: what is tuned, and scores of the model and of the process, with intervals."""

from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.study import statistics
from experiments.study.optformers import checksums
from experiments.study.prediction import scores
from experiments.study.prediction.choice import Predicted, by_task, total
from experiments.study.prediction.config import PredictionStudy
from experiments.study.prediction.run import Found, Plan, Reading

PARTS = 20  # of the unit interval, in histograms of the transforms


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json: "groups" has, by group and model, what `compared` returns."""
    return {
        **checksums(plan.models),
        "groups": {
            group: {reading.model.name: compared(plan.study, reading) for reading in readings}
            for group, readings in found.items()
        },
    }


def compared(study: PredictionStudy, reading: Reading) -> dict[str, Any]:
    """Scores on the tasks that are reported.

    Returns:
      How many "tasks" and "predictions" there are, how many are "left_out", the share of truths "beyond" the unit
      interval, what was "tuned", and by column ("model", "unknown", "gp", "truncated") mean log densities with 95 %
      intervals, over all ("log_density", and "difference" to "gp" and "difference_truncated"), "by_step" and
      "by_teacher", calibration errors of all intervals and of the likeliest one ("ece", "ece_likeliest", their
      differences to "gp"), the histogram of "pit", and its "distance" from the uniform distribution.
    """
    model, choice, known, unknown, normals, asked = reading
    bins = model.config.bins
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
            **_densities_of_part(study, known, densities, name, np.ones(truth.size, bool)),
            "by_step": {
                str(t): _densities_of_part(study, known, densities, name, known.step == t) for t in study.steps
            },
            "by_teacher": {
                t: _densities_of_part(study, known, densities, name, known.teacher == t) for t in study.algorithms
            },
            **_calibration_of_column(study, known, found, log_probs["gp"]),
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


def _densities_of_part(
    study: PredictionStudy, of: Predicted, densities: dict[str, Float[np.ndarray, "n"]], name: str, which: np.ndarray
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


def _calibration_of_column(
    study: PredictionStudy, of: Predicted, log_probs: Float[np.ndarray, "n b"], process: Float[np.ndarray, "n b"]
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
