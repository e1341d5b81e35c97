"""The hyperparameters of a Gaussian process: what is believed of them, and the most probable ones of observations."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from l2o.gp import Prior, log_likelihood


class Hyperprior(NamedTuple):
    """What is believed of the hyperparameters of a process, of points of the unit cube and standardised values.

    The logarithms of the length scales, of the variance and of the noise are normal around those of `centre`, and so
    is the mean around 0.

    Attributes:
      length_scale: where those of one dimension are expected; of d, that times the root of d, as distances grow so.
      variance: where the variance of the function is expected.
      noise: where the variance of the noise is expected, as a part of that of the function.
      matern: of the kernel, see `l2o.gp.Prior`.
      deviations: of the logarithms of length scale, variance and noise, and of the mean; infinite where all are alike.
      lowest: limits of length scale, variance and noise; with less noise than 1e-5 of the variance the matrices would
        be singular in single precision.
      highest: the same from above.
      shorter: length scales of one dimension that fits are also begun at.
    """

    length_scale: float = 0.3
    variance: float = 1.0
    noise: float = 1e-4
    matern: float = 1.0
    deviations: tuple[float, float, float, float] = (0.8, 1.5, 2.0, 1.0)
    lowest: tuple[float, float, float] = (0.01, 0.01, 1e-5)
    highest: tuple[float, float, float] = (100.0, 1000.0, 1.0)
    shorter: tuple[float, ...] = (0.1, 0.03)


OWN = Hyperprior()
# log-normal densities of mu = sqrt(2) + log(d) / 2 and sigma = sqrt(3), and of mu = -4 and sigma = 1: as densities of
# the length scale and the noise themselves they are highest at exp(mu - sigma^2), and fall off from there as a normal
# density of the logarithm does
BOTORCH = Hyperprior(
    math.exp(2**0.5 - 3), 1.0, math.exp(-5.0), 0.0, (3**0.5, 1.0, 1.0, math.inf), (0.025, 1.0, 1e-4), (1e3, 1.0, 1e3)
)
HYPERPRIORS = {"own": OWN, "botorch": BOTORCH}


def fit(
    prior: Prior, x: Float[Array, "n d"], y: Float[Array, "n"], count: Int[Array, ""], steps: int,
    hyperprior: Hyperprior = OWN,
) -> Prior:  # fmt: skip
    """Towards the most probable hyperparameters for standardised values, by Adam.

    From those of `prior`, unless others of shorter scales are more probable already: Adam alone does not leave the
    hills of explaining everything as noise.
    """
    size = x.shape[1]
    expected = hyperprior.length_scale
    starts = [pack(prior), *(centre(size, scale, hyperprior) for scale in (expected, *hyperprior.shorter))]
    starts = jax.tree.map(lambda *a: jnp.stack(a), *starts)

    def log_density(raw):
        return log_posterior(raw, x, y, count, prior.categories, hyperprior)

    probable = jax.vmap(log_density)(starts)
    raw = jax.tree.map(lambda a: a[jnp.nanargmax(probable)], starts)  # NaN where a matrix is too near to a singular one
    # in nats; below eps a slope is rounding, which Adam would enlarge to a step of full length
    tx = optax.adam(optax.cosine_decay_schedule(0.1, steps, alpha=0.1), eps=1e-2)

    def step(carry, _):
        raw, moments = carry
        gradient = jax.grad(lambda raw: -log_density(raw))(raw)
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        updates, moments = tx.update(gradient, moments)
        return (within_limits(jax.tree.map(jnp.add, raw, updates), hyperprior), moments), None

    (raw, _), _ = jax.lax.scan(step, (raw, tx.init(raw)), length=steps)
    return unpack(raw)._replace(categories=prior.categories)


def log_posterior(
    raw: Prior, x: Float[Array, "n d"], y: Float[Array, "n"], count: Int[Array, ""],
    categories: Bool[Array, "d"] | None = None, hyperprior: Hyperprior = OWN,
) -> Float[Array, ""]:  # fmt: skip
    """The logarithm of the posterior density of hyperparameters as `pack` gives them, up to a constant."""
    return log_likelihood(unpack(raw)._replace(categories=categories), x, y, count) + log_hyperprior(raw, hyperprior)


def log_hyperprior(raw: Prior, hyperprior: Hyperprior = OWN) -> Float[Array, ""]:
    """The logarithm of the prior density of the same, up to a constant: they are normal around `centre`."""
    expected = centre(raw.length_scale.shape[0], hyperprior=hyperprior)
    of_scale, of_variance, of_noise, of_mean = hyperprior.deviations
    scales = jnp.sum(((raw.length_scale - expected.length_scale) / of_scale) ** 2)
    variance, noise = (raw.variance - expected.variance) / of_variance, (raw.noise - expected.noise) / of_noise
    return -0.5 * (scales + variance**2 + noise**2 + (raw.mean / of_mean) ** 2)


def within_limits(raw: Prior, hyperprior: Hyperprior = OWN) -> Prior:
    """The logarithms within those of the limits."""
    scale, variance, noise = (
        jnp.clip(value, math.log(low), math.log(high))
        for value, low, high in zip(
            (raw.length_scale, raw.variance, raw.noise), hyperprior.lowest, hyperprior.highest, strict=True
        )
    )
    return Prior(scale, variance, noise, raw.mean, jnp.full_like(raw.matern, hyperprior.matern))


def centre(size: int, scale: float | None = None, hyperprior: Hyperprior = OWN) -> Prior:
    """Where the hyperparameters are expected, or there but for the length scale of one dimension."""
    scales = jnp.full(size, (scale or hyperprior.length_scale) * size**0.5)
    variance, noise = jnp.full((), hyperprior.variance), jnp.full((), hyperprior.variance * hyperprior.noise)
    return pack(Prior(scales, variance, noise, jnp.zeros(()), jnp.full((), hyperprior.matern)))


def pack(prior: Prior) -> Prior:
    """Logarithms of the length scales, the variance, and the noise as a part of it; the mean as it is."""
    noise = jnp.log(prior.noise / prior.variance)
    return Prior(jnp.log(prior.length_scale), jnp.log(prior.variance), noise, prior.mean, prior.matern)


def unpack(raw: Prior) -> Prior:
    """Inverse of `pack`."""
    variance, noise = jnp.exp(raw.variance), jnp.exp(raw.variance + raw.noise)
    return Prior(jnp.exp(raw.length_scale), variance, noise, raw.mean, raw.matern)
