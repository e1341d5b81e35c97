"""A few Gaussian processes whose hyperparameters are given, weighted by how well they explain what was observed.

Hyperparameters are what a network says instead of what a fit finds; with the likelihoods as weights, several guesses
are averaged as Bayes' rule asks (Rasmussen and Williams 2006, section 5.2). All processes see the same warped inputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float

from l2o.gp import whitening

KERNELS = 4  # squared exponential and Matern 5/2, 3/2 and 1/2
CLOSEST = 1e-4  # to an end of the unit interval that a warp tells points apart
LEAST = 3e-5  # noise, as a part of the variance; less makes singular matrices of single precision


class Hyperparameters(NamedTuple):
    """Of k processes; values have been standardised.

    Attributes:
      rate: inverse squared length scales.
      noise: variance of observations, as a part of that of the functions.
      variance: of the functions, positive.
      mean: of the functions.
      kernels: shares of the kernels, which sum to 1.
      belief: logarithm of how probable each is before anything is known of the values, up to a constant.
      warp: logarithms of both exponents of each input's warp.
    """

    rate: Float[Array, "k d"]
    noise: Float[Array, "k"]
    variance: Float[Array, "k"]
    mean: Float[Array, "k"]
    kernels: Float[Array, "k kernels"]
    belief: Float[Array, "k"]
    warp: Float[Array, "2 d"]


class Processes(NamedTuple):
    """What k processes make of n observations.

    Attributes:
      given: the hyperparameters.
      x: points observed, as they are.
      used: which of them count.
      ordered: which inputs are no categories.
      inverse: of the Cholesky factor of each covariance matrix.
      white: residuals, whitened.
      weight: logarithm of how probable each process is.
    """

    given: Hyperparameters
    x: Float[Array, "n d"]
    used: Bool[Array, "n"]
    ordered: Bool[Array, "d"]
    inverse: Float[Array, "k n n"]
    white: Float[Array, "k n"]
    weight: Float[Array, "k"]


def squared_distances(
    a: Float[Array, "m d"], b: Float[Array, "n d"], ordered: Bool[Array, "d"]
) -> Float[Array, "m n d"]:
    """In each parameter; any two values of a category are 1 apart."""
    apart = jnp.abs(a[:, None] - b[None])
    return jnp.where(ordered[None, None], apart**2, jnp.sign(apart))


def warped(x: Float[Array, "m d"], warp: Float[Array, "2 d"]) -> Float[Array, "m d"]:
    """Kumaraswamy's distribution function, `1 - (1 - u^a)^b` (Snoek et al. 2014), in each input."""
    u = CLOSEST + (1 - 2 * CLOSEST) * x
    a, b = jnp.exp(warp)[:, None]
    return 1 - (1 - u**a) ** b


def covariance(given: Hyperparameters, a: Array, b: Array, ordered: Bool[Array, "d"]) -> Float[Array, "k m n"]:
    """Of the functions, without noise."""
    a, b = (jnp.where(ordered[None], warped(x, given.warp), x) for x in (a, b))
    apart = squared_distances(a, b, ordered)
    squared = jnp.einsum("mnd,kd->kmn", apart, given.rate)
    root = jnp.sqrt(jnp.where(squared > 1e-10, squared, 1e-10))  # the gradient of a root at 0 is not finite
    three, five = 3**0.5 * root, 5**0.5 * root
    found = jnp.stack(
        [
            jnp.exp(-0.5 * squared), (1 + five + five**2 / 3) * jnp.exp(-five), (1 + three) * jnp.exp(-three),
            jnp.exp(-root),
        ]
    )  # fmt: skip
    return given.variance[:, None, None] * jnp.einsum("skmn,ks->kmn", found, given.kernels)


def fit(
    given: Hyperparameters, x: Float[Array, "n d"], y: Float[Array, "n"], used: Bool[Array, "n"],
    ordered: Bool[Array, "d"],
) -> Processes:  # fmt: skip
    """Read observations; rows that are not in use mean nothing."""
    both, eye = used[:, None] & used[None], jnp.eye(len(x))
    gram = covariance(given, x, x, ordered) + _noise(given)[:, None, None] * eye[None]
    inverse, determinant = jax.vmap(whitening)(jnp.where(both[None], gram, eye[None]))
    residual = jnp.where(used[None], y[None] - given.mean[:, None], 0.0)
    white = jnp.einsum("knm,km->kn", inverse, residual)
    evidence = -0.5 * jnp.sum(white**2, 1) - 0.5 * determinant
    return Processes(given, x, used, ordered, inverse, white, jax.nn.log_softmax(evidence + given.belief))


def _noise(given: Hyperparameters) -> Float[Array, "k"]:
    return given.variance * (given.noise + LEAST)


class Normals(NamedTuple):
    """A mixture of k normal distributions at each of m points: of an observation, with its noise.

    Attributes:
      weight: logarithms of the shares.
      mean: of each.
      deviation: of each.
    """

    weight: Float[Array, "k"]
    mean: Float[Array, "k m"]
    deviation: Float[Array, "k m"]

    def moments(self) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        """Mean and standard deviation of the mixture."""
        share = jnp.exp(self.weight)
        mean = share @ self.mean
        return mean, jnp.sqrt(share @ (self.deviation**2 + (self.mean - mean[None]) ** 2))

    def log_masses(self, edges: Float[Array, "m e"]) -> Float[Array, "m e+1"]:
        """Logarithms of the probabilities of the intervals between edges, and of those beyond."""
        z = (edges[None] - self.mean[..., None]) / self.deviation[..., None]
        upper = z > 0  # mass between two edges of the upper tail is a difference of small numbers there
        tail = norm.cdf(-jnp.abs(z))
        low = jnp.where(upper, 1 - tail, tail)
        high = jnp.where(upper, tail, 1 - tail)
        both_up = upper[..., :-1] & upper[..., 1:]
        inner = jnp.where(both_up, high[..., :-1] - high[..., 1:], low[..., 1:] - low[..., :-1])
        mass = jnp.concatenate([low[..., :1], inner, high[..., -1:]], -1)
        return jax.nn.logsumexp(self.weight[:, None, None] + jnp.log(jnp.maximum(mass, 1e-30)), 0)


def predict(processes: Processes, x: Float[Array, "m d"]) -> Normals:
    """What is expected of observations at m points."""
    given = processes.given
    near = covariance(given, processes.x, x, processes.ordered)
    near = jnp.einsum("knl,klm->knm", processes.inverse, jnp.where(processes.used[None, :, None], near, 0.0))
    mean = given.mean[:, None] + jnp.einsum("kn,knm->km", processes.white, near)
    variance = jnp.maximum(given.variance[:, None] - jnp.sum(near**2, 1), 0.0) + _noise(given)[:, None]
    return Normals(processes.weight, mean, jnp.sqrt(variance))


def isotropic(count: int, ranges: tuple[float, float] = (0.1, 1.0)) -> np.ndarray:
    """Logarithms of inverse squared length scales to begin with: of k processes in one dimension, short ones first."""
    return np.linspace(-2 * np.log(ranges[0]), -2 * np.log(ranges[1]), count, dtype=np.float32)
