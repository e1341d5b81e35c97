"""How long the inner runs are: fixed, drawn for each run, or growing as validation improves.

The horizon belongs to a task, so a schedule of horizons is a wrapper around a task family. Its ends are data: a
curriculum that moves on does not recompile.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from l2o.registry import Config, parse, register
from tasks.family import TaskFamily, Wrapper


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Timed(Wrapper):
    """A family whose tasks carry a horizon, log-uniform on the integers from low to high.

    A task's parameters are those of the family and the horizon.
    """

    family: TaskFamily
    low: Float[Array, ""] | float
    high: Float[Array, ""] | float

    def sample(self, key):
        family_key, horizon_key = jax.random.split(key)
        low, high = jnp.log(jnp.asarray(self.low)), jnp.log(jnp.asarray(self.high) + 1)
        drawn = jnp.exp(low + (high - low) * jax.random.uniform(horizon_key))
        return self.family.sample(family_key), jnp.clip(jnp.floor(drawn), self.low, self.high).astype(jnp.int32)

    def task(self, params):
        inner, horizon = params
        return self.family.task(inner).with_horizon(horizon)


class HorizonConfig(Config):
    """Room of the horizon schedules. A plain integer in a config is the fixed one."""

    kind: str

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Shortest and longest horizon of each stage of training."""
        raise TypeError(f"{type(self).__name__} does not define stages")

    @property
    def patience(self) -> int:
        """Validations without improvement after which the next stage begins."""
        return 1

    @property
    def longest(self) -> int:
        """The longest horizon that occurs."""
        return max(high for _, high in self.stages)

    def validated(self, stage: int) -> int:
        """The horizon that validation uses during a stage: the longest of the next one."""
        return self.stages[min(stage + 1, len(self.stages) - 1)][1]

    def family(self, family: TaskFamily, stage: int = 0) -> Timed:
        """The family with the horizons of a stage."""
        low, high = self.stages[stage]
        return Timed(family, jnp.asarray(float(low)), jnp.asarray(float(high)))


@register
class FixedConfig(HorizonConfig):
    """Every run has the same number of updates.

    Attributes:
      length: updates in a run.
    """

    kind: Literal["fixed"] = "fixed"
    length: int = Field(ge=1)

    @property
    def stages(self):
        return ((self.length, self.length),)


@register
class LogUniformConfig(HorizonConfig):
    """Each run draws its number of updates, log-uniform between two ends (Wichrowska et al. 2017).

    Validation uses the geometric mean of the ends, which half of the runs exceed.

    Attributes:
      low, high: the ends, both included.
    """

    kind: Literal["log_uniform"] = "log_uniform"
    low: int = Field(ge=1)
    high: int = Field(ge=1)

    @model_validator(mode="after")
    def _check(self):
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")
        return self

    @property
    def stages(self):
        return ((self.low, self.high),)

    def validated(self, stage):
        del stage
        return round(math.sqrt(self.low * self.high))


@register
class CurriculumConfig(HorizonConfig):
    """Longer and longer runs (Chen et al. 2020, section 3.1).

    Each stage is validated at the length of the next one; when that has not improved for `wait` validations, the
    next stage begins. Runs in progress end at the length they began with.

    Attributes:
      lengths: updates in a run, stage by stage, increasing.
      wait: validations without improvement that a stage is given.
    """

    kind: Literal["curriculum"] = "curriculum"
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2, strict=False)
    wait: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self):
        if any(a >= b for a, b in itertools.pairwise(self.lengths)):
            raise ValueError(f"lengths must increase, found {list(self.lengths)}")
        return self

    @property
    def stages(self):
        return tuple((length, length) for length in self.lengths)

    @property
    def patience(self):
        return self.wait


def parse_horizon(value: Any) -> HorizonConfig:
    """The schedule that a config's integer or table names."""
    return FixedConfig(length=value) if type(value) is int else parse(HorizonConfig, value)
