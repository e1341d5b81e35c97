"""The learning rates of a grid: three ways to choose them, and the columns that one of them serves everywhere."""

from typing import Any

import numpy as np

from experiments.study.grid.config import Grid
from experiments.study.rates import rates_of

WAYS = ("centre", "grid", "cell")  # where the rate of a column is best


def choose(scores: np.ndarray, grid: Grid) -> np.ndarray:
    """Rates [way, cell] from mean log losses [cell, rate]; the centre is the first cell."""
    rates = rates_of(grid.tune)
    whole, centre = np.argmin(scores.mean(0)), np.argmin(scores[0])
    n = len(scores)
    return np.stack([np.full(n, rates[centre]), np.full(n, rates[whole]), rates[np.argmin(scores, axis=1)]])


def rivals(columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that one setting serves on all workloads: learned ones, and others at their rate for the grid."""
    return [c for c in columns if c["learned"] or c["name"].endswith("(grid)")]
