"""One named parameter of a search space: which values it can have, and where they lie in the unit interval.

All arithmetic is in double precision on the host, so that large whole numbers and narrow ranges keep their digits.
"""

import bisect
import itertools
import math
import sys
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from l2o.errors import UserError
from l2o.registry import Config, nearest

CONDITIONS = ("conditional", "condition", "conditions", "parent", "children")  # how others say: only if another is set
WHOLE = 2**63  # whole numbers stay below it, as in a database


class Parameter(Config):
    """A parameter; bad input is refused with a `UserError` of one sentence.

    Attributes:
      name: any text but the empty one.
      kind: a float, an integer, one of some numbers (discrete), or one of some values without an order (categorical).
      low: the lowest value of a float or an integer.
      high: the highest; of a float above low, of an integer at least low.
      values: the finite numbers of a discrete parameter (they are sorted), or the strings, numbers, booleans or None of
        a categorical one. All are distinct; categories of different types are, though they may be equal (1 and True).
      scale: how a float or an integer lies in the unit interval: "linear", "log" (equal ratios are equal lengths) or
        "reverse_log" (the mirror image of that, finest near high); the latter two need low > 0.

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
            if key not in type(self).model_fields:
                known = ", ".join(type(self).model_fields)
                raise UserError(
                    f"{where} has an unknown field {key!r}{nearest(key, known.split(', '))}: it takes {known}"
                )
        try:
            super().__init__(**data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "value_error":
                raise UserError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
            found = "" if first["type"] == "missing" else f", found {first['input']!r:.80}"
            raise UserError(f"{where}: {first['loc'][0]}: {first['msg']}{found}") from None

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
        plains = tuple(map(plain, values))
        if info.data.get("kind") == "categorical":
            check_categories(plains)
        elif info.data.get("kind") == "discrete":
            plains = check_numbers(plains)
        return plains

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
        if self.kind == "integer" and low > high:
            raise ValueError(f"low must be at most high, found {low} and {high}")
        if self.kind == "float" and low >= high:
            raise ValueError(f"low must be below high, found {low} and {high}")
        if self.scale != "linear" and low <= 0:
            raise ValueError(f"low must be positive on the scale {self.scale}, found {low}")
        if not math.isfinite((high - low) / (1 if self.scale == "linear" else low)):
            raise ValueError(f"the range from {low} to {high} is too wide for double precision")
        return self

    @property
    def levels(self) -> int:
        """How many values there are; 0 for a float."""
        if self.values is not None:
            return len(self.values)
        return self.high - self.low + 1 if self.kind == "integer" else 0  # pyright: ignore

    def size(self, bins: int) -> int:
        """How many tokens: the number of values, at most `bins`."""
        return self.levels if 0 < self.levels <= bins else bins

    def index(self, value: Any) -> int | float:
        """The number that stands for a value in `l2o.Space`: itself, or the index of one of `values`.

        Raises:
          UserError: the parameter cannot have this value.
        """
        value = plain(value)
        if self.kind == "categorical":
            same = [i for i, v in enumerate(self.values or ()) if type(v) is type(value) and v == value]
            equal = [i for i, v in enumerate(self.values or ()) if np.isscalar(value) and v == value]
            if same or equal:
                return (same or equal)[0]
            raise self._refuse(value, f"one of {list(self.values or ())!r:.200}")
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._refuse(value, "a finite number")
        if self.kind == "discrete":
            return self._nearest(value)
        if not self.low <= value <= self.high:  # pyright: ignore
            raise self._refuse(value, f"a number from {self.low} to {self.high}")
        if self.kind == "float":
            return float(value)
        if value != int(value):
            raise self._refuse(value, "a whole number")
        return int(value)

    def value(self, index: int | float) -> Any:
        """The value that a finite number stands for; the nearest one where it is not exact. Inverse of `index`."""
        if self.kind == "float":
            return float(min(max(index, self.low), self.high))  # pyright: ignore
        if self.kind == "integer":
            return min(max(round(index), self.low), self.high)  # pyright: ignore
        return self.values[min(max(round(index), 0), self.levels - 1)]  # pyright: ignore

    def to_unit(self, value: Any) -> float:
        """Position in [0, 1]; see `l2o.Space.to_unit`."""
        index, (first, last, half) = self.index(value), self._range()
        below, above, width = (index - first) + half, (last - index) + half, (last - first) + 2 * half
        if self.scale == "linear":
            return below / width
        low, forward = first - half, below if self.scale == "log" else above
        u = math.log1p(forward / low) / math.log1p(width / low)
        return u if self.scale == "log" else 1 - u

    def from_unit(self, u: int | float) -> Any:
        """The value whose share of [0, 1] `u` lies in; inverse of `to_unit`. Numbers beyond [0, 1] are clipped."""
        u, (first, last, half) = min(max(float(u), 0.0), 1.0), self._range()
        width = (last - first) + 2 * half
        if self.scale == "linear":
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
        if self.values is not None:
            return 0, len(self.values) - 1, 0.5
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


def plain(value: Any) -> Any:
    """Python's own number or string for a numpy scalar; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def check_text(what: str, text: str) -> str:
    """The text.

    Raises:
      ValueError: half a surrogate pair is in it, which no file can hold.
    """
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{what} must be valid Unicode, found {text!r:.80}")
    return text


def check_categories(values: tuple[Any, ...]) -> None:
    """Raise a ValueError unless these may be categories."""
    for value in values:
        if value is not None and type(value) not in (str, int, float, bool):
            raise ValueError(f"categories must be strings, numbers, booleans or None, found {value!r:.80}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"categories that are numbers must be finite, found {value}")
        if isinstance(value, str):
            check_text("a category", value)
    if len({(type(value), value) for value in values}) < len(values):
        raise ValueError(f"categories must be distinct, found {list(values)!r:.200}")


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
