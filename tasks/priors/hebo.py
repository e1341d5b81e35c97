"""Gaussian processes of warped inputs and outputs: the prior of HEBO, as a generator.

Cowen-Rivers et al., "HEBO: pushing the limits of sample-efficient hyperparameter optimisation" (2022), in the form of
Müller et al., "PFNs4BO" (2023, HEBO+). What HEBO undoes, is done here: inputs go through the distribution function of
Kumaraswamy (1980), outputs through the inverse of a power transform, with more noise in some places than in others.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.registry import register
from tasks.priors.base import Function, Positive, normals
from tasks.priors.gp import GPPriorConfig

TINY = 1e-10  # below which a power is 0, as its slope would not be finite


@register
class HEBOPriorConfig(GPPriorConfig):
    """What `gp_prior` draws, with inputs and outputs bent and uneven noise.

    Median and spread of the length scales are about those of the gamma distribution of PFNs4BO. Outputs are bent by the
    transform of Jones and Pewsey (2009), `sinh((arcsinh(y) + skew) / tail)`, so that its slope is 1 at 0.

    Attributes:
      warp: standard deviation of the logarithms of the two exponents of each parameter's `1 - (1 - u^a)^b`.
      skew: mean and standard deviation of the skewness; positive stretches bad values.
      tails: standard deviation of the logarithm of `tail`; below 1, extreme values are more extreme.
      uneven: standard deviation of the logarithm of the noise between two corners.
    """

    kind: Literal["hebo_prior"] = "hebo_prior"
    length_scale: Positive = 0.5
    spread: float = Field(default=1.1, ge=0)
    warp: float = Field(default=0.75, ge=0, le=3)
    skew: tuple[float, float] = Field(default=(0.3, 0.5), strict=False)
    tails: float = Field(default=0.3, ge=0, le=1)
    uneven: float = Field(default=1.0, ge=0, le=5)

    def draw(self, key) -> Function:
        waves_key, normal_key = jax.random.split(key)
        exponents, skew, tail, tilt = normals(normal_key, (2, self.dimension), (), (), (self.size,))
        mean, deviation = self.skew
        skew, tail = mean + deviation * skew, jnp.exp(self.tails * tail)
        tilt = self.uneven * self.dimension**-0.5 * tilt
        return Warped(super().draw(waves_key), jnp.exp(self.warp * exponents), skew, tail, tilt)

    def value(self, function, z):
        (inner, outer), slots = function.exponents, z.reshape(self.dimension, self.slots)
        first = 1 - power(1 - power(slots[:, 0], inner), outer)  # the others have nothing but 0 and 1, which stay
        return super().value(function.waves, jnp.concatenate([first[:, None], slots[:, 1:]], 1).reshape(-1))

    def transform(self, function, y):
        skew, tail = function.skew, function.tail
        bent = jnp.sinh((jnp.arcsinh(y) + skew) / tail) - jnp.sinh(skew / tail)
        return bent * tail / jnp.cosh(skew / tail)

    def loudness(self, function, z):
        return jnp.exp(function.tilt @ (z - 0.5))


class Warped(NamedTuple):
    """A function of `HEBOPriorConfig`.

    Attributes:
      waves: the process, a `tasks.priors.gp.Waves`.
      exponents: a and b of each parameter.
      skew, tail: of the outputs.
      tilt: slope of the logarithm of the noise.
    """

    waves: Any
    exponents: Float[Array, "2 d"]
    skew: Float[Array, ""]
    tail: Float[Array, ""]
    tilt: Float[Array, "size"]


def power(base: Float[Array, "*n"], exponent: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`base ** exponent` for bases in [0, 1], with finite slopes."""
    positive = base > TINY
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, 0.0)
