"""Gaussian processes whose hyperparameters are drawn, too, over spaces of all kinds.

Length scales as Hvarfner, Hellsten and Nardi, "Vanilla Bayesian optimization performs great in high dimensions" (2024)
believe them to be; sums over few parameters as Duvenaud, Nickisch and Rasmussen, "Additive Gaussian processes" (2011).
Draws are by random Fourier features, as in `tasks.gp`.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.registry import register
from tasks.priors.base import Chance, Function, Positive, PriorConfig, normals, uniforms, whole

Kernel = Literal["squared_exponential", "matern12", "matern32", "matern52"]
# The spectral density of a Matern kernel is a t distribution of twice its smoothness degrees of freedom: that of a
# normal vector that is stretched by sqrt(freedom / chi^2).
FREEDOM: dict[Kernel, int] = {"squared_exponential": 0, "matern12": 1, "matern32": 3, "matern52": 5}
TAIL = {"squared_exponential": 2.0, "matern12": 300.0, "matern32": 20.0, "matern52": 6.0}  # stretches beyond are rare
LOG_GAMMA = {name: math.lgamma(freedom / 2) if freedom else 0.0 for name, freedom in FREEDOM.items()}
FASTEST = 1e3  # of the frequencies, in radians; faster waves lose their phase in single precision


@register
class GPPriorConfig(PriorConfig):
    """Gaussian processes of variance 1 with drawn kernels and length scales, and trends and periods now and then.

    Two categories are sqrt(2) apart, in the units of the length scales.

    Attributes:
      kernels: each function draws one.
      length_scale: the median of a single parameter's, in widths of the space; of d parameters, sqrt(d) times as long.
        Hvarfner et al. and BoTorch have exp(sqrt(2)) and the same spread, as a belief whose mode is short; most of what
        is drawn with that median is a straight line.
      spread: standard deviation of the logarithms of length scales.
      shared: part of their variance that all parameters of a function have in common.
      additive: chance that a function is a sum of functions of few parameters, from one to half of them.
      linear: chance of a linear trend besides.
      periodic: chance of a parameter to have a period, of 0.2 to 1.
      features: random Fourier features; the covariance of draws is off by about 1 / sqrt(features).
    """

    kind: Literal["gp_prior"] = "gp_prior"
    kernels: tuple[Kernel, ...] = Field(default=tuple(FREEDOM), min_length=1, strict=False)
    length_scale: Positive = 1.0
    spread: float = Field(default=3**0.5, ge=0)
    shared: Chance = 0.3
    additive: Chance = 0.3
    linear: Chance = 0.2
    periodic: Chance = 0.03
    features: int = Field(default=256, ge=1)

    def draw(self, key) -> Function:
        m, d, slots = self.features, self.dimension, self.slots
        normal_key, uniform_key = jax.random.split(key)
        wave, squares, weight, own, common, slope, steepness = normals(
            normal_key, (m, d, slots), (m, 5), (m,), (d,), (), (d, slots), ()
        )
        kernel, tail, phase, has_period, period, additive, share, one, others, has_trend = uniforms(
            uniform_key, (), (m,), (m,), (d,), (d,), (), (), (m,), (m, d), ()
        )
        has_period, period = has_period < self.periodic, 0.2**period
        scale = math.sqrt(1 - self.shared) * own + math.sqrt(self.shared) * common
        scale = self.length_scale * math.sqrt(d) * jnp.exp(self.spread * scale)
        scale = jnp.where(has_period, jnp.minimum(scale, 0.5 * period), scale)

        stretch, importance = self._spectrum(whole(kernel, 0, len(self.kernels) - 1), squares**2, tail)
        wave = wave * (stretch[:, None] / scale[None])[:, :, None]
        # whole numbers of waves in a period: the spectrum of the kernel that is summed over all periods
        step = (2 * jnp.pi / period)[None, :, None]
        wave = jnp.where(has_period[None, :, None], jnp.round(wave / step) * step, wave)
        # each feature reads one parameter, and others by chance
        share = jnp.where(additive < self.additive, 0.5 * share, 1.0)
        reads = (others < share) | (whole(one, 0, d - 1)[:, None] == jnp.arange(d)[None])
        wave = jnp.where(reads[:, :, None], jnp.clip(wave, -FASTEST, FASTEST), 0.0)

        slope = jnp.exp(steepness) * slope / (scale * jnp.linalg.norm(1 / scale))[:, None]
        slope = jnp.where(has_trend < self.linear, slope, 0.0)
        return Waves(wave.reshape(m, -1), 2 * jnp.pi * phase, math.sqrt(2 / m) * importance * weight, slope.reshape(-1))

    def value(self, function, z):
        turns = jnp.matmul(function.frequency, z, precision="highest")  # some are long
        return jnp.cos(turns + function.phase) @ function.weight + function.slope @ z

    def _spectrum(self, kernel, squares, tail):
        """How far each feature's frequency is stretched, and its weight in the covariance's root.

        Of a rough kernel a draw would have few frequencies of the tail, and each would be seen as a tone. So every
        other feature comes from there, and weighs less by as much as it is more likely to be drawn.
        """
        k, end, log_gamma = (
            jnp.array([entry[name] for name in self.kernels])[kernel] for entry in (FREEDOM, TAIL, LOG_GAMMA)
        )
        square = jnp.sum(jnp.where(jnp.arange(5)[None] < k, squares, 0.0), 1) + 1e-12
        drawn = jnp.sqrt(k / square)
        stretch = jnp.where(jnp.arange(self.features) % 2 == 0, drawn, end**tail)
        # densities of the logarithm of the stretch
        square = k / stretch**2
        density = jnp.exp(0.5 * k * jnp.log(square) - 0.5 * square - 0.5 * k * math.log(2) - log_gamma + math.log(2))
        uniform = jnp.where((stretch >= 1) & (stretch <= end), 1 / jnp.log(end), 0.0)
        importance = jnp.sqrt(2 * density / (density + uniform))
        return jnp.where(k > 0, stretch, 1.0), jnp.where(k > 0, importance, 1.0)


class Waves(NamedTuple):
    """A function `sum_j weight_j cos(frequency_j z + phase_j) + slope z`.

    Attributes:
      frequency, phase, weight: of m features.
      slope: of the trend.
    """

    frequency: Float[Array, "m size"]
    phase: Float[Array, "m"]
    weight: Float[Array, "m"]
    slope: Float[Array, "size"]
