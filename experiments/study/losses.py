"""Losses of runs on a logarithmic scale, by which kinds of study choose learning rates and compare optimizers."""

from typing import Any

import numpy as np

TAIL = 20  # a loss is smoothed over 1/TAIL of the run
POINTS = 50  # of a curve, about


def final(values: np.ndarray) -> np.ndarray:
    """Final loss of each run [runs, horizon + 1] -> [runs]: the mean over the last twentieth; inf if it diverged."""
    tail = values[:, -max(1, values.shape[1] // TAIL) :].astype(np.float64)
    return np.where(np.isfinite(values).all(1), np.nan_to_num(tail, posinf=0, neginf=0).mean(1), np.inf)


def log_loss(losses: np.ndarray, floor: float) -> np.ndarray:
    """Natural logarithm of losses, clipped to [floor, 1e3], so that a run that diverged counts as 1,000."""
    return np.log(np.clip(np.nan_to_num(losses, nan=np.inf), floor, 1e3))


def smoothed(values: np.ndarray, floor: float) -> dict[str, Any]:
    """Geometric mean losses of runs [runs, horizon + 1], clipped as in `log_loss`, one "loss" "every" so many steps."""
    values = np.nan_to_num(values.astype(float), nan=1e3, posinf=1e3)
    width = max(1, (values.shape[1] - 1) // POINTS)
    logs = np.log(np.clip(values[:, 1:], floor, 1e3))
    logs = logs[:, : logs.shape[1] // width * width].reshape(len(values), -1, width).mean((0, 2))
    return {"every": width, "loss": np.exp(logs).tolist()}
