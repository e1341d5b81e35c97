"""Configuration classes and the open registry of their kinds.

A *room* (learned optimizers, baselines, task families, datasets, objectives, estimators) is a direct subclass of
`Config`. Every concrete class in a room carries a `kind` tag and is announced with `@l2o.register`, so that a
config file, or a user's own module, can name it.
"""

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator
from pydantic_core import PydanticCustomError


class Config(BaseModel):
    """Base of every configuration class: frozen, strict types, unknown fields and NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


C = TypeVar("C", bound=type[Config])
_KINDS: dict[type[Config], dict[str, type[Config]]] = {}


def _room_of(cls: type[Config]) -> type[Config]:
    rooms = [base for base in cls.__mro__ if Config in base.__bases__]
    if not rooms or rooms[0] is cls:
        raise TypeError(f"{cls.__name__} must subclass a room such as l2o.OptimizerConfig, not l2o.Config itself")
    return rooms[0]


def register(cls: C) -> C:
    """Class decorator: make a configuration class available under its `kind` tag.

    Args:
      cls: a subclass of a room (for example `l2o.OptimizerConfig`) with a field `kind: Literal["name"] = "name"`.

    Returns:
      The class, unchanged.

    Raises:
      TypeError: the class has no room or no `kind` default.
      ValueError: another class in the room already has that kind.
    """
    room = _room_of(cls)
    field = cls.model_fields.get("kind")
    if field is None or not isinstance(field.default, str):
        raise TypeError(f'{cls.__name__} needs a field `kind: Literal["name"] = "name"`')
    known = _KINDS.setdefault(room, {})
    other = known.get(field.default)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"kind {field.default!r} is already registered by {other.__module__}.{other.__qualname__}")
    known[field.default] = cls
    return cls


def kinds(room: type[Config]) -> dict[str, Any]:
    """The registered classes of a room by kind, sorted by name."""
    return dict(sorted(_KINDS.get(room, {}).items()))


def nearest(name: object, names: list[str]) -> str:
    """A ready-made hint, `" (did you mean 'x'?)"`, or the empty string when nothing is close."""
    close = difflib.get_close_matches(str(name), names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse(room: type[Config], value: Any) -> Any:
    """Build the configuration of the registered kind that a table names, or of the room's default kind if it has one.

    Raises:
      PydanticCustomError, ValidationError: the table names no known kind, or does not fit it.
    """
    if isinstance(value, room):
        return value
    names, known = list(kinds(room)), ", ".join(kinds(room))
    default = room.model_fields["kind"].default
    if not isinstance(value, dict):
        context = {"found": repr(value), "names": known}
        raise PydanticCustomError(
            "table_expected", "found {found}, expected a table with a kind, one of {names}", context
        )
    if "kind" not in value and isinstance(default, str):
        value = {"kind": default, **value}
    if "kind" not in value:
        raise PydanticCustomError("kind_missing", "kind is missing, expected one of {names}", {"names": known})
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in names:
        context = {"found": repr(kind), "names": known, "hint": nearest(kind, names)}
        raise PydanticCustomError("kind_unknown", "unknown kind {found}{hint}, expected one of {names}", context)
    return _KINDS[room][kind].model_validate(value)


def by_kind(room: type[Config]) -> PlainValidator:
    """Pydantic validator for a field that holds any registered kind of a room.

    The registry is read when a value is validated, so kinds registered later are found too. Errors inside the
    chosen class keep their location.
    """
    return PlainValidator(lambda value: parse(room, value))
