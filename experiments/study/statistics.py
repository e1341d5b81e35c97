"""Intervals and paired comparisons, by scipy.

A diverged run has no finite loss: it is written as None and counts as the largest loss of all.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
Sample = Sequence[float | None] | np.ndarray


def interval(values: Sample) -> tuple[float, float, float]:
    """Mean and its 95 % Student t interval; the mean is infinite, and the interval unbounded, if any run diverged."""
    from scipy import stats

    x = _floats(values)
    if not np.isfinite(x).all():
        return math.inf, -math.inf, math.inf
    error = stats.sem(x)
    if error == 0:
        return float(x.mean()), float(x.mean()), float(x.mean())
    low, high = stats.t.interval(CONFIDENCE, len(x) - 1, loc=x.mean(), scale=error)
    return float(x.mean()), float(low), float(high)


def paired(ours: Sample, theirs: Sample) -> dict[str, Any]:
    """Paired difference `ours - theirs` with its 95 % interval, and the share of runs in which ours is lower.

    The interval of the win rate is Wilson's. Ties count as half a win. A difference that diverged runs make
    undefined is None.
    """
    a, b = _floats(ours), _floats(theirs)
    found = wins(ours, theirs)
    if np.isfinite(a).all() and np.isfinite(b).all():
        mean, low, high = interval(a - b)
        return {"difference": mean, "low": low, "high": high, **found}
    return {"difference": None, "low": None, "high": None, **found}


def wins(ours: Sample, theirs: Sample) -> dict[str, float]:
    """The share of runs in which ours is lower, with Wilson's 95 % interval. Ties count as half a win."""
    from scipy import stats

    a, b = _floats(ours), _floats(theirs)
    won = float(np.sum(a < b) + np.sum(a == b) / 2)
    rate = stats.binomtest(math.floor(won), len(a)).proportion_ci(CONFIDENCE, method="wilson")
    return {"win_rate": won / len(a), "win_rate_low": float(rate.low), "win_rate_high": float(rate.high)}


def curve(values: np.ndarray) -> dict[str, list[float | None]]:
    """Mean over runs at every step with its 95 % interval, for values [runs, steps]; None where a run diverged."""
    from scipy import stats

    values = np.where(np.isfinite(values).all(0), values, np.nan)  # sem warns of infinities, not of NaN
    mean = values.mean(0)
    half = stats.sem(values, axis=0) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return {name: as_json(s) for name, s in (("mean", mean), ("low", mean - half), ("high", mean + half))}


def bootstrap(
    statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], seed: int, resamples: int = 4000
) -> tuple[float, float, float]:
    """A function of the means of paired samples, with its 95 % percentile interval over resampled pairs.

    The function is elementwise. Not finite where a run diverged.

    Args:
      statistic: the function.
      samples: [n], or [n, m] of m runs on each of n tasks: then tasks are drawn, and on each of them runs, the same
        ones of all samples that have as many.
      seed: decides what is drawn.
      resamples: how often.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    if not all(np.isfinite(a).all() for a in arrays):
        return math.inf, -math.inf, math.inf
    random = np.random.default_rng(seed)
    chosen = random.integers(len(arrays[0]), size=(resamples, len(arrays[0])))
    share = random.random((*chosen.shape, max(a.shape[1] if a.ndim == 2 else 0 for a in arrays)))

    def resampled(a: np.ndarray) -> np.ndarray:
        if a.ndim == 1:
            return a[chosen].mean(1)
        runs = (share[..., : a.shape[1]] * a.shape[1]).astype(int)
        return a[chosen[..., None], runs].mean((1, 2))

    with np.errstate(divide="ignore", invalid="ignore"):  # where all that is drawn is 0
        found = statistic(*map(resampled, arrays))
        low, high = np.nanquantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(statistic(*(a.mean() for a in arrays))), float(low), float(high)


def _floats(values: Sample) -> np.ndarray:
    return np.array([math.inf if v is None else v for v in values], np.float64)


def as_json(values: Iterable[Any]) -> list[float | None]:
    """Numbers for JSON, which has no infinities: None in place of what is not finite."""
    return [float(v) if math.isfinite(v) else None for v in values]
