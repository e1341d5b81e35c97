"""Learning rates that a study tries."""

import math
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from l2o.registry import Config


class RatesConfig(Config):
    """The learning rates that are tried.

    Attributes:
      low, high: their ends, positive.
      per_decade: how many in a factor of ten.
    """

    low: float = Field(default=1e-3, gt=0)
    high: float = Field(default=30.0, gt=0)
    per_decade: int = Field(default=10, ge=1, le=100)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")
        return self


def rates_of(tune: RatesConfig) -> np.ndarray:
    """The learning rates that are tried [rate], ascending: powers of ten, `per_decade` of them to a decade."""
    first, last = (round(math.log10(end) * tune.per_decade) for end in (tune.low, tune.high))
    return 10.0 ** (np.arange(first, last + 1) / tune.per_decade)


def name_of_rate(argument: Any) -> str:
    """A learning rate as part of a file's name; empty for an argument that is none, such as theta."""
    return f"{argument:.6g}" if isinstance(argument, float) else ""
