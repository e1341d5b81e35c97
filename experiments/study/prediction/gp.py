"""The Gaussian process that predictions of values are compared with: that of the baselines, fitted harder.

Kernel, hyperprior and first guesses are those of `l2o.baselines.gp`. But every first guess is climbed from, for as many
steps as one likes, in double precision, which small noise needs.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from experiments.study.pieces import Arrays
from experiments.study.prediction.config import Surrogate
from l2o.baselines.gp import without_failures
from l2o.baselines.hyperparameters import centre, log_hyperprior, unpack
from l2o.gp import Posterior, Prior, log_likelihood

SCALES = (1.0, 0.3, 0.1, 0.03)  # length scales that the search begins at


class Numbers(NamedTuple):
    """A `Surrogate` as data, so that several are one program.

    Attributes:
      matern: 1 for the Matern-5/2 kernel, 0 for the squared exponential.
      noise_floor: least variance of the noise, as a part of that of the function.
      hyperprior: 1 for the posterior of the hyperparameters, 0 for their likelihood.
    """

    matern: Float[Array, ""] | float
    noise_floor: Float[Array, ""] | float
    hyperprior: Float[Array, ""] | float


def numbers(setting: Surrogate) -> Numbers:
    """Of a setting, all but the steps."""
    return Numbers(float(setting.kernel == "matern"), setting.noise_floor, float(setting.hyperprior))


def predictor(setting: Surrogate) -> Callable[[Arrays], Arrays]:
    """`rows -> {"mean": [n, s], "deviation": [n, s]}`, the normal distributions of the scaled values of n runs.

    Rows are a dict of the points in the unit cube "u" [n, t, d], which coordinates are "categories" [n, d], the scaled
    values "share" [n, s, t] that are known for each of s predictions, NaN where failed, and "step" [n, s]: which trial
    is predicted, counted from 1, given all before it. Failed trials count as the worst one, as in the baseline.
    """
    program = _program_of_fits(setting.fit_steps)

    def predicted(rows: Arrays) -> Arrays:
        with jax.enable_x64(True):
            u, share = (jnp.asarray(rows[name], jnp.float64) for name in ("u", "share"))
            how = jax.tree.map(jnp.float64, numbers(setting))
            found = program(how, u, rows["categories"], share, rows["step"])
            return {name: np.asarray(a) for name, a in found.items()}

    return predicted


@functools.cache
def _program_of_fits(fit_steps: int) -> Callable[..., dict[str, Array]]:
    def one(how, u: Float[Array, "t d"], categories: Bool[Array, "d"], share: Float[Array, "t"], step: Int[Array, ""]):
        used = jnp.arange(share.size) < step - 1
        y = without_failures(share, used)
        middle = jnp.sum(jnp.where(used, y, 0.0)) / (step - 1)
        scale = jnp.sqrt(jnp.sum(jnp.where(used, (y - middle) ** 2, 0.0)) / (step - 1))
        scale = jnp.maximum(scale, 1e-7)
        standard = jnp.where(used, (y - middle) / scale, 0.0)
        prior = fitted(how, fit_steps, u, standard, step - 1, categories)
        mean, variance = Posterior.fit(prior, u, standard, step - 1).predict(u[step - 1][None])
        return {"mean": middle + scale * mean[0], "deviation": scale * jnp.sqrt(variance[0] + prior.noise)}

    return jax.jit(jax.vmap(jax.vmap(one, (None, None, None, 0, 0)), (None, 0, 0, 0, 0)))


def fitted(
    how: Numbers, steps: int, x: Float[Array, "n d"], y: Float[Array, "n"], count: Int[Array, ""],
    categories: Bool[Array, "d"],
) -> Prior:  # fmt: skip
    """The most probable hyperparameters that Adam finds from several first guesses, for standardised values."""

    def within(raw: Prior) -> Prior:
        return raw._replace(
            length_scale=jnp.clip(raw.length_scale, math.log(0.01), math.log(100.0)),
            variance=jnp.clip(raw.variance, math.log(0.01), math.log(1000.0)),
            noise=jnp.clip(raw.noise, jnp.log(how.noise_floor), 0.0), matern=jnp.asarray(how.matern),
        )  # fmt: skip

    def probable(raw: Prior) -> Float[Array, ""]:
        prior = unpack(raw)._replace(categories=categories)
        return log_likelihood(prior, x, y, count) + how.hyperprior * log_hyperprior(raw)

    tx = optax.adam(optax.cosine_decay_schedule(0.1, steps, alpha=0.1), eps=1e-2)

    def climb(raw: Prior) -> Prior:
        def step(carry, _):
            raw, moments = carry
            gradient = jax.grad(lambda raw: -probable(raw))(raw)
            gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
            updates, moments = tx.update(gradient, moments)
            return (within(jax.tree.map(jnp.add, raw, updates)), moments), None

        begun = raw, tx.init(raw)  # pyright: ignore[reportArgumentType]
        return jax.lax.scan(step, begun, length=steps)[0][0]

    first = jax.tree.map(lambda *a: jnp.stack(a), *(within(centre(x.shape[1], scale)) for scale in SCALES))
    last = jax.vmap(climb)(first)
    both = jax.tree.map(lambda *a: jnp.concatenate(a), first, last)
    best = jnp.nanargmax(jax.vmap(probable)(both))
    return unpack(jax.tree.map(lambda a: a[best], both))._replace(categories=categories)
