"""BBOB functions over mixed spaces: what studies of black-box optimizers are recorded on.

After Chen et al., "Towards Learning Universal Hyperparameter Optimizers with Transformers" (2022, appendix on data):
random functions, dimensions, rotations and shifts (the shift is an instance's `offset`, in [-4, 4] on [-5, 5]), kinds
of parameters and noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from l2o.core import Evaluation, Problem, Task, population_size
from l2o.registry import register
from l2o.space.domain import LINEAR, Space
from tasks.bbob.bbob import FunctionName, draw, noise
from tasks.bbob.functions import FUNCTIONS, Instance
from tasks.family import FamilyConfig, Split, TaskFamily
from tasks.mixture import Mixture

HELD_OUT = ("linear_slope", "rosenbrock_rotated", "different_powers", "griewank_rosenbrock", "lunacek")
UNUSED = ("rosenbrock", "ellipsoid_rotated", "rastrigin_rotated")  # too like some of the others
TRAIN = tuple(name for name in FUNCTIONS if name not in HELD_OUT + UNUSED)

Blur = Callable[[Array, Float[Array, ""], Float[Array, ""]], Float[Array, ""]]
Noise = Literal[
    "none", "gaussian_moderate", "gaussian_severe", "uniform_moderate", "uniform_severe", "cauchy_moderate",
    "cauchy_severe", "additive_weak", "additive_moderate", "additive_strong",
]  # fmt: skip
NOISES: tuple[Noise, ...] = Noise.__args__  # pyright: ignore[reportAttributeAccessIssue]
ADDITIVE = {"additive_weak": 0.01, "additive_moderate": 0.1, "additive_strong": 0.3}  # in multiples of the spread
SAMPLES = 64  # points that the spread of a function is estimated from


@register
class BBOBMixedConfig(FamilyConfig):
    """BBOB functions whose parameters are real numbers, values of a list, or categories; often with noise.

    The values of a discrete or categorical parameter lie evenly on [-5, 5], its ends among them; which category lies
    where is random. The minimum of the function need not be one of the points, so 0 is a bound of the values only.

    Attributes:
      functions: names in `tasks.bbob.functions`; by default those kept for training, `TRAIN`.
      dimensions: each at least 1; for 1, it is the first coordinate of the function of two, the other at its optimum.
      weights: of real, discrete and categorical among the kinds of a parameter, in this order.
      levels: fewest and most values of a discrete or categorical parameter.
      noises: the models that each task draws one of: those of BBOB's noisy testbed, see `tasks.bbob.bbob.noise`, and
        normal noise of 0.01, 0.1 or 0.3 times the standard deviation of the values over the space.
      scale: initial step size that an optimizer is told, in widths of the space.
    """

    kind: Literal["bbob_mixed"] = "bbob_mixed"
    functions: tuple[FunctionName, ...] = Field(default=TRAIN, min_length=1, strict=False)
    dimensions: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(default=(2,), min_length=1, strict=False)
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(1.0, 1.0, 1.0), min_length=3, max_length=3, strict=False
    )
    levels: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = Field(
        default=(2, 8), min_length=2, max_length=2, strict=False
    )
    noises: tuple[Noise, ...] = Field(default=NOISES, min_length=1, strict=False)
    scale: float = Field(default=0.2, gt=0)

    @model_validator(mode="after")
    def _check(self):
        if not sum(self.weights):
            raise ValueError(f"weights: found {list(self.weights)}, expected one that is positive")
        if self.levels[0] > self.levels[1]:
            raise ValueError(f"levels: found {list(self.levels)}, expected the fewest and then the most")
        return self

    def build(self, split: Split = "train") -> TaskFamily:
        """The family; both splits draw new instances every time, so they are the same distribution.

        Its parts are one `BBOBMixed` for each dimension and function, dimension by dimension.
        """
        del split
        parts = tuple(BBOBMixed(self, (name,), d, np.int32(0)) for d in self.dimensions for name in self.functions)
        return parts[0] if len(parts) == 1 else Mixture(parts)

    def indexed(self) -> dict[int, tuple["BBOBMixed", ...]]:
        """Families by dimension as in `BBOBConfig.indexed`, one for each function, all of which are one program."""
        every = range(len(self.functions))
        return {d: tuple(BBOBMixed(self, self.functions, d, np.int32(i)) for i in every) for d in self.dimensions}


class BBOBMixedParams(NamedTuple):
    """One task.

    Attributes:
      instance: of the function, in max(d, 2) dimensions.
      rest: coordinates of the function that are no parameters.
      levels: number of values of each parameter, 0 for a real one.
      ordered: False for categories.
      places: where the values lie on [-5, 5].
      noise: index in the config's `noises`.
      spread: standard deviation of the function over the space; 1 where no noise reads it.
    """

    instance: Instance
    rest: Float[Array, "r"]
    levels: Int[Array, "d"]
    ordered: Bool[Array, "d"]
    places: Float[Array, "d most"]
    noise: Int[Array, ""]
    spread: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BBOBMixed(TaskFamily):
    """One function in one dimension, see `BBOBMixedConfig`: `functions[index]`."""

    config: BBOBMixedConfig = field(metadata={"static": True})
    functions: tuple[str, ...] = field(metadata={"static": True})
    dimension: int = field(metadata={"static": True})
    index: Any  # an integer; no type, because trees are also made of other things than arrays

    @property
    def origin(self) -> str:
        """Number and name of the function; only where the index is a number."""
        name = self.functions[int(self.index)]
        return f"f{list(FUNCTIONS).index(name) + 1}_{name}"

    def sample(self, key):
        c, d = self.config, self.dimension
        instance_key, kind_key, levels_key, order_key, noise_key, spread_key = jax.random.split(key, 6)
        peaks = [FUNCTIONS[name].peaks for name in self.functions]
        instance = draw(instance_key, max(d, 2), jnp.asarray(peaks)[self.index], max(peaks))
        optimum = jax.lax.switch(self.index, [FUNCTIONS[name].optimum for name in self.functions], instance)
        chances = jnp.asarray(c.weights) / sum(c.weights)
        kind = jax.random.choice(kind_key, 3, (d,), p=chances)
        low, high = c.levels
        levels = jnp.where(kind == 0, 0, jax.random.randint(levels_key, (d,), low, high + 1))
        # the first `levels` of each row are a permutation of them; the rest is never read
        index = jnp.arange(high)[None]
        shuffled = jax.random.uniform(order_key, (d, high)) + jnp.where(index < levels[:, None], 0.0, 2.0)
        order = jnp.where((kind == 2)[:, None], jnp.argsort(shuffled), index)
        places = -5.0 + 10.0 * order / jnp.maximum(levels - 1, 1)[:, None]
        number = jax.random.randint(noise_key, (), 0, len(c.noises))
        params = BBOBMixedParams(instance, optimum[d:], levels, kind != 2, places, number, jnp.ones(()))
        if not set(c.noises) & set(ADDITIVE):
            return params
        points = jax.vmap(_space(params).sample)(jax.random.split(spread_key, SAMPLES))
        return params._replace(spread=jnp.std(jax.vmap(lambda x: self._value(params, x))(points)))

    def _value(self, params: BBOBMixedParams, x: Float[Array, "d"]) -> Float[Array, ""]:
        index = jnp.clip(jnp.round(x), 0, params.places.shape[1] - 1).astype(jnp.int32)
        listed = jnp.take_along_axis(params.places, index[:, None], 1)[:, 0]
        point = jnp.concatenate([jnp.where(params.levels > 0, listed, x), params.rest])
        return jax.lax.switch(self.index, [FUNCTIONS[name].value for name in self.functions], point, params.instance)

    def task(self, params):
        c, d, f_opt = self.config, self.dimension, params.instance.f_opt
        blurs = [_blur(name, d) for name in c.noises]

        def told(key, found):
            # raw, because under vmap every model is given the key, which JAX's checker takes for reuse
            data = jax.random.key_data(key)
            return f_opt + jax.lax.switch(params.noise, blurs, data, found - f_opt, params.spread)

        def evaluate(key, x):
            found = jax.vmap(lambda x: self._value(params, x))(x)
            return Evaluation(jax.vmap(told)(jax.random.split(key, population_size(x)), found), judged=found)

        space = _space(params)
        return Task(Problem(space, space.from_unit(jnp.full(d, 0.5)), c.scale), evaluate, info={"f_opt": f_opt})


def _space(params: BBOBMixedParams) -> Space:
    real = params.levels == 0
    low, high = jnp.where(real, -5.0, 0.0), jnp.where(real, 5.0, params.levels - 1.0)
    return Space.mixed(low, high, params.levels, jnp.full(params.levels.shape, LINEAR), params.ordered)


def _blur(name: Noise, dimension: int) -> Blur:
    """`(data of a key, value above the minimum, spread) -> value that is told`."""
    wrap = jax.random.wrap_key_data
    if name in ADDITIVE:
        return lambda data, value, spread: value + ADDITIVE[name] * spread * jax.random.normal(wrap(data))
    kind, _, severity = name.partition("_")
    model = noise(kind, severity, dimension)
    return lambda data, value, spread: model(wrap(data), value)
