"""Acquisition functions of predicted values: which of some candidates to evaluate next.

A prediction is a distribution over the bins of the unit interval, of which the first are best, and failure. Scores are
greater where a candidate is better; a failure improves nothing. Chen et al. 2022, section 4.3 and appendix.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Acquisition = Literal[
    "expected_improvement", "upper_confidence_bound", "probability_of_improvement", "thompson_sampling"
]
ACQUISITIONS: tuple[str, ...] = get_args(Acquisition)
QUANTILE = 0.9  # of the upper confidence bound


def expected_improvement(probabilities: Float[Array, "outcomes"], gain: Float[Array, "bins"]) -> Float[Array, ""]:
    """The mean of how far the value is below the best one.

    Args:
      probabilities: of the bins, and of failure.
      gain: how far each bin is below the best value, 0 where it is not.
    """
    return jnp.sum(probabilities[:-1] * gain)


def probability_of_improvement(probabilities: Float[Array, "outcomes"], best: Float[Array, ""]) -> Float[Array, ""]:
    """The probability that the value is below the best one; half of that of the best one's bin counts."""
    bins = probabilities.size - 1
    below = jnp.clip(best * bins - jnp.arange(bins), 0.0, 1.0)
    return jnp.sum(probabilities[:-1] * below)


def upper_confidence_bound(probabilities: Float[Array, "outcomes"]) -> Float[Array, ""]:
    """The value that is undercut with probability 1 - `QUANTILE`, with its sign changed; linear within a bin."""
    cumulative, wanted = jnp.cumsum(probabilities), 1 - QUANTILE
    index = jnp.argmax(cumulative >= wanted)
    share = probabilities[index]
    into = (wanted - (cumulative[index] - share)) / jnp.where(share > 0, share, 1.0)
    return -(index + into) / (probabilities.size - 1)


def thompson_sampling(key: PRNGKeyArray, probabilities: Float[Array, "outcomes"]) -> Float[Array, ""]:
    """One draw of the value, with its sign changed; uniform within its bin, so that there are no ties."""
    which_key, place_key = jax.random.split(key)
    index = jax.random.categorical(which_key, jnp.log(jnp.maximum(probabilities, 1e-30)))
    return -(index + jax.random.uniform(place_key)) / (probabilities.size - 1)


def score(
    name: Acquisition,
    key: PRNGKeyArray,
    probabilities: Float[Array, "outcomes"],
    best: Float[Array, ""],
    gain: Float[Array, "bins"],
) -> Float[Array, ""]:
    """The acquisition function of this name; only Thompson sampling reads the key."""
    if name == "expected_improvement":
        return expected_improvement(probabilities, gain)
    if name == "probability_of_improvement":
        return probability_of_improvement(probabilities, best)
    if name == "upper_confidence_bound":
        return upper_confidence_bound(probabilities)
    return thompson_sampling(key, probabilities)
