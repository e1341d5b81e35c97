"""Families of classical test functions with known optima: for gradient methods, and for black-box optimizers."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import AfterValidator, Field, model_validator

from l2o.core import Problem, Task
from l2o.registry import nearest, register
from l2o.space.domain import Space
from tasks import functions
from tasks.family import FamilyConfig, Split, TaskFamily


class ScaledFunction(NamedTuple):
    """A function of a vector of any length from 2 on, in units that hardly depend on the length, with its minimum 0.

    Attributes:
      value: `[d] -> []`.
      optimum: the coordinate, the same in every dimension, at which the minimum lies.
      reach: starting points are drawn within that distance of the optimum in every coordinate.
    """

    value: Callable[[Float[Array, "d"]], Float[Array, ""]]
    optimum: float
    reach: float


FUNCTIONS = {
    "rosenbrock": ScaledFunction(lambda x: functions.rosenbrock(x) / (x.shape[0] - 1), 1.0, 2.0),
    "rastrigin": ScaledFunction(lambda x: functions.rastrigin(x) / x.shape[0], 0.0, 5.0),
    "ackley": ScaledFunction(functions.ackley, 0.0, 5.0),
    "ellipsoid": ScaledFunction(lambda x: functions.ellipsoid(x) / x.shape[0] / 1e3, 0.0, 5.0),
    "log_sum_exp": ScaledFunction(functions.log_sum_exp, 0.0, 5.0),
}
Name = Literal["rosenbrock", "rastrigin", "ackley", "ellipsoid", "log_sum_exp"]


@register
class SyntheticConfig(FamilyConfig):
    """Test functions for gradient methods: Rosenbrock, Rastrigin, Ackley, an ill-conditioned ellipsoid, log-sum-exp.

    Attributes:
      functions: each task draws one.
      dimension: of the vector, at least 2.
      shift: the optimum is moved by a vector uniform on [-shift, shift] in every coordinate.
    """

    kind: Literal["synthetic"] = "synthetic"
    functions: tuple[Name, ...] = Field(
        default=("rosenbrock", "rastrigin", "ackley", "ellipsoid", "log_sum_exp"), min_length=1, strict=False
    )
    dimension: int = Field(default=10, ge=2, le=10_000)
    shift: float = Field(default=1.0, ge=0)

    def build(self, split: Split = "train") -> "Synthetic":
        """The family; both splits draw new shifts and starts every time, so they are the same distribution."""
        del split
        return Synthetic(self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Synthetic(TaskFamily):
    """The family of `SyntheticConfig`. A task's parameters are the function's number, shift [d] and start [d]."""

    config: SyntheticConfig = field(metadata={"static": True})

    @property
    def _functions(self) -> list[ScaledFunction]:
        return [FUNCTIONS[name] for name in self.config.functions]

    def sample(self, key):
        number_key, shift_key, start_key = jax.random.split(key, 3)
        number = jax.random.randint(number_key, (), 0, len(self._functions))
        shape = (self.config.dimension,)
        shift = self.config.shift * jax.random.uniform(shift_key, shape, minval=-1.0)
        reach = jnp.array([f.reach for f in self._functions])[number]
        optimum = jnp.array([f.optimum for f in self._functions])[number]
        return number, shift, shift + optimum + reach * jax.random.uniform(start_key, shape, minval=-1.0)

    def task(self, params):
        number, shift, start = params
        optimum = shift + jnp.array([f.optimum for f in self._functions])[number]

        def loss(key, x):
            del key
            return jax.lax.switch(number, [f.value for f in self._functions], x - shift)

        return Task.from_loss(loss, Problem(Space.free(), start), info={"x_opt": optimum, "f_opt": jnp.zeros(())})


def _known(name: str) -> str:
    if name not in functions.FUNCTIONS:
        hint = nearest(name, list(functions.FUNCTIONS))
        raise ValueError(f"unknown function {name!r}{hint}, expected one of {', '.join(functions.FUNCTIONS)}")
    return name


@register
class FunctionConfig(FamilyConfig):
    """One test function on the unit cube, under the random transformations of Chen et al. (2017, section 3.2).

    They move, stretch and turn the function about its published minimum, which stays inside the cube and keeps its
    value; points of the cube that land outside the published domain have the value of the same formula. The minima
    of many functions (the sphere, Rastrigin, Ackley, Griewank, ...) lie in the middle of their domain, and so close
    to where runs start: such functions are a test only with a translation of 0.3 or more.

    Attributes:
      function: its name in `tasks.functions`.
      dimension: number of variables, at least 2; may be left out where the function fixes it.
      translation: the minimum is moved by up to this fraction of the cube in every coordinate, and kept 0.02 inside.
      scaling: every axis is stretched by a factor between 1 - scaling and 1 + scaling.
      flip: mirror each axis with probability 1/2.
      permute: shuffle the axes.
      rotate: turn by a random orthogonal matrix, which makes a separable function one that is not.
      normalize: divide by the standard deviation over the published domain, so that regrets on different functions
        compare; otherwise values are the published ones.
    """

    kind: Literal["function"] = "function"
    function: Annotated[str, AfterValidator(_known)]
    dimension: int | None = Field(default=None, ge=2, le=1000)
    translation: float = Field(default=0.1, ge=0, le=0.5)
    scaling: float = Field(default=0.1, ge=0, lt=1)
    flip: bool = True
    permute: bool = True
    rotate: bool = False
    normalize: bool = False

    @model_validator(mode="after")
    def _check(self):
        fixed = functions.FUNCTIONS[self.function].dimension
        if fixed is None and self.dimension is None:
            raise ValueError(f"dimension is missing: {self.function} has any number of variables")
        if fixed is not None and self.dimension not in (None, fixed):
            raise ValueError(f"dimension: {self.function} has {fixed} variables, found {self.dimension}")
        return self

    def build(self, split: Split = "train") -> "Transformed":
        """The family; both splits draw new transformations every time, so they are the same distribution."""
        del split
        dimension = self.dimension or functions.FUNCTIONS[self.function].dimension
        assert dimension is not None
        return Transformed(self, dimension, spread(self.function, dimension) if self.normalize else 1.0)


@functools.cache
def spread(name: str, dimension: int) -> float:
    """Standard deviation of a function over its domain, from 4,096 points that are always the same."""
    function = functions.FUNCTIONS[name]
    low, high, _, _ = function.landmarks(dimension)
    points = jnp.asarray(np.random.default_rng(0).uniform(low, high, (4096, dimension)))
    return float(np.std(np.asarray(jax.jit(jax.vmap(function.value))(points), np.float64)))


class Transformation(NamedTuple):
    """How a function lies in the unit cube.

    Attributes:
      optimum: where its minimum is.
      axes: steps away from there in the cube to steps away from the published minimum, in widths of the domain.
    """

    optimum: Float[Array, "d"]
    axes: Float[Array, "d d"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transformed(TaskFamily):
    """The family of `FunctionConfig`. A task's parameters are a `Transformation`; values are in multiples of `unit`."""

    config: FunctionConfig = field(metadata={"static": True})
    dimension: int = field(metadata={"static": True})
    unit: Any

    def sample(self, key):
        c, d = self.config, self.dimension
        move_key, scale_key, flip_key, permute_key, rotate_key = jax.random.split(key, 5)
        low, high, x_opt, _ = functions.FUNCTIONS[c.function].landmarks(d)
        axes = jnp.eye(d)
        if c.permute:
            axes = jax.random.permutation(permute_key, axes)
        if c.flip:
            axes = axes * jax.random.rademacher(flip_key, (1, d), axes.dtype)
        # mirrored and shuffled about the middle of the cube; stretched and turned about the minimum
        middle = 0.5 + axes.T @ jnp.asarray((x_opt - low) / (high - low) - 0.5)
        optimum = middle + c.translation * jax.random.uniform(move_key, (d,), minval=-1.0)
        if c.rotate:
            axes = jax.random.orthogonal(rotate_key, d) @ axes
        axes = axes * (1 + c.scaling * jax.random.uniform(scale_key, (d, 1), minval=-1.0))
        return Transformation(jnp.clip(optimum, 0.02, 0.98), axes)

    def task(self, params):
        function, d = functions.FUNCTIONS[self.config.function], self.dimension
        low, high, x_opt, f_opt = function.landmarks(d)
        origin, width = jnp.asarray(x_opt), jnp.asarray(high - low)

        def loss(key, u):
            del key
            # in full precision also where products of matrices have less by default, as the value is compared to f_opt
            step = jnp.matmul(params.axes, u - params.optimum, precision="highest")
            return function.value(origin + width * step) / self.unit

        problem = Problem(Space.box(jnp.zeros(d), jnp.ones(d)), jnp.full(d, 0.5), 0.3)
        return Task.from_loss(loss, problem, info={"x_opt": params.optimum, "f_opt": jnp.asarray(f_opt / self.unit)})
