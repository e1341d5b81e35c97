"""Gaussian processes: kernels, an exact posterior that grows one observation at a time, and acquisition functions.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 4. Everything is data of fixed
shape, so that thousands of posteriors of different sizes are one `vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float, Int

TINY = 1e-12  # variance below which a prediction counts as certain


class Prior(NamedTuple):
    """A Gaussian process prior with a stationary kernel of unit correlation at distance 0.

    Attributes:
      length_scale: one for each dimension, positive, in the units of the inputs.
      variance: of the function, positive.
      noise: variance of an observation around the function; positive, it also keeps the matrices well-conditioned.
      mean: of the function.
      matern: 1 for the Matern-5/2 kernel, 0 for the squared exponential, in between a mixture of both.
      categories: which inputs are categories: any two of them are 1 apart. None: no input is.
    """

    length_scale: Float[Array, "d"]
    variance: Float[Array, ""] | float = 1.0
    noise: Float[Array, ""] | float = 1e-5
    mean: Float[Array, ""] | float = 0.0
    matern: Float[Array, ""] | float = 1.0
    categories: Bool[Array, "d"] | None = None


def covariance(prior: Prior, a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Covariance of the function at two sets of points, without the noise."""
    difference = a[:, None] - b[None]
    if prior.categories is not None:
        difference = jnp.where(prior.categories[None, None], jnp.sign(jnp.abs(difference)), difference)
    difference = difference / prior.length_scale[None, None]
    squared = jnp.sum(difference**2, -1)
    positive = squared > 0
    distance = jnp.sqrt(5 * jnp.where(positive, squared, 1.0))  # the gradient of a root at 0 is not finite
    matern = jnp.where(positive, (1 + distance + distance**2 / 3) * jnp.exp(-distance), 1.0)
    return prior.variance * (prior.matern * matern + (1 - prior.matern) * jnp.exp(-0.5 * squared))


class Posterior(NamedTuple):
    """A prior and up to n observations.

    With `K + noise I = L L^T` over the observations, the inverse of L and the whitened residuals are kept: then an
    update and a prediction are products of a matrix and a vector, which `vmap` and differentiate well.

    Attributes:
      prior: what was believed before.
      x: points observed; rows from `used` on mean nothing.
      inverse: the inverse of L; rows from `used` on are zero.
      white: `inverse @ (y - mean)`.
      used: observations so far. Those beyond n are ignored.
    """

    prior: Prior
    x: Float[Array, "n d"]
    inverse: Float[Array, "n n"]
    white: Float[Array, "n"]
    used: Int[Array, ""]

    @classmethod
    def empty(cls, prior: Prior, size: int) -> "Posterior":
        """No observations yet, and room for `size` of them."""
        dtype = prior.length_scale.dtype
        return cls(
            prior, jnp.zeros((size, prior.length_scale.shape[0]), dtype), jnp.zeros((size, size), dtype),
            jnp.zeros(size, dtype), jnp.zeros((), jnp.int32),
        )  # fmt: skip

    @classmethod
    def fit(cls, prior: Prior, x: Float[Array, "n d"], y: Float[Array, "n"], count: Int[Array, ""]) -> "Posterior":
        """All at once: the first `count` rows by one Cholesky factorization (their algorithm 2.1)."""
        used = jnp.arange(x.shape[0]) < count
        factor = jnp.linalg.cholesky(_gram(prior, x, used))
        inverse = jnp.where(used[:, None], _inverse(factor), 0.0)
        return cls(prior, x, inverse, inverse @ jnp.where(used, y - prior.mean, 0.0), count)

    def _weights(self, x: Float[Array, "m d"]) -> Float[Array, "n m"]:
        rows = jnp.arange(self.x.shape[0]) < self.used
        return self.inverse @ jnp.where(rows[:, None], covariance(self.prior, self.x, x), 0.0)

    def predict(self, x: Float[Array, "m d"]) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        """Mean and variance of the function (without the noise) at m points (their equations 2.25 and 2.26)."""
        weights = self._weights(x)
        variance = self.prior.variance - jnp.sum(weights**2, 0)
        return self.prior.mean + self.white @ weights, jnp.maximum(variance, TINY)

    def with_room(self, size: int) -> "Posterior":
        """The same, with room for `size` observations more than n."""
        x, white = jnp.pad(self.x, ((0, size), (0, 0))), jnp.pad(self.white, (0, size))
        return Posterior(self.prior, x, jnp.pad(self.inverse, (0, size)), white, self.used)

    def observe(self, x: Float[Array, "d"], y: Float[Array, ""]) -> "Posterior":
        """One observation more, in O(n^2): a row is appended to L, and so to its inverse."""
        weights = self._weights(x[None])[:, 0]
        rest = self.prior.variance + self.prior.noise - weights @ weights
        diagonal = jnp.sqrt(jnp.maximum(rest, self.prior.noise + TINY))  # never below the noise, but for rounding
        here = jnp.arange(self.x.shape[0]) == self.used  # nowhere when full
        row = (here - weights @ self.inverse) / diagonal
        entry = (y - self.prior.mean - weights @ self.white) / diagonal
        return Posterior(
            self.prior,
            jnp.where(here[:, None], x[None], self.x),
            jnp.where(here[:, None], row[None], self.inverse),
            jnp.where(here, entry, self.white),
            jnp.minimum(self.used + 1, self.x.shape[0]),
        )


def _gram(prior: Prior, x: Float[Array, "n d"], used) -> Float[Array, "n n"]:
    """`K + noise I` over the rows in use, the identity over the others."""
    both = used[:, None] & used[None]
    eye = jnp.eye(x.shape[0], dtype=x.dtype)
    return jnp.where(both, covariance(prior, x, x) + prior.noise * eye, eye)


def log_likelihood(
    prior: Prior, x: Float[Array, "n d"], y: Float[Array, "n"], count: Int[Array, ""]
) -> Float[Array, ""]:
    """Log marginal likelihood of the first `count` rows, in nats (their equation 2.30)."""
    used = jnp.arange(x.shape[0]) < count
    density = _log_density(_gram(prior, x, used), jnp.where(used, y - prior.mean, 0.0))
    return density - 0.5 * count * jnp.log(2 * jnp.pi)


def _inverse(factor: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a lower triangular matrix, by blocks of 1, 2, 4, ... rows.

    Products of matrices alone: on a CPU 40 times as fast as the triangular solve of a batch (n = 128).
    """
    n = factor.shape[0]
    size = 1 << max(n - 1, 0).bit_length()
    padded = jnp.eye(size, dtype=factor.dtype).at[:n, :n].set(factor)
    inverse, width = (1 / jnp.diagonal(padded))[:, None, None], 1
    while width < size:
        pairs = size // (2 * width)
        i = jnp.arange(pairs)
        below = padded.reshape(pairs, 2 * width, pairs, 2 * width)[i, width:, i, :width]
        first, second = inverse[0::2], inverse[1::2]
        top = jnp.concatenate([first, jnp.zeros_like(first)], 2)
        inverse, width = jnp.concatenate([top, jnp.concatenate([-second @ below @ first, second], 2)], 1), 2 * width
    return inverse[0, :n, :n]


@jax.custom_jvp
def whitening(gram: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    """The inverse of the Cholesky factor L of a positive definite matrix, and the logarithm of its determinant.

    Its derivative is written out, in products of matrices: with `S = L^-1 dK L^-T` that of the inverse is minus the
    lower triangle of S, its diagonal halved, times the inverse, and that of the logarithm is the trace of S.
    """
    factor = jnp.linalg.cholesky(gram)
    return _inverse(factor), 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))


@whitening.defjvp
def _whitening_jvp(primals, tangents):
    inverse, determinant = whitening(*primals)
    moved = inverse @ tangents[0] @ inverse.T
    lower = jnp.tril(moved) - 0.5 * jnp.diag(jnp.diagonal(moved))
    return (inverse, determinant), (-lower @ inverse, jnp.trace(moved))


@jax.custom_jvp
def _log_density(gram: Float[Array, "n n"], residual: Float[Array, "n"]) -> Float[Array, ""]:
    """The logarithm of the density of a normal distribution of mean 0 at `residual`, without the constant.

    Its derivative is written out (their equation 5.9): that of a Cholesky factorization costs many times more.
    """
    return _log_density_and_more(gram, residual)[0]


def _log_density_and_more(gram, residual):
    factor = jnp.linalg.cholesky(gram)
    inverse = _inverse(factor)
    white = inverse @ residual
    return -0.5 * white @ white - jnp.sum(jnp.log(jnp.diagonal(factor))), inverse, white @ inverse


@_log_density.defjvp
def _log_density_jvp(primals, tangents):
    value, inverse, weights = _log_density_and_more(*primals)
    slope = 0.5 * (weights[:, None] * weights[None] - inverse.T @ inverse)
    return value, jnp.sum(slope * tangents[0]) - weights @ tangents[1]


def expected_improvement(mean: Array, variance: Array, best: Array | float) -> Array:
    """`E max(best - f, 0)` for a normal f: Mockus (1975), as in Jones et al. (1998), equation 15. Elementwise."""
    deviation = jnp.sqrt(jnp.maximum(variance, TINY))
    z = (best - mean) / deviation
    return deviation * (z * norm.cdf(z) + norm.pdf(z))


def log_expected_improvement(mean: Array, variance: Array, best: Array | float) -> Array:
    """The logarithm of the expected improvement, finite far from any hope (Ament et al. 2023, equation 9)."""
    deviation = jnp.sqrt(jnp.maximum(variance, TINY))
    z = (best - mean) / deviation
    near, far = jnp.maximum(z, -5.0), jnp.minimum(z, -5.0)
    direct = jnp.log(near * norm.cdf(near) + norm.pdf(near))
    tail = norm.logpdf(far) - 2 * jnp.log(-far) + jnp.log1p(-3 / far**2 + 15 / far**4 - 105 / far**6)
    return jnp.log(deviation) + jnp.where(z > -5, direct, tail)
