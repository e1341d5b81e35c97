"""What a study of surrogates found, as JSON."""

from typing import Any

import numpy as np

from experiments.study.pieces import Arrays
from experiments.study.statistics import bootstrap
from experiments.study.surrogates.run import Plan

LEVELS = (0.5, 0.8, 0.95)  # of central intervals whose coverage is reported
Interval = tuple[float, float, float]


def summary(plan: Plan, found: dict[str, dict[str, Arrays]]) -> dict[str, Any]:
    """The contents of results.json."""
    study, learned = plan.study, [f for f in plan.forecasters if f.sha256]
    first = next((f.name for f in plan.forecasters if not f.sha256), plan.forecasters[0].name)
    rows = {
        name: {column: _row(scores, of_prior[first], study.seed) for column, scores in of_prior.items()}
        for name, of_prior in found.items()
    }
    return {
        "learned": [f.name for f in learned],
        "sha256": {f.name: f.sha256 for f in learned},
        "columns": [f.name for f in plan.forecasters],
        "first": first,
        "rows": rows,
    }


def _row(scores: Arrays, others: Arrays, seed: int) -> dict[str, Any]:
    """Of one column on one prior: by number of points told, means with intervals over functions."""
    density, other = (_means(of["density"]) for of in (scores, others))
    row: dict[str, Any] = {
        "density": [_interval(density[:, i], seed) for i in range(density.shape[1])],
        "difference": [_interval((density - other)[:, i], seed) for i in range(density.shape[1])],
        "error": [calibration_error(scores["pit"][:, i]) for i in range(density.shape[1])],
        "coverage": [[_coverage(scores["pit"][:, i], level) for level in LEVELS] for i in range(density.shape[1])],
    }
    if "divergence" in scores:
        divergence = _means(scores["divergence"])
        row["divergence"] = [_interval(divergence[:, i], seed) for i in range(divergence.shape[1])]
    return row


def _means(scores: np.ndarray) -> np.ndarray:
    """Over the points of each function that has a value anywhere, [functions, told]; the same ones for all columns."""
    return np.nanmean(scores[~np.isnan(scores).all((1, 2))], 2)


def _interval(values: np.ndarray, seed: int) -> Interval:
    return bootstrap(lambda mean: mean, [values], seed)


def calibration_error(pit: np.ndarray, levels: int = 20) -> float:
    """Mean distance of the share of truths below a predicted quantile from what it should be, in percent."""
    pit, at = pit[~np.isnan(pit)], (np.arange(levels) + 0.5) / levels
    return float(100 * np.mean([abs(np.mean(pit <= q) - q) for q in at]))


def _coverage(pit: np.ndarray, level: float) -> float:
    return float(np.mean(np.abs(pit[~np.isnan(pit)] - 0.5) <= level / 2))
