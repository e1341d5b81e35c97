"""The random quadratics of Andrychowicz et al. (2016), section 3.1."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from l2o.core import Problem, Task
from l2o.registry import register
from l2o.space.domain import Space
from tasks.family import FamilyConfig, Split, TaskFamily


@register
class QuadraticConfig(FamilyConfig):
    """Random quadratics `f(x) = ||W x - y||^2` with independent standard normal W and y.

    Attributes:
      dimension: rows and columns of W, at least 1.
      start_scale: standard deviation of the starting point, at least 0.
    """

    kind: Literal["quadratic"] = "quadratic"
    dimension: int = Field(default=10, ge=1, le=10_000)
    start_scale: float = Field(default=0.01, ge=0)

    def build(self, split: Split = "train") -> "Quadratic":
        """The family; both splits draw new functions every time, so they are the same distribution."""
        del split
        return Quadratic(self.dimension, self.start_scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quadratic(TaskFamily):
    """The family of `QuadraticConfig`. A task's parameters are (W [d, d], y [d], start [d])."""

    dimension: int = field(metadata={"static": True})
    start_scale: Any

    def sample(self, key):
        w_key, y_key, start_key = jax.random.split(key, 3)
        d = self.dimension
        w, y = jax.random.normal(w_key, (d, d)), jax.random.normal(y_key, (d,))
        return w, y, self.start_scale * jax.random.normal(start_key, (d,))

    def task(self, params):
        w, y, start = params
        problem = Problem(Space.free(), start)
        return Task.from_loss(lambda key, x: jnp.sum((w @ x - y) ** 2), problem, info={"f_opt": jnp.zeros(())})
