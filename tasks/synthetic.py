"""Classical test functions with known optima, translated at random."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import Problem, Task
from l2o.registry import register
from l2o.space import Space
from tasks.family import FamilyConfig, Split, TaskFamily


class Function(NamedTuple):
    """A function of a vector of any length from 2 on, with its minimum 0.

    Attributes:
      value: `[d] -> []`.
      optimum: the coordinate, the same in every dimension, at which the minimum lies.
      reach: starting points are drawn within that distance of the optimum in every coordinate.
    """

    value: Callable[[Float[Array, "d"]], Float[Array, ""]]
    optimum: float
    reach: float


def rosenbrock(x):
    """A curved valley (Rosenbrock 1960), per dimension."""
    return jnp.mean(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rastrigin(x):
    """A bowl with many local minima (Rastrigin 1974), per dimension."""
    return jnp.mean(x**2 + 10 * (1 - jnp.cos(2 * jnp.pi * x)))


def ackley(x):
    """Flat far away, a funnel in the middle (Ackley 1987), with its tip rounded off."""
    radius = jnp.sqrt(jnp.mean(x**2) + 1e-12)
    return 20 - 20 * jnp.exp(-0.2 * radius) + jnp.e - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x)))


def ellipsoid(x):
    """A quadratic of condition number a million (Hansen et al. 2009, function 2), per dimension."""
    return jnp.mean(10 ** (6 * jnp.linspace(0, 1, x.shape[0])) * x**2) / 1e3


def log_sum_exp(x):
    """Convex, quadratic near the optimum and linear far away: the mean of log cosh."""
    return jnp.mean(jnp.logaddexp(x, -x) - jnp.log(2.0))


FUNCTIONS = {
    "rosenbrock": Function(rosenbrock, 1.0, 2.0),
    "rastrigin": Function(rastrigin, 0.0, 5.0),
    "ackley": Function(ackley, 0.0, 5.0),
    "ellipsoid": Function(ellipsoid, 0.0, 5.0),
    "log_sum_exp": Function(log_sum_exp, 0.0, 5.0),
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
    """See `SyntheticConfig`. A task's parameters are the function's number, the shift [d] and the start [d]."""

    config: SyntheticConfig = field(metadata={"static": True})

    @property
    def _functions(self) -> list[Function]:
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
