"""What an optimizer sees of a person's space, and the way back in double precision.

An optimizer thinks in single precision. So it is shown a space that single precision holds well, and what it proposes
there becomes a person's own numbers in double precision: a range far from zero keeps its digits, and so does a whole
number of any size.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from l2o.space.domain import LINEAR, Space
from l2o.space.parameter import Parameter
from l2o.space.searchspace import SCALES, SearchSpace

COUNTABLE = 2**20  # whole numbers that single precision counts one by one, with room for the shares of the unit cube


class View(ABC):
    """A space as an optimizer sees it.

    Attributes:
      space: in single precision.
    """

    space: Space

    @abstractmethod
    def assignment(self, x: Float32[np.ndarray, "d"], number: int) -> Any:
        """What a person evaluates for a point of `space` that is proposed for trial `number`."""

    @abstractmethod
    def point(self, assignment: Any) -> Float32[np.ndarray, "d"]:
        """The point of `space` for what a person evaluates."""


class BoxView(View):
    """A box as the unit cube.

    Args:
      low: bounds in double precision, [d].
      high: above `low`.
    """

    def __init__(self, low: Float64[np.ndarray, "d"], high: Float64[np.ndarray, "d"]):
        self._low, self._high = low, high
        self.space = Space.box(jnp.zeros(low.size, jnp.float32), jnp.ones(low.size, jnp.float32))

    def assignment(self, x: Float32[np.ndarray, "d"], number: int) -> Float64[np.ndarray, "d"]:
        """Exact at both ends, so that a box of any size loses nothing."""
        del number
        u = x.astype(np.float64)
        return np.clip(self._low * (1 - u) + self._high * u, self._low, self._high)

    def point(self, assignment: Float64[np.ndarray, "d"]) -> Float32[np.ndarray, "d"]:
        """See `View`."""
        with np.errstate(over="ignore", invalid="ignore"):
            half = (assignment / 2 - self._low / 2) / (self._high / 2 - self._low / 2)
            width = self._high - self._low  # may be more than the largest double
            return np.where(np.isfinite(width), (assignment - self._low) / width, half).astype(np.float32)


class _Axis(NamedTuple):
    """The coordinate of a parameter: from `low` to `high`, with `levels` values, or 0 for a real number in [0, 1]."""

    parameter: Parameter
    low: int
    high: int
    levels: int = 0
    scale: int = LINEAR
    first: int | float = 0  # what the coordinate 0 stands for, where there are levels

    @classmethod
    def of(cls, p: Parameter) -> "_Axis":
        if p.kind == "integer" and p.scale != "linear" and p.high <= COUNTABLE:  # pyright: ignore[reportOptionalOperand]
            return cls(p, p.low, p.high, p.levels, SCALES[p.scale])  # pyright: ignore[reportArgumentType]
        if p.kind == "integer" and (p.scale != "linear" or p.levels > COUNTABLE):
            return cls(p, 0, 1)
        if p.levels:
            return cls(p, 0, p.levels - 1, p.levels, first=p.low if p.listed is None else 0)  # pyright: ignore
        return cls(p, 0, 1)

    def value(self, x: float, digits: float) -> Any:
        if self.levels:
            return self.parameter.value(self.first + round(x))
        if self.parameter.levels:  # whole numbers finer than single precision
            below, above = (float(np.nextafter(np.float32(x), np.float32(end), dtype=np.float32)) for end in (-1, 2))
            x = (x + below) / 2 + digits * (above - below) / 2
        return self.parameter.from_unit(x)

    def coordinate(self, value: Any) -> float:
        return float(self.parameter.index(value) - self.first) if self.levels else self.parameter.to_unit(value)


class NamedView(View):
    """Named parameters as a mixed space.

    Real numbers lie in [0, 1], as their scales place them. Whole numbers up to `COUNTABLE` of them, categories and
    listed values are counted from 0; on a logarithmic scale whole numbers stay as they are. Larger ones and more of
    them lie in [0, 1] too; there the digits that single precision lacks are drawn at random.

    Args:
      space: the parameters.
      seed: of those digits.
    """

    def __init__(self, space: SearchSpace, seed: int = 0):
        self._named, self._seed = space, seed
        self._axes = [_Axis.of(p) for p in space.parameters]
        low, high, levels, scale = (
            np.array([getattr(axis, name) for axis in self._axes]) for name in ("low", "high", "levels", "scale")
        )
        ordered = np.array([p.kind != "categorical" for p in space.parameters])
        bounds = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
        kinds = jnp.asarray(levels, jnp.int32), jnp.asarray(scale, jnp.int32), jnp.asarray(ordered)
        self.space = Space.mixed(*bounds, *kinds)

    def assignment(self, x: Float32[np.ndarray, "d"], number: int) -> dict[str, Any]:
        """See `View`."""
        digits = np.random.default_rng([self._seed, number]).random(len(self._axes))
        each = zip(self._axes, x.tolist(), digits.tolist(), strict=True)
        return {axis.parameter.name: axis.value(a, digit) for axis, a, digit in each}

    def point(self, assignment: dict[str, Any]) -> Float32[np.ndarray, "d"]:
        """See `View`."""
        return np.array([axis.coordinate(assignment[axis.parameter.name]) for axis in self._axes], np.float32)
