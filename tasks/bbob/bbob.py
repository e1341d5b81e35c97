"""The BBOB functions as families of tasks: random instances, starts and scales, with or without noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import AfterValidator, Field, model_validator

from l2o.core import Evaluation, Problem, Task, population_size
from l2o.registry import nearest, register
from l2o.space.domain import Space
from tasks.bbob.functions import FUNCTIONS, Instance
from tasks.family import FamilyConfig, Split, TaskFamily
from tasks.mixture import Mixture

Noise = Callable[[PRNGKeyArray, Float[Array, ""]], Float[Array, ""]]
NOISELESS = 1e-8  # values below this are told as they are


def _known(name: str) -> str:
    if name not in FUNCTIONS:
        hint = nearest(name, list(FUNCTIONS))
        raise ValueError(f"unknown function {name!r}{hint}, expected one of {', '.join(FUNCTIONS)}")
    return name


FunctionName = Annotated[str, AfterValidator(_known)]


@register
class BBOBConfig(FamilyConfig):
    """The 24 functions of BBOB in several dimensions, as many tasks of each function in each dimension.

    Instances are as in BBOB, but drawn from JAX's random numbers, and all minima are 0.

    Attributes:
      functions: names in `tasks.bbob.functions`; all by default.
      dimensions: each at least 2.
      start: "uniform" on [-4, 4] in each coordinate, as are the minima of most functions, or "zero", the middle.
      scale: initial standard deviation, in the coordinates of the functions, whose domain is [-5, 5].
      scale_low: where given, each task draws its scale, log-uniform between this and `scale`.
      bounded: the space is the box [-5, 5]^d instead of a free one; the problem's scale is then in widths of the box.
      noise: of the evaluations, multiplicative ("gaussian", "uniform") or with rare outliers ("cauchy", which also adds
        1000 times 0.01 or 1 to every value), see `noise`. A meta-loss is given the values without noise.
      severity: of the noise.
      gradients: tell the optimizer the gradients, too.
    """

    kind: Literal["bbob"] = "bbob"
    functions: tuple[FunctionName, ...] = Field(default=tuple(FUNCTIONS), min_length=1, strict=False)
    dimensions: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = Field(default=(10,), min_length=1, strict=False)
    start: Literal["uniform", "zero"] = "uniform"
    scale: float = Field(default=2.0, gt=0)
    scale_low: float | None = Field(default=None, gt=0)
    bounded: bool = False
    noise: Literal["none", "gaussian", "uniform", "cauchy"] = "none"
    severity: Literal["moderate", "severe"] = "moderate"
    gradients: bool = False

    @model_validator(mode="after")
    def _check(self):
        if self.scale_low is not None and self.scale_low > self.scale:
            raise ValueError(f"scale_low must be at most scale, found {self.scale_low} and {self.scale}")
        return self

    def build(self, split: Split = "train") -> TaskFamily:
        """The family; both splits draw new instances every time, so they are the same distribution.

        Its parts are one `BBOB` for each dimension and function, dimension by dimension, each a program of its own.
        """
        del split
        parts = tuple(BBOB(self, (name,), d, np.int32(0)) for d in self.dimensions for name in self.functions)
        return parts[0] if len(parts) == 1 else Mixture(parts)

    def indexed(self) -> dict[int, tuple["BBOB", ...]]:
        """Families by dimension, one for each function, which differ in data alone.

        One compiled program that takes the family as an argument serves all of them. Never vmap over the families: that
        evaluates all functions for each.
        """
        every = range(len(self.functions))
        return {d: tuple(BBOB(self, self.functions, d, np.int32(i)) for i in every) for d in self.dimensions}


class BBOBParams(NamedTuple):
    """One task.

    Attributes:
      instance: of the function.
      start: in the coordinates of the function.
      scale: likewise.
    """

    instance: Instance
    start: Float[Array, "d"]
    scale: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BBOB(TaskFamily):
    """One function in one dimension, see `BBOBConfig`: `functions[index]`."""

    config: BBOBConfig = field(metadata={"static": True})
    functions: tuple[str, ...] = field(metadata={"static": True})
    dimension: int = field(metadata={"static": True})
    index: Any  # an integer; no type, because trees are also made of other things than arrays

    def sample(self, key):
        c, d = self.config, self.dimension
        instance_key, start_key, scale_key = jax.random.split(key, 3)
        peaks = [FUNCTIONS[name].peaks for name in self.functions]
        instance = draw(instance_key, d, jnp.asarray(peaks)[self.index], max(peaks))
        start = jax.random.uniform(start_key, (d,), minval=-4.0, maxval=4.0) if c.start == "uniform" else jnp.zeros(d)
        low, high = math.log(c.scale_low or c.scale), math.log(c.scale)
        return BBOBParams(instance, start, jnp.exp(low + (high - low) * jax.random.uniform(scale_key)))

    def task(self, params):
        c, d, instance = self.config, self.dimension, params.instance
        functions = [FUNCTIONS[name] for name in self.functions]
        blur = noise(c.noise, c.severity, d)

        def value(x):
            return jax.lax.switch(self.index, [f.value for f in functions], x, instance)

        def told(key, found):
            return instance.f_opt + blur(key, found - instance.f_opt)

        def evaluate(key, x):
            found = jax.vmap(value)(x)
            if c.noise == "none":
                return Evaluation(found)
            return Evaluation(jax.vmap(told)(jax.random.split(key, population_size(x)), found), judged=found)

        space, scale = Space.free(), params.scale
        if c.bounded:
            space, scale = Space.box(jnp.full(d, -5.0), jnp.full(d, 5.0)), scale / 10
        problem = Problem(space, params.start, scale)
        x_opt = jax.lax.switch(self.index, [f.optimum for f in functions], instance)
        info = {"x_opt": x_opt, "f_opt": instance.f_opt}
        if not c.gradients:
            return Task(problem, evaluate, info=info)
        judge = None if c.noise == "none" else lambda key, x, found: value(x)
        return Task.from_loss(lambda key, x: told(key, value(x)), problem, judge=judge, info=info)


def draw(key: PRNGKeyArray, dimension: int, peaks: Int[Array, ""] | int = 0, rows: int | None = None) -> Instance:
    """An instance for any function that reads so many peaks, with the minimum 0.

    Args:
      key: decides all.
      dimension: at least 2.
      peaks: 0, 21 or 101, see `BBOBFunction.peaks`; data.
      rows: of the arrays of peaks, if more than are read; static.
    """
    d, n = dimension, int(peaks) if rows is None else rows
    offset_key, rotation_key, peak_key, level_key, axes_key = jax.random.split(key, 5)
    offset = jax.random.uniform(offset_key, (d,), minval=-4.0, maxval=4.0)
    R, Q = jax.vmap(lambda key: rotation(key, d))(jax.random.split(rotation_key))
    others = jax.random.uniform(peak_key, (n, d), minval=-5.0, maxval=5.0)
    first = jnp.arange(n) == 0
    away = jnp.matmul(others - offset[None], R.T, precision="highest")
    # the peaks after the first share out evenly spaced logarithms of conditions, and each permutes its axes
    unread = first | (jnp.arange(n) >= peaks)
    ranks = jnp.argsort(jnp.argsort(jnp.where(unread, 2.0, jax.random.uniform(level_key, (n,)))))
    levels = jnp.where(first, jnp.where(jnp.asarray(peaks) == 101, 0.5, 1.0), ranks / jnp.maximum(peaks - 2, 1))
    axes = jnp.argsort(jax.random.uniform(axes_key, (n, d)), axis=1) / (d - 1) - 0.5
    away = jnp.where(first[:, None], 0.0, away)
    return Instance(offset, R, Q, jnp.zeros(()), away, 1e3 ** (levels[:, None] * axes))


def rotation(key: PRNGKeyArray, dimension: int) -> Float[Array, "d d"]:
    """A uniformly distributed orthogonal matrix, as a product of reflections (Stewart 1980).

    Instances are drawn within meta-training's programs, so without LAPACK: on a CPU, its calls in a program on several
    devices can wait for each other's threads for ever.
    """
    normals = jnp.triu(jax.random.normal(key, (dimension, dimension)))

    def reflect(q, row):
        k, v = row
        sign = jnp.where(v[k] < 0, -1.0, 1.0)
        w = v.at[k].add(sign * jnp.sqrt(jnp.sum(v**2)))
        return q - jnp.outer(jnp.matmul(q, w, precision="highest"), w * (2 / jnp.sum(w**2))), -sign

    q, signs = jax.lax.scan(reflect, jnp.eye(dimension), (jnp.arange(dimension), normals))
    return q * signs[None]


def noise(kind: str, severity: str, dimension: int) -> Noise:
    """The noise models of BBOB's noisy testbed: `(key, value above the minimum) -> value that is told`.

    Hansen, Finck, Ros and Auger, "Real-Parameter Black-Box Optimization Benchmarking 2009: Noisy Functions Definitions"
    (2009, section 2), with the parameters of its functions of moderate noise (f101 to f106) and of severe noise (f107
    and following).
    """
    severe = severity == "severe"
    strength = 1.0 if severe else 0.01

    def gaussian(key, value):
        return value * jnp.exp(strength * jax.random.normal(key))

    def uniform(key, value):
        low_key, high_key = jax.random.split(key)
        low, high = jax.random.uniform(low_key), jax.random.uniform(high_key)
        power = strength * (0.49 + 1 / dimension) * high
        return value * low**strength * jnp.maximum(1.0, (1e9 / value) ** power)

    def cauchy(key, value):
        rare_key, normal_key, other_key = jax.random.split(key, 3)
        rare = jax.random.uniform(rare_key) < (0.2 if severe else 0.05)
        ratio = jax.random.normal(normal_key) / (jnp.abs(jax.random.normal(other_key)) + 1e-30)
        return value + strength * jnp.maximum(0.0, 1e3 + jnp.where(rare, ratio, 0.0))

    models = {"none": lambda key, value: value, "gaussian": gaussian, "uniform": uniform, "cauchy": cauchy}

    def told(key, value):
        if kind == "none":
            return value
        noisy = models[kind](key, jnp.maximum(value, NOISELESS)) + 1.01 * NOISELESS
        return jnp.where(value >= NOISELESS, noisy, value)

    return told
