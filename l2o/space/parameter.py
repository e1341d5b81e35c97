"""One named parameter of a search space: which values it can have, and where they lie in the unit interval.

All arithmetic is in double precision on the host, so that large whole numbers and narrow ranges keep their digits.
"""

import bisect
import copy
import itertools
import math
import sys
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from l2o.errors import UserError
from l2o.registry import Config, nearest
from l2o.space.values import check_categories, check_text, hashable, is_category, plain, plain_category

CONDITIONS = ("conditional", "condition", "conditions", "parent", "children")  # how others say: only if another is set
WHOLE = 2**63  # whole numbers stay below it, as in a database
MOST_STEPS = 2**17  # of a range with a step: all its values are listed


class Parameter(Config):
    """A parameter; bad input is refused with a `UserError` of one sentence.

    Attributes:
      name: any text but the empty one.
      kind: a float, an integer, one of some numbers (discrete), or one of some values without an order (categorical).
      low: the lowest value of a float or an integer.
      high: the highest, at least low; where they are equal, the parameter is a constant.
      values: the finite numbers of a discrete parameter (they are sorted), or those of a categorical one: strings,
        numbers, booleans, None, and lists and tuples of such. All are distinct; categories of different types are,
        though they may be equal (1 and True, or a list and a tuple).
      scale: how a float or an integer lies in the unit interval: "linear", "log" (equal ratios are equal lengths) or
        "reverse_log" (the mirror image of that, finest near high); the latter two need low > 0.

    A `step` beside low and high makes a float or an integer the discrete parameter of low, low + step, ..., as far as
    high.

    >>> layers = Parameter(name="layers", kind="integer", low=1, high=8)
    >>> layers.to_unit(1), layers.from_unit(0.5), layers.to_token(5, bins=256), layers.to_token(5, bins=2)
    (0.0625, 5, 4, 1)
    """

    name: str = Field(min_length=1)
    kind: Literal["float", "integer", "discrete", "categorical"]
    low: int | float | None = None
    high: int | float | None = None
    values: tuple[Any, ...] | None = None
    scale: Literal["linear", "log", "reverse_log"] = "linear"

    def __init__(self, **data: Any):
        where = f"parameter {data.get('name')!r}"
        for key in data:
            if key in CONDITIONS:
                raise UserError(f"{where} has {key!r}, and conditional parameters are not supported yet: leave it out")
            if key not in (*type(self).model_fields, "step"):
                known = ", ".join((*type(self).model_fields, "step"))
                raise UserError(
                    f"{where} has an unknown field {key!r}{nearest(key, known.split(', '))}: it takes {known}"
                )
        step = plain(data.pop("step", None))
        try:
            super().__init__(**data)
            values = None if step is None else self._stepped(step)
            if values is not None:
                data = {"name": self.name, "kind": "discrete", "values": values}
                super().__init__(**data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "value_error":
                raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
            found = "" if first["type"] == "missing" else f", found {first['input']!r:.80}"
            raise UserError(f"{where}: {first['loc'][0]}: {first['msg']}{found}") from None

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.low, self.high, hashable(self.values), self.scale))

    def _stepped(self, step: Any) -> list[int | float] | None:
        """The values of a range with a step; None where they are all whole numbers of it."""
        where = f"parameter {self.name!r}"
        if self.low is None or self.high is None or self.scale != "linear":
            raise UserError(f"{where} has a step, which a float or an integer on a linear scale alone may have")
        if type(step) not in (int, float) or not 0 < step <= sys.float_info.max:
            raise UserError(f"{where}: step must be a positive number, found {step!r:.80}")
        if self.kind == "integer" and step != int(step):
            raise UserError(f"{where}: step of an integer must be a whole number, found {step}")
        if self.kind == "integer" and step == 1:
            return None
        return steps(self.name, self.low, self.high, int(step) if self.kind == "integer" else step)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return check_text("a name", name)

    @field_validator("low", "high", mode="before")
    @classmethod
    def _plain_bound(cls, bound: Any, info) -> Any:
        bound = plain(bound)
        if bound is not None and (type(bound) not in (int, float) or not abs(bound) <= sys.float_info.max):
            raise ValueError(f"{info.field_name} must be a finite number, found {bound!r:.80}")
        return float(bound) if info.data.get("kind") == "float" and bound is not None else bound

    @field_validator("values", mode="before")
    @classmethod
    def _plain_values(cls, values: Any, info) -> Any:
        if not isinstance(values, list | tuple | np.ndarray):
            return values
        if info.data.get("kind") == "categorical":
            plains = tuple(map(plain_category, values))
            check_categories(plains)
            return plains
        plains = tuple(map(plain, values))
        return check_numbers(plains) if info.data.get("kind") == "discrete" else plains

    @model_validator(mode="after")
    def _check(self):
        if self.kind in ("discrete", "categorical"):
            if not self.values or self.low is not None or self.high is not None or self.scale != "linear":
                raise ValueError(f"a {self.kind} parameter has values, one or more, and neither bounds nor a scale")
            return self
        low, high = self.low, self.high
        if low is None or high is None or self.values is not None:
            raise ValueError(f"a parameter of kind {self.kind} has low and high, and no values")
        if self.kind == "integer" and not all(isinstance(a, int) and abs(a) < WHOLE for a in (low, high)):
            raise ValueError(f"low and high of an integer must be whole numbers below 2^63, found {low!r} and {high!r}")
        if low > high:
            raise ValueError(f"low must be at most high, found {low} and {high}")
        if self.scale != "linear" and low <= 0:
            raise ValueError(f"low must be positive on the scale {self.scale}, found {low}")
        if not math.isfinite((high - low) / (1 if self.scale == "linear" else low)):
            raise ValueError(f"the range from {low} to {high} is too wide for double precision")
        return self

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """The values that are known by an index: of a discrete or categorical parameter, and the one of a constant."""
        return (self.low,) if self.kind == "float" and self.low == self.high else self.values

    @property
    def levels(self) -> int:
        """How many values there are; 0 for a float that is no constant."""
        if self.listed is not None:
            return len(self.listed)
        return self.high - self.low + 1 if self.kind == "integer" else 0  # pyright: ignore

    def size(self, bins: int) -> int:
        """How many tokens: the number of values, at most `bins`."""
        return self.levels if 0 < self.levels <= bins else bins

    def index(self, value: Any) -> int | float:
        """The number that stands for a value in `l2o.Space`: itself, or the index of one of `listed`.

        Raises:
          UserError: the parameter cannot have this value.
        """
        value = plain(value)
        if self.kind == "categorical":
            same = [i for i, v in enumerate(self.values or ()) if is_category(v, value, exact=True)]
            equal = [i for i, v in enumerate(self.values or ()) if is_category(v, value)]
            if same or equal:
                return (same or equal)[0]
            raise self._refuse(value, f"one of {list(self.values or ())!r:.200}")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._refuse(value, "a finite number")
        if self.kind == "discrete":
            return self._nearest(value)
        if not self.low <= value <= self.high:  # pyright: ignore
            raise self._refuse(value, f"a number from {self.low} to {self.high}")
        if self.low == self.high and self.kind == "float":
            return 0
        if self.kind == "float":
            return float(value)
        if value != int(value):
            raise self._refuse(value, "a whole number")
        return int(value)

    def value(self, index: int | float) -> Any:
        """The value that a finite number stands for; the nearest one where it is not exact. Inverse of `index`.

        A list is a copy, so that whoever changes it changes no other.
        """
        if self.kind == "float":
            return float(min(max(index, self.low), self.high))  # pyright: ignore
        if self.kind == "integer":
            return min(max(round(index), self.low), self.high)  # pyright: ignore
        found = self.values[min(max(round(index), 0), self.levels - 1)]  # pyright: ignore
        return copy.deepcopy(found) if isinstance(found, list | tuple) else found

    def to_unit(self, value: Any) -> float:
        """Position in [0, 1]; see `l2o.Space.to_unit`."""
        index, (first, last, half) = self.index(value), self._range()
        below, above, width = (index - first) + half, (last - index) + half, (last - first) + 2 * half
        if self.scale == "linear" or self.listed is not None:
            return below / width
        low, forward = first - half, below if self.scale == "log" else above
        u = math.log1p(forward / low) / math.log1p(width / low)
        return u if self.scale == "log" else 1 - u

    def from_unit(self, u: int | float) -> Any:
        """The value whose share of [0, 1] `u` lies in; inverse of `to_unit`. Numbers beyond [0, 1] are clipped."""
        u, (first, last, half) = min(max(float(u), 0.0), 1.0), self._range()
        width = (last - first) + 2 * half
        if self.scale == "linear" or self.listed is not None:
            below = u * width
        else:
            low, forward = first - half, u if self.scale == "log" else 1 - u
            distance = low * math.expm1(forward * math.log1p(width / low))
            below = distance if self.scale == "log" else width - distance
        if not half:
            return self.value(first + below)
        return self.value(first + min(math.floor(below), self.levels - 1))

    def to_token(self, value: Any, bins: int) -> int:
        """Index of the value where there are at most `bins` of them, else of the bin of [0, 1]; `Space.to_tokens`."""
        if 0 < self.levels <= bins:
            return int(self.index(value) - self._range()[0])
        return min(math.floor(self.to_unit(value) * bins), bins - 1)

    def from_token(self, token: int, bins: int) -> Any:
        """The value of an index, or that in the middle of a bin.

        Raises:
          UserError: there is no such token.
        """
        if not 0 <= token < self.size(bins):
            raise UserError(f"parameter {self.name!r} has {self.size(bins)} tokens, found token {token}")
        if 0 < self.levels <= bins:
            return self.value(self._range()[0] + int(token))
        return self.from_unit((token + 0.5) / bins)

    def _range(self) -> tuple[Any, Any, float]:
        """First and last index, and half a step where there are steps."""
        if self.listed is not None:
            return 0, len(self.listed) - 1, 0.5
        return self.low, self.high, 0.5 if self.kind == "integer" else 0.0

    def _nearest(self, number: Any) -> int:
        """Index of a listed number; a multiple of a step may differ from it by a rounding error."""
        values: Any = self.values
        i = bisect.bisect_left(values, number)
        found = min((j for j in (i - 1, i) if 0 <= j < len(values)), key=lambda j: abs(values[j] - number))
        gaps = [b - a for a, b in itertools.pairwise(values[max(found - 1, 0) : found + 2])]
        if abs(values[found] - number) > 1e-6 * min(gaps, default=0):
            raise self._refuse(number, f"one of {list(values)!r:.200}")
        return found

    def _refuse(self, value: Any, expected: str) -> UserError:
        return UserError(f"parameter {self.name!r} is {value!r:.80}: expected {expected}")


def steps(name: str, low: int | float, high: int | float, step: int | float) -> list[int | float]:
    """All values of a range with a step, as decimal numbers: 0.1 and three steps of 0.1 are 0.4.

    Raises:
      UserError: there are more than `MOST_STEPS`.
    """
    count = (high - low) / step
    if count < 1e15:  # then the exact number
        count = int((decimal(high) - decimal(low)) // decimal(step)) + 1
    if count > MOST_STEPS:
        raise UserError(
            f"parameter {name!r} has {count:.15g} steps from {low} to {high}: expected at most {MOST_STEPS}"
        )
    return [type(low)(decimal(low) + k * decimal(step)) for k in range(int(count))]


def decimal(number: int | float) -> Decimal:
    """The number as it is written."""
    return Decimal(str(number))


def check_numbers(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a discrete parameter, sorted.

    Raises:
      ValueError: they are not finite and distinct numbers.
    """
    for value in values:
        if type(value) not in (int, float) or not abs(value) < (WHOLE if type(value) is int else math.inf):
            raise ValueError(f"values of a discrete parameter must be finite numbers, found {value!r:.80}")
    if len(set(values)) < len(values):
        raise ValueError(f"values of a discrete parameter must be distinct, found {list(values)!r:.200}")
    return tuple(sorted(values))
