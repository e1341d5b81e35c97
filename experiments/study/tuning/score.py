"""Normalised best values of a study of tuning, and the score that settings are chosen by."""

import numpy as np
from jaxtyping import Float

from experiments.study.tuning.config import Tuning
from experiments.study.tuning.tasks import TuningCell


def normalised(values: Float[np.ndarray, "n t"], least: float, median: float) -> Float[np.ndarray, "n t"]:
    """Best values so far, 0 for the least one that there is and 1 for the median or anything worse.

    Failed evaluations count as infinite. Where the median is the least value, all others are 1.
    """
    found = np.where(np.isfinite(values), values, np.inf).astype(np.float64)
    apart = np.minimum.accumulate(found, axis=1) - least
    if median > least:
        return np.clip(apart / (median - least), 0.0, 1.0)
    return np.where(apart > 0, 1.0, 0.0)


def by_run(cells: list[TuningCell], values: list[np.ndarray]) -> Float[np.ndarray, "n m t"]:
    """`normalised` values of the runs on each task."""
    return np.stack([normalised(y, cell.least, cell.median) for cell, y in zip(cells, values, strict=True)])


def score(study: Tuning, cells: list[TuningCell], values: list[np.ndarray]) -> float:
    """What settings are chosen by, lower being better: the mean over tasks and the reported steps."""
    steps = np.array(study.steps) - 1
    return float(by_run(cells, values)[..., steps].mean())
