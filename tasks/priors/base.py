"""Priors over black-box functions: what a network learns to predict or to optimize from, by examples alone.

Müller et al., "Transformers can do Bayesian inference" (2022) and "PFNs4BO: In-context learning for Bayesian
optimization" (2023). A prior is one file with a config, which draws a function and evaluates it at a point. What they
have in common is here: kinds of parameters, parameters without an effect, units, noise, and the tasks made of them.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field, model_validator

from l2o.core import Evaluation, Problem, Task, population_size
from l2o.space.domain import LINEAR, Space
from tasks.family import FamilyConfig, Split, TaskFamily

SAMPLES = 64  # points that the units of a function are estimated from
FLAT = 1e-3  # standard deviation of a function that is left in its own units

Chance = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Function = Any  # what distinguishes one function from another: a pytree of arrays


class PriorConfig(FamilyConfig):
    """A prior over functions on the unit cube: a subclass says how one is drawn, and what its value is.

    Functions are told in units of their own, in which the values over the space have about the mean 0 and the standard
    deviation 1, so that noise means the same everywhere. Their minima are not known.

    Attributes:
      dimension: at least 1.
      weights: of real, discrete and categorical among the kinds of a parameter, in this order, as in `bbob_mixed`.
      levels: fewest and most values of a discrete or categorical parameter; the former lie evenly from end to end.
      unused: chance of a parameter to have no effect; one of them always may have one.
      noise: ends of the log-uniform distribution of its standard deviation, in units of the function.
      noiseless: chance that a function is told without noise.
      scale: initial step size that an optimizer is told, in widths of the space.
    """

    dimension: int = Field(default=2, ge=1, le=100)
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(1.0, 0.0, 0.0), min_length=3, max_length=3, strict=False
    )
    levels: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = Field(
        default=(2, 8), min_length=2, max_length=2, strict=False
    )
    unused: Chance = 0.2
    noise: tuple[Positive, Positive] = Field(default=(1e-3, 0.3), strict=False)
    noiseless: Chance = 0.5
    scale: float = Field(default=0.2, gt=0)

    @model_validator(mode="after")
    def _check_ranges(self):
        if not sum(self.weights):
            raise ValueError(f"weights: found {list(self.weights)}, expected one that is positive")
        for name in ("levels", "noise"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: found {[low, high]}, expected the lower end first")
        return self

    @property
    def slots(self) -> int:
        """Coordinates of a point for each parameter: as many as a category may have values, else 1."""
        return self.levels[1] if self.weights[2] else 1

    @property
    def size(self) -> int:
        """Coordinates of a point as `value` is given it, see `Inputs.encode`."""
        return self.dimension * self.slots

    def draw(self, key: PRNGKeyArray) -> Function:
        """What distinguishes one function from another. All draws have the same shapes."""
        raise TypeError(f"{type(self).__name__} does not define draw()")

    def value(self, function: Function, z: Float[Array, "size"]) -> Float[Array, ""]:
        """The function at a point, in any units; NaN where an evaluation fails."""
        raise TypeError(f"{type(self).__name__} does not define value()")

    def transform(self, function: Function, y: Float[Array, ""]) -> Float[Array, ""]:
        """What is told for a value with its noise, both in units of the function; not decreasing."""
        del function
        return y

    def loudness(self, function: Function, z: Float[Array, "size"]) -> Float[Array, ""]:
        """A factor of the noise at a point."""
        del function, z
        return jnp.ones(())

    def build(self, split: Split = "train") -> "PriorFamily":
        """The family; both splits draw new functions every time, so they are the same distribution."""
        del split
        return PriorFamily(self)


class Inputs(NamedTuple):
    """The parameters of a function.

    Attributes:
      levels: number of values of each, 0 for a real one.
      ordered: False for categories.
      slot: the slot of each category, in random order, so that none is a special one.
      used: False for those without an effect.
    """

    levels: Int[Array, "d"]
    ordered: Bool[Array, "d"]
    slot: Int[Array, "d slots"]
    used: Bool[Array, "d"]

    @property
    def space(self) -> Space:
        """Where the points lie: real numbers from 0 to 1, and indices of values."""
        high = jnp.where(self.levels == 0, 1.0, self.levels - 1.0)
        return Space.mixed(jnp.zeros_like(high), high, self.levels, jnp.full(high.shape, LINEAR), self.ordered)

    def encode(self, x: Float[Array, "d"]) -> Float[Array, "size"]:
        """A point in coordinates in which distances mean something, all in [0, 1]: `slots` for each parameter.

        A number has its place between the ends in the first slot and 0 in the others, a category has 1 in its own
        slot alone. What has no effect is always in the middle.
        """
        slots = jnp.arange(self.slot.shape[1])[None]
        index = jnp.clip(jnp.round(x), 0, slots.size - 1).astype(jnp.int32)
        category = slots == jnp.take_along_axis(self.slot, index[:, None], 1)
        place = jnp.where(self.levels > 0, x / jnp.maximum(self.levels - 1, 1), x)
        number = jnp.where(slots == 0, jnp.where(self.used, place, 0.5)[:, None], 0.0)
        return jnp.where((self.ordered | ~self.used)[:, None], number, category).reshape(-1)


class PriorParams(NamedTuple):
    """One task.

    Attributes:
      inputs: its parameters.
      function: as it was drawn.
      centre, unit: about the mean and the standard deviation of the function over the space.
      noise: standard deviation, in units of the function.
    """

    inputs: Inputs
    function: Function
    centre: Float[Array, ""]
    unit: Float[Array, ""]
    noise: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PriorFamily(TaskFamily):
    """The family of a `PriorConfig`; values alone, without gradients. A judge sees them without noise."""

    config: PriorConfig = field(metadata={"static": True})

    def sample(self, key):
        c = self.config
        inputs_key, function_key, numbers_key = jax.random.split(key, 3)
        inputs, function = draw_inputs(c, inputs_key), c.draw(function_key)
        places, quiet, level = uniforms(numbers_key, (SAMPLES, c.dimension), (), ())
        points = jax.vmap(inputs.space.from_unit)(places)
        values = jax.vmap(lambda x: c.value(function, inputs.encode(x)))(points)
        values = jnp.where(jnp.isfinite(values), values, jnp.nan)
        centre, unit = jnp.nan_to_num(jnp.nanmean(values)), jnp.nanstd(values)
        unit = jnp.where(unit > FLAT, unit, 1.0)  # also where nothing has a value
        return PriorParams(inputs, function, centre, unit, jnp.where(quiet < c.noiseless, 0.0, ratio(level, c.noise)))

    def task(self, params):
        c, d, (inputs, function, centre, unit, _) = self.config, self.config.dimension, params
        box = Space.box(jnp.zeros(d), jnp.ones(d))
        space = inputs.space if sum(c.weights[1:]) else box

        def in_units(z):
            return (c.value(function, z) - centre) / unit

        def value(x):
            return c.transform(function, in_units(inputs.encode(x)))

        def evaluate(key, x):
            def told(x, normal):
                z = inputs.encode(x)
                y = in_units(z)
                noisy = y + params.noise * c.loudness(function, z) * normal
                return c.transform(function, noisy), c.transform(function, y)

            found, judged = jax.vmap(told)(x, jax.random.normal(key, (population_size(x),)))
            return Evaluation(found, judged=judged)

        return Task(Problem(space, space.from_unit(jnp.full(d, 0.5)), c.scale), evaluate, info={"value": value})


def draw_inputs(config: PriorConfig, key: PRNGKeyArray) -> Inputs:
    """Kinds and numbers of values of the parameters, and which of them have an effect."""
    d, (low, high) = config.dimension, config.levels
    kinds, counts, order, effects, one = uniforms(key, (d,), (d,), (d, config.slots), (d,), ())
    kind = chosen(kinds, jnp.asarray(config.weights))
    levels = jnp.where(kind == 0, 0, whole(counts, low, high))
    used = (effects >= config.unused) | (jnp.arange(d) == whole(one, 0, d - 1))
    return Inputs(levels, kind != 2, jnp.argsort(order, axis=1), used)


def uniforms(key: PRNGKeyArray, *shapes: tuple[int, ...]) -> tuple[Array, ...]:
    """Arrays of numbers from 0 to 1, from one call of the generator: each one more takes about a second to compile."""
    return _shaped(jax.random.uniform(key, (_size(shapes),)), shapes)


def normals(key: PRNGKeyArray, *shapes: tuple[int, ...]) -> tuple[Array, ...]:
    """Arrays of standard normal numbers, likewise."""
    return _shaped(jax.random.normal(key, (_size(shapes),)), shapes)


def ratio(uniform: Float[Array, "*n"], ends: tuple[float | int, float | int]) -> Float[Array, "*n"]:
    """Numbers between two positive ends, whose logarithms are uniformly distributed."""
    low, high = map(math.log, ends)
    return jnp.exp(low + (high - low) * uniform)


def whole(uniform: Float[Array, "*n"], low: int, high: int) -> Int[Array, "*n"]:
    """Whole numbers from `low` to `high`, all with the same chance."""
    return jnp.minimum(low + jnp.floor(uniform * (high - low + 1)), high).astype(jnp.int32)


def chosen(uniform: Float[Array, "*n"], weights: Float[Array, "k"]) -> Int[Array, "*n"]:
    """Indices of weights, which are in proportion to their chances."""
    ends = jnp.cumsum(weights / jnp.sum(weights))[:-1]
    return jnp.sum(uniform[..., None] >= ends.reshape((1,) * uniform.ndim + (-1,)), -1)


def _size(shapes):
    return sum(map(math.prod, shapes))


def _shaped(numbers, shapes):
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return tuple(part.reshape(shape) for part, shape in zip(jnp.split(numbers, ends[:-1]), shapes, strict=True))
