"""Spaces of named parameters, as people write them, and their maps to points, unit cubes and tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from l2o.errors import UserError
from l2o.registry import nearest
from l2o.space.domain import LINEAR, LOG, REVERSE_LOG, Space
from l2o.space.parameter import Parameter
from l2o.space.values import as_json

SCALES = {"linear": LINEAR, "log": LOG, "reverse_log": REVERSE_LOG}


@dataclass(frozen=True)
class SearchSpace:
    """Named parameters in an order, one or more. An *assignment* is a dictionary with a value for each of the names.

    Attributes:
      parameters: their names are distinct.

    >>> space = SearchSpace.from_dict({
    ...     "lr": {"kind": "float", "low": 1e-5, "high": 1e-1, "scale": "log"},
    ...     "layers": {"kind": "integer", "low": 1, "high": 8},
    ...     "momentum": (0.0, 1.0),
    ...     "optimizer": ["sgd", "adam"],
    ... })
    >>> space.to_tokens({"lr": 2e-3, "layers": 3, "momentum": 0.9, "optimizer": "adam"}, bins=256)
    [147, 2, 230, 1]
    >>> space.from_unit([1.0, 0.0, 0.5, 0.2])
    {'lr': 0.1, 'layers': 1, 'momentum': 0.5, 'optimizer': 'sgd'}
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self):
        if not self.parameters:
            raise UserError("a search space has no parameters: expected at least one")
        for name in self.names:
            if self.names.count(name) > 1:
                raise UserError(f"a search space has several parameters named {name!r}: expected distinct names")

    @classmethod
    def from_dict(cls, parameters: Any) -> "SearchSpace":
        """A space from what is under each name: the fields of `l2o.Parameter`, or short for them a tuple (low, high)
        for a float, or a list of categories.

        Raises:
          UserError: something else is under a name, or it makes no sense.
        """
        if not isinstance(parameters, Mapping):
            raise UserError(f"a search space is {parameters!r:.80}: expected a dictionary of parameters by name")
        return cls(tuple(_parameter(name, fields) for name, fields in parameters.items()))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain data, fit for JSON; inverse of `from_dict`. A category that is a tuple is `{"tuple": [...]}` in it."""
        plain = {p.name: p.model_dump(exclude={"name"}, exclude_defaults=True) for p in self.parameters}
        return {
            name: {key: [as_json(each) for each in v] if key == "values" else v for key, v in fields.items()}
            for name, fields in plain.items()
        }

    @classmethod
    def from_json(cls, text: str) -> "SearchSpace":
        """A space from the JSON text of its dictionary; in JSON a list is always one of categories.

        Raises:
          UserError: it is not JSON, or not a search space.
        """
        try:
            return cls.from_dict(json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_distinct))
        except json.JSONDecodeError as error:
            raise UserError(f"a search space is not valid JSON: {error}") from None

    def to_json(self) -> str:
        """JSON text in one line; inverse of `from_json`."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_optuna(cls, distributions: Mapping[str, Any]) -> "SearchSpace":
        """A space from Optuna's distributions by name; see `l2o.space.distributions`.

        Raises:
          UserError: Optuna is not installed, or a distribution has no equal here.
        """
        from l2o.space.distributions import from_distribution

        return cls(tuple(from_distribution(name, each) for name, each in distributions.items()))

    def to_optuna(self) -> dict[str, Any]:
        """Optuna's distributions by name; see `l2o.space.distributions`.

        Raises:
          UserError: Optuna is not installed, or has no such scale.
        """
        from l2o.space.distributions import to_distribution

        return {p.name: to_distribution(p) for p in self.parameters}

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in order."""
        return [p.name for p in self.parameters]

    @property
    def space(self) -> Space:
        """The mixed `l2o.Space`, in single precision: whole numbers beyond 2^24 are rounded in its points.

        Raises:
          UserError: single precision cannot hold the range of a parameter.
        """
        ends = [(0, p.levels - 1) if p.listed is not None else (p.low, p.high) for p in self.parameters]
        levels = np.array([min(p.levels, 2**31 - 1) for p in self.parameters], np.int32)
        scale = np.array([SCALES[p.scale] if p.listed is None else LINEAR for p in self.parameters], np.int32)
        with np.errstate(all="ignore"):
            low, high = np.array(ends, np.float64).astype(np.float32).T
            half = np.where(levels > 0, np.float32(0.5), np.float32(0))
            first, last = low - half, high + half
            tiny, width = np.finfo(np.float32).tiny, last - first
            fits = (width >= tiny) & np.isfinite(width)
            fits &= (scale == LINEAR) | ((first >= tiny) & (last / first > 1) & np.isfinite(last / first))
        for p, fit in zip(self.parameters, fits, strict=True):
            if not fit:
                raise UserError(
                    f"parameter {p.name!r} from {p.low} to {p.high}: single precision cannot hold this range, "
                    "expected a wider or less extreme one"
                )
        ordered = np.array([p.kind != "categorical" for p in self.parameters])
        return Space.mixed(*map(jnp.asarray, (low, high, levels, scale, ordered)))

    def to_point(self, assignment: Any) -> Float32[np.ndarray, "d"]:
        """The point of `space` for an assignment.

        Raises:
          UserError, as do all maps from an assignment: it lacks a parameter, has one too many, or one with a value that
            the parameter cannot have.
        """
        return np.array([p.index(value) for p, value in self._pairs(assignment)], np.float32)

    def from_point(self, x: Any) -> dict[str, Any]:
        """The assignment of a point of `space`, the nearest one where the point is not exact."""
        x = self._row("point", x)
        return {p.name: p.value(float(a)) for p, a in zip(self.parameters, x, strict=True)}

    def to_unit(self, assignment: Any) -> Float64[np.ndarray, "d"]:
        """Where an assignment lies in the unit cube: `Space.to_unit` in double precision."""
        return np.array([p.to_unit(value) for p, value in self._pairs(assignment)], np.float64)

    def from_unit(self, u: Any) -> dict[str, Any]:
        """The assignment at a place in the unit cube: `Space.from_unit` in double precision."""
        return {p.name: p.from_unit(float(a)) for p, a in zip(self.parameters, self._row("point", u), strict=True)}

    def sizes(self, bins: int) -> list[int]:
        """How many tokens each parameter has; see `Space.sizes`."""
        return [p.size(bins) for p in self.parameters]

    def to_tokens(self, assignment: Any, bins: int) -> list[int]:
        """The tokens of an assignment: `Space.to_tokens` in double precision."""
        return [p.to_token(value, bins) for p, value in self._pairs(assignment)]

    def from_tokens(self, tokens: Sequence[int] | np.ndarray, bins: int) -> dict[str, Any]:
        """The assignment of tokens: listed values and few whole numbers exactly, others in the middle of their bins."""
        return {
            p.name: p.from_token(int(token), bins)
            for p, token in zip(self.parameters, self._row("list of tokens", tokens), strict=True)
        }

    def _pairs(self, assignment: Any) -> list[tuple[Parameter, Any]]:
        if not isinstance(assignment, Mapping):
            raise UserError(f"an assignment is {assignment!r:.80}: expected a dictionary of values by name")
        for name in assignment:
            if name not in self.names:
                raise UserError(f"an assignment has {name!r}{nearest(name, self.names)}, which the space has not")
        for name in self.names:
            if name not in assignment:
                raise UserError(f"an assignment lacks {name!r}: expected a value for every parameter")
        return [(p, assignment[p.name]) for p in self.parameters]

    def _row(self, what: str, numbers: Any) -> np.ndarray:
        try:
            row = np.asarray(numbers, np.float64)
        except (TypeError, ValueError, OverflowError):
            row = np.zeros(0)
        if row.shape != (len(self),) or not np.all(np.isfinite(row)):
            raise UserError(f"a {what} is {numbers!r:.80}: expected {len(self)} finite numbers")
        return row


def _parameter(name: Any, fields: Any) -> Parameter:
    if isinstance(fields, list):
        return Parameter(name=name, kind="categorical", values=fields)
    if isinstance(fields, tuple) and len(fields) == 2:
        return Parameter(name=name, kind="float", low=fields[0], high=fields[1])
    if not isinstance(fields, Mapping) or "name" in fields or not all(isinstance(key, str) for key in fields):
        raise UserError(
            f"parameter {name!r} is {fields!r:.80}: expected a dictionary of kind, low, high, step, values and scale, "
            "a tuple (low, high) or a list of categories"
        )
    return Parameter(name=name, **fields)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the JSON text of a search space has {name!r} twice in one object: expected it once")
    return dict(pairs)
