"""What a person hands to a loop: numbers, counts, lists, paths and assignments, or one clear sentence."""

import math
import numbers
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2o.errors import UserError
from l2o.space.searchspace import SearchSpace


def listed(name: str, values: Any) -> list[Any]:
    """The values of an iterable.

    Raises:
      UserError: it is none.
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise UserError(f"{name} are {values!r:.80}: expected a list")
    return list(values)


def real_number(value: Any) -> float:
    """The value of an evaluation as a float.

    Raises:
      UserError: it is not one real number.
    """
    if type(value) is float:
        return value
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    shape = getattr(value, "shape", None)  # an array of one number, whoever made it
    if shape is not None and math.prod(shape) == 1 and hasattr(value, "item"):
        one = value.item()
        if isinstance(one, numbers.Real):
            return float(one)
    found = f"an array of shape {tuple(shape)}" if shape else f"{type(value).__name__} {value!r:.80}"
    raise UserError(f"the value of an evaluation must be one real number, found {found}")


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """The value as an int.

    Raises:
      UserError: it is none, or outside of its range.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} is {value!r}: expected a whole number from {low} to {high}")
    return int(value)


def one_path(path: str | Path | None, log: str | Path | None) -> str | Path | None:
    """The path of a log, which has two names.

    Raises:
      UserError: both are given.
    """
    if path is not None and log is not None:
        raise UserError(f"path is {path!r:.80} and log is {log!r:.80}: expected one of them, they are the same")
    return log if path is None else path


def assignment(space: SearchSpace, parameters: Any) -> dict[str, Any]:
    """These parameters in the order of a space, as Python's own numbers and strings.

    Raises:
      UserError: they are no assignment of the space.
    """
    space.to_unit(parameters)  # refuses them
    return {p.name: p.value(p.index(parameters[p.name])) for p in space.parameters}
