"""How good distributions over the bins of the unit interval are, once the truth is known.

The same code scores every forecaster: it reads log-probabilities [n, bins] and truths [n] in the unit interval. Truths
beyond it are in the first or the last bin.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from experiments.study.statistics import CONFIDENCE

INTERVALS = 100  # of the unit interval, whose probabilities are put to the test (Chen et al. 2022)
CONFIDENCES = 10  # equal bins of what these probabilities may be
RESAMPLES = 2000


def bin_of(truth: Float[np.ndarray, "n"], bins: int) -> Int[np.ndarray, "n"]:
    """In which of so many equal shares of the unit interval each truth lies."""
    return np.clip(np.floor(truth * bins), 0, bins - 1).astype(int)


def log_density(log_probs: Float[np.ndarray, "n b"], truth: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """On the unit interval, in nats: 0 for the uniform distribution, whatever the number of bins."""
    n, bins = log_probs.shape
    return log_probs[np.arange(n), bin_of(truth, bins)] + np.log(bins)


def pit(
    log_probs: Float[np.ndarray, "n b"], truth: Float[np.ndarray, "n"], seed: int
) -> Float[np.ndarray, "n"]:  # fmt: skip
    """Probability integral transforms: the probability of less than the truth, drawn uniformly within its bin.

    They are uniform on the unit interval if the forecaster is calibrated (Dawid 1984; Czado et al. 2009).
    """
    n, bins = log_probs.shape
    probabilities, at = np.exp(log_probs), bin_of(truth, bins)
    below = np.where(np.arange(bins) < at[:, None], probabilities, 0.0).sum(1)
    return below + np.random.default_rng(seed).uniform(size=n) * probabilities[np.arange(n), at]


def distance(pits: Float[np.ndarray, "n"]) -> float:
    """Kolmogorov and Smirnov's, of the distribution of transforms from the uniform one: 0 is perfect, 1 the worst."""
    ordered, n = np.sort(pits), pits.size
    above, below = np.arange(1, n + 1) / n - ordered, ordered - np.arange(n) / n
    return float(max(above.max(), below.max()))


class Calibration(NamedTuple):
    """What the expected calibration error is made of; sums over predictions, in each of the confidence bins.

    Attributes:
      events: that were predicted.
      confidence: sum of their probabilities.
      hits: how many of them came true.
    """

    events: Float[np.ndarray, "... c"]
    confidence: Float[np.ndarray, "... c"]
    hits: Float[np.ndarray, "... c"]


def intervals(log_probs: Float[np.ndarray, "n b"], count: int = INTERVALS) -> Float[np.ndarray, "n c"]:
    """Probabilities of so many equal intervals, where within a bin all values are equally probable."""
    n, bins = log_probs.shape
    probabilities = np.pad(np.exp(log_probs), ((0, 0), (0, 1)))
    below = np.concatenate([np.zeros((n, 1)), np.cumsum(probabilities, 1)], 1)
    edge = np.arange(count + 1) * bins
    whole, part = edge // count, edge % count / count
    return np.diff(below[:, whole] + part * probabilities[:, whole], axis=1)


def calibration(
    log_probs: Float[np.ndarray, "n b"], truth: Float[np.ndarray, "n"], likeliest: bool = False
) -> Calibration:
    """Of each prediction: the events are that the truth lies in an interval, for all of them or the likeliest one."""
    probabilities = intervals(log_probs)
    hit = np.arange(INTERVALS) == bin_of(truth, INTERVALS)[:, None]
    if likeliest:
        best = np.argmax(probabilities, 1)[:, None]
        probabilities, hit = np.take_along_axis(probabilities, best, 1), np.take_along_axis(hit, best, 1)
    level = bin_of(probabilities, CONFIDENCES)

    def total(values: np.ndarray) -> np.ndarray:
        return np.stack([np.where(level == c, values, 0.0).sum(1) for c in range(CONFIDENCES)], 1)

    return Calibration(total(np.ones_like(probabilities)), total(probabilities), total(hit))


def error(found: Calibration) -> Float[np.ndarray, "..."]:
    """The expected calibration error in percent: mean distance of confidence and frequency, weighted by share.

    Of all intervals it is at most 2 %, because as many probabilities as there are intervals sum to 1.
    """
    return 100 * np.abs(found.confidence - found.hits).sum(-1) / found.events.sum(-1)


def errors(found: list[Calibration], seed: int) -> tuple[list[list[float]], list[float]]:
    """Errors of several forecasters of the same units [u, c], with 95 % percentile intervals over resampled units.

    Returns:
      Error, low and high of each, and of the first one's less the last one's.
    """
    sums = [np.stack(one) for one in found]  # [3, u, c]
    units = sums[0].shape[1]
    chosen = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    resampled = [error(Calibration(*np.einsum("ru,kuc->krc", chosen, one))) for one in sums]
    whole = [float(error(Calibration(*one.sum(1)))) for one in sums]
    low, high = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2

    def row(value: float, samples: np.ndarray) -> list[float]:
        return [value, *map(float, np.quantile(samples, [low, high]))]

    rows = [row(value, samples) for value, samples in zip(whole, resampled, strict=True)]
    return rows, row(whole[0] - whole[-1], resampled[0] - resampled[-1])


def of_logits(logits: Float[np.ndarray, "n b"], temperature: float) -> Float[np.ndarray, "n b"]:
    """Log-probabilities of the bins."""
    return special.log_softmax(logits.astype(np.float64) / temperature, axis=1)


def of_normal(
    mean: Float[np.ndarray, "n"], deviation: Float[np.ndarray, "n"], edges: Float[np.ndarray, "... b+1"],
    truncated: bool = True,
) -> Float[np.ndarray, "n b"]:  # fmt: skip
    """Log-probabilities of the bins between these edges under normal distributions.

    These are truncated to the first and the last edge; or else what is beyond them is in the first and last bin, as
    truths are. All in logarithms, so that they are finite however far away the mass is.
    """
    if not truncated:
        edges = edges.copy()
        edges[..., 0], edges[..., -1] = -np.inf, np.inf
    edges = (edges - mean[:, None]) / deviation[:, None]
    left, right = edges[:, :-1], edges[:, 1:]
    flipped = left > 0  # of the upper tail, as of the lower one
    left, right = np.where(flipped, -right, left), np.where(flipped, -left, right)
    upper, lower = special.log_ndtr(right), special.log_ndtr(left)
    mass = upper + np.log(-np.expm1(np.minimum(lower - upper, -np.finfo(np.float64).tiny)))
    return mass - special.logsumexp(mass, axis=1, keepdims=True)


def with_uniform(log_probs: Float[np.ndarray, "n b"], share: float) -> Float[np.ndarray, "n b"]:
    """A mixture with the uniform distribution, which has this share."""
    if not share:
        return log_probs
    return np.logaddexp(np.log1p(-share) + log_probs, np.log(share / log_probs.shape[1]))
