"""Time to a result: steps and seconds to a target loss, and performance profiles over workloads.

Scored as AlgoPerf does (Dahl et al. 2023, section 4; the profiles are those of Dolan and More 2002). A column is a
dictionary with its "name" and its "cells", one for each workload, that have "steps" and "seconds", None for never.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.study.losses import TAIL

Columns = Sequence[dict[str, Any]]
LARGEST = 4.0  # the profile's largest ratio of times, as in AlgoPerf
MEASURES = ("steps", "seconds")


def steps_to(values: np.ndarray, target: float) -> np.ndarray:
    """The first step of each run [runs, horizon + 1] at which its smoothed loss is at most the target, inf if never.

    Smoothed: the running mean over a twentieth of the horizon.
    """
    width = max(1, (values.shape[1] - 1) // TAIL)
    sums = np.cumsum(np.nan_to_num(values.astype(np.float64), nan=1e9, posinf=1e9), axis=1)
    there = (sums[:, width:] - sums[:, :-width]) / width <= target
    return np.where(there.any(1), there.argmax(1) + width, np.inf)


def ratios(columns: Columns, rivals: Columns, measure: str) -> np.ndarray:
    """Time of each column on each workload over the shortest of the rivals' [column, workload]; inf where it fails.

    The time of a column on a workload is the median over its runs.
    """

    def times(some):
        return np.array([[np.inf if c[measure] is None else c[measure] for c in column["cells"]] for column in some])

    best = times(rivals).min(0)
    # a workload that no rival finishes says nothing about any of them
    return times(columns)[:, np.isfinite(best)] / best[np.isfinite(best)]


def profile(ratio: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The share of workloads on which the time is at most `at` times the shortest: [workload], [k] -> [k]."""
    return (ratio[:, None] <= at).mean(0) if len(ratio) else np.zeros(len(at))


def score(ratio: np.ndarray) -> float:
    """The area under the profile from 1 to LARGEST, as a share of what it could be: 1 is shortest everywhere."""
    return float(np.clip((LARGEST - ratio) / (LARGEST - 1), 0, 1).mean()) if len(ratio) else 0.0


def profile_scores(columns: Columns, rivals: Columns) -> list[dict[str, float]]:
    """The scores of each column by steps and by seconds, against the rivals."""
    found = {measure: ratios(columns, rivals, measure) for measure in MEASURES}
    return [{measure: score(found[measure][i]) for measure in MEASURES} for i in range(len(columns))]
