"""Losses of a grid on a logarithmic scale, and the learning rates that are chosen by them."""

import numpy as np

from experiments.study.grid.config import Grid
from experiments.study.grid.time_to_result import TAIL
from experiments.study.rates import rates_of

WAYS = ("centre", "grid", "cell")  # where the rate of a column is best


def final(values: np.ndarray) -> np.ndarray:
    """Final loss of each run [runs, horizon + 1] -> [runs]: the mean over the last twentieth; inf if it diverged."""
    tail = values[:, -max(1, values.shape[1] // TAIL) :].astype(np.float64)
    return np.where(np.isfinite(values).all(1), np.nan_to_num(tail, posinf=0, neginf=0).mean(1), np.inf)


def log_loss(losses: np.ndarray, floor: float) -> np.ndarray:
    """Natural logarithm of losses, clipped to [floor, 1e3], so that a run that diverged counts as 1,000."""
    return np.log(np.clip(np.nan_to_num(losses, nan=np.inf), floor, 1e3))


def choose(scores: np.ndarray, grid: Grid) -> np.ndarray:
    """Rates [way, cell] from mean log losses [cell, rate]; the centre is the first cell."""
    rates = rates_of(grid.tune)
    whole, centre = np.argmin(scores.mean(0)), np.argmin(scores[0])
    n = len(scores)
    return np.stack([np.full(n, rates[centre]), np.full(n, rates[whole]), rates[np.argmin(scores, axis=1)]])
