"""Functions drawn from Gaussian process priors, by random Fourier features.

Rahimi and Recht, "Random features for large-scale kernel machines" (2007): a draw costs O(features) for an evaluation,
has derivatives, and thousands of them are one `vmap`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from l2o.core import Problem, Task
from l2o.gp import Prior
from l2o.registry import register
from l2o.space.domain import Space
from tasks.family import FamilyConfig, Split, TaskFamily

Kernel = Literal["squared_exponential", "matern52"]


@register
class GPConfig(FamilyConfig):
    """Draws from a GP prior of mean 0 and variance 1 on the unit cube, whose kernel and length scales are drawn too.

    Attributes:
      dimension: at least 1.
      length_scales: ends of their log-uniform distribution, in widths of the box.
      ard: each coordinate has a length scale of its own.
      kernels: each task draws one.
      features: random Fourier features; the covariance of draws is off by about 1 / sqrt(features).
      noise: standard deviation of the observations around the function.
      optimum: also look for each function's minimum, by projected gradient descent from many starts: info["f_opt"].
        For meta-losses that need it, good to about 0.01.
      reveal: tell the prior to the optimizer, in `problem.context`, for `gp_ei` with `prior = "given"`.
    """

    kind: Literal["gp"] = "gp"
    dimension: int = Field(default=2, ge=1, le=100)
    length_scales: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        default=(0.2, 1.0), strict=False
    )
    ard: bool = True
    kernels: tuple[Kernel, ...] = Field(default=("squared_exponential", "matern52"), min_length=1, strict=False)
    features: int = Field(default=256, ge=1)
    noise: float = Field(default=0.0, ge=0)
    optimum: bool = False
    reveal: bool = False

    @model_validator(mode="after")
    def _check(self):
        low, high = self.length_scales
        if low > high:
            raise ValueError(f"length_scales must not decrease, found {low} and {high}")
        return self

    def build(self, split: Split = "train") -> "GP":
        """The family; both splits draw new functions every time, so they are the same distribution."""
        del split
        return GP(self)


class Draw(NamedTuple):
    """A function `sqrt(2 / m) sum_j weight_j cos(frequency_j u + phase_j)` and the prior it comes from.

    Attributes:
      frequency, phase, weight: of m features.
      prior: with the noise of the observations.
      minimum: what was found of it, or NaN.
    """

    frequency: Float[Array, "m d"]
    phase: Float[Array, "m"]
    weight: Float[Array, "m"]
    prior: Prior
    minimum: Float[Array, ""]

    def value(self, u: Float[Array, "d"]) -> Float[Array, ""]:
        """The function at a point of the unit cube."""
        features = jnp.cos(self.frequency @ u + self.phase)
        return jnp.sqrt(2.0 / self.phase.shape[0]) * (features @ self.weight)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GP(TaskFamily):
    """The family of `GPConfig`. A task's parameters are a `Draw`."""

    config: GPConfig = field(metadata={"static": True})

    def sample(self, key):
        c, (d, m) = self.config, (self.config.dimension, self.config.features)
        kernel_key, scale_key, normal_key, mix_key, phase_key, weight_key, start_key = jax.random.split(key, 7)
        names = jnp.array([float(kernel == "matern52") for kernel in c.kernels])
        matern = jax.random.choice(kernel_key, names)
        low, high = (jnp.log(end) for end in c.length_scales)
        drawn = jax.random.uniform(scale_key, (d if c.ard else 1,))
        scales = jnp.broadcast_to(jnp.exp(low + (high - low) * drawn), (d,))
        # the spectral density of Matern-5/2 is a t distribution of 5 degrees of freedom: a normal over a random scale
        stretch = jnp.sqrt(jnp.where(matern > 0, 5 / (2 * jax.random.gamma(mix_key, 2.5, (m,))), 1.0))
        frequency = jax.random.normal(normal_key, (m, d)) * stretch[:, None] / scales[None]
        phase = 2 * jnp.pi * jax.random.uniform(phase_key, (m,))
        prior = Prior(scales, jnp.ones(()), jnp.full((), max(c.noise**2, 1e-6)), jnp.zeros(()), matern)
        draw = Draw(frequency, phase, jax.random.normal(weight_key, (m,)), prior, jnp.full((), jnp.nan))
        return draw._replace(minimum=lowest(draw, start_key)) if c.optimum else draw

    def task(self, params):
        c, d = self.config, self.config.dimension

        def loss(key, u):
            value = params.value(u)
            return value + c.noise * jax.random.normal(key) if c.noise else value

        problem = Problem(
            Space.box(jnp.zeros(d), jnp.ones(d)), jnp.full(d, 0.5), 0.3, context=params.prior if c.reveal else None
        )
        info = {"prior": params.prior, "value": params.value}
        return Task.from_loss(loss, problem, info=info | ({"f_opt": params.minimum} if c.optimum else {}))


def lowest(draw: Draw, key: jax.Array, candidates: int = 512, starts: int = 16, steps: int = 40) -> Float[Array, ""]:
    """About the lowest value in the cube: projected gradient descent from the best of many random points."""
    u = jax.random.uniform(key, (candidates, draw.frequency.shape[1]))
    values = jax.vmap(draw.value)(u)
    u = u[jax.lax.top_k(-values, starts)[1]]
    slope = jax.vmap(jax.grad(draw.value))

    def descend(u, rate):
        direction = slope(u)
        norm = jnp.linalg.norm(direction, axis=1, keepdims=True)
        return jnp.clip(u - rate * direction / jnp.maximum(norm, 1.0), 0.0, 1.0), None

    rates = 0.05 * 0.5 * (1 + jnp.cos(jnp.pi * jnp.arange(steps) / steps))
    u, _ = jax.lax.scan(descend, u, rates)
    return jnp.minimum(jax.vmap(draw.value)(u).min(), values.min())
