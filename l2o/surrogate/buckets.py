"""A distribution over the real line as probabilities of buckets, with half of a normal distribution at either end.

The head of prior-fitted networks (Müller et al. 2022, section 5, "Riemann distribution"). All that Bayesian
optimization asks of it is a sum over buckets.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from l2o import gp

WIDTH = 1.3  # of what the buckets are made for; tails are heavier than those of a standard normal distribution
LEAST = 1e-38  # stands for zero where a logarithm is taken


class Buckets(NamedTuple):
    """Where the buckets are. Logits are [..., buckets]; the first and the last are the tails.

    Attributes:
      edges: between buckets, increasing; the last is positive.
    """

    edges: Float[Array, "inner+1"]

    @classmethod
    def of(cls, count: int) -> "Buckets":
        """That many buckets, at least 3, of equal mass under a normal distribution of mean 0 and deviation `WIDTH`."""
        return cls(WIDTH * norm.ppf(jnp.arange(1, count) / count))

    @property
    def size(self) -> int:
        """Of all buckets."""
        return len(self.edges) + 1

    def _beside(self, y: Array) -> tuple[Array, Array]:
        """Lower and upper edges of the inner buckets, with as many axes as y."""
        shape = (1,) * (y.ndim - 1) + (-1,)
        return self.edges[:-1].reshape(shape), self.edges[1:].reshape(shape)

    @property
    def _tail(self) -> Float[Array, ""]:
        """Scale of the half-normal distributions at both ends."""
        return self.edges[-1]

    def log_prob(self, logits: Float[Array, "*b buckets"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Logarithm of the density."""
        place = jnp.searchsorted(self.edges, y, side="right")
        mass = jnp.take_along_axis(jax.nn.log_softmax(logits), place[..., None], -1)[..., 0]
        widths = jnp.log(jnp.diff(self.edges))
        inner = -widths[jnp.clip(place - 1, 0, len(self.edges) - 2)]
        beyond = jnp.maximum(self.edges[0] - y, y - self.edges[-1])
        tail = jnp.log(2.0) + norm.logpdf(beyond, scale=self._tail)
        return mass + jnp.where((place == 0) | (place == len(self.edges)), tail, inner)

    def _centres(self) -> Float[Array, "buckets"]:
        reach = self._tail * np.sqrt(2 / np.pi)
        inner = (self.edges[1:] + self.edges[:-1]) / 2
        return jnp.concatenate([self.edges[:1] - reach, inner, self.edges[-1:] + reach])

    def mean(self, logits: Float[Array, "*b buckets"]) -> Float[Array, "*b"]:
        """The expected value."""
        return jax.nn.softmax(logits) @ self._centres()

    def variance(self, logits: Float[Array, "*b buckets"]) -> Float[Array, "*b"]:
        """Of the value."""
        tail = self._tail**2 * (1 - 2 / np.pi)
        own = jnp.concatenate([tail[None], jnp.diff(self.edges) ** 2 / 12, tail[None]])
        mass, centres = jax.nn.softmax(logits), self._centres()
        # the mean of squares less the square of the mean would cancel
        middle = mass @ centres
        apart = centres.reshape((1,) * middle.ndim + (-1,)) - middle[..., None]
        return mass @ own + jnp.sum(mass * apart**2, -1)

    def cdf(self, logits: Float[Array, "*b buckets"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Probability that the value is at most y."""
        return jnp.sum(jax.nn.softmax(logits) * self._below(y), -1)

    def _below(self, y: Float[Array, "*b"]) -> Float[Array, "*b buckets"]:
        """Share of each bucket that lies below y."""
        y = jnp.asarray(y)[..., None]
        low, high = self._beside(y)
        inner = jnp.clip((y - low) / (high - low), 0.0, 1.0)
        first = 1 - _half_cdf((self.edges[0] - y) / self._tail)
        last = _half_cdf((y - self.edges[-1]) / self._tail)
        return jnp.concatenate([first, inner, last], -1)

    def quantile(self, logits: Float[Array, "*b buckets"], q: Float[Array, "*b"] | float) -> Float[Array, "*b"]:
        """The value that is not exceeded with probability q, which is strictly between 0 and 1."""
        mass = jax.nn.softmax(logits)
        above = jnp.cumsum(mass, -1)
        q = jnp.broadcast_to(jnp.asarray(q, mass.dtype), mass.shape[:-1])
        place = jnp.minimum(jnp.sum(above < q[..., None], -1), self.size - 1)
        own = jnp.take_along_axis(mass, place[..., None], -1)[..., 0]
        before = jnp.take_along_axis(above, place[..., None], -1)[..., 0] - own
        share = jnp.clip((q - before) / jnp.maximum(own, LEAST), 1e-6, 1 - 1e-6)
        last = len(self.edges) - 1
        low = self.edges[jnp.clip(place - 1, 0, last)]
        high = self.edges[jnp.clip(place, 0, last)]
        first = self.edges[0] - self._tail * norm.ppf(1 - share / 2)
        end = self.edges[-1] + self._tail * norm.ppf((1 + share) / 2)
        inner = low + share * (high - low)
        return jnp.where(place == 0, first, jnp.where(place == self.size - 1, end, inner))

    def sample(self, key: PRNGKeyArray, logits: Float[Array, "*b buckets"]) -> Float[Array, "*b"]:
        """One value for each distribution."""
        return self.quantile(logits, jax.random.uniform(key, logits.shape[:-1], minval=1e-6, maxval=1 - 1e-6))

    def log_expected_improvement(
        self, logits: Float[Array, "*b buckets"], best: Float[Array, "*b"]
    ) -> Float[Array, "*b"]:
        """The logarithm of `E max(best - y, 0)`, finite far from any hope."""
        best = jnp.broadcast_to(jnp.asarray(best), logits.shape[:-1])[..., None]
        low, high = self._beside(best)
        reached = jnp.clip(best, low, high)
        inner = ((best - low) + (best - reached)) / 2 * (reached - low) / (high - low)
        # E max(c + s |z|, 0) for the lower tail, which lies s |z| below the first edge
        c, s = best - self.edges[0], self._tail
        above = jnp.log(jnp.maximum(c, 0.0) + s * np.sqrt(2 / np.pi))
        below = jnp.log(2.0) + gp.log_expected_improvement(jnp.zeros(()), s**2, jnp.minimum(c, 0.0))
        first = jnp.where(c >= 0, above, below)
        beyond = jnp.maximum(best - self.edges[-1], 0.0)
        last = beyond * _half_cdf(beyond / s) - s * np.sqrt(2 / np.pi) * (1 - jnp.exp(-0.5 * (beyond / s) ** 2))
        others = jnp.log(jnp.maximum(jnp.concatenate([inner, last], -1), LEAST))
        gain = jnp.concatenate([first, others], -1)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + gain, -1)


def _half_cdf(z: Array) -> Array:
    """Of the absolute value of a standard normal number; 0 below 0."""
    return jnp.where(z > 0, 2 * norm.cdf(jnp.maximum(z, 0.0)) - 1, 0.0)
