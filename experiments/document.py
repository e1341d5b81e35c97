"""What config files have in common: how they are found, read, overridden, checked, and how their errors are told."""

import importlib
import os
import re
import sys
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_origin

import tomli_w
from pydantic import SerializeAsAny, ValidationError

from l2o.core import BaselineConfig
from l2o.errors import UserError
from l2o.files import exists
from l2o.registry import Config, by_kind, kinds, nearest
from meta.credentials import without_password
from tasks.datasets import DatasetConfig
from tasks.family import FamilyConfig

HERE = Path(__file__).parent
Task = Annotated[SerializeAsAny[FamilyConfig], by_kind(FamilyConfig)]
Dataset = Annotated[SerializeAsAny[DatasetConfig], by_kind(DatasetConfig)]
Baseline = Annotated[SerializeAsAny[BaselineConfig], by_kind(BaselineConfig)]


class Document(Config):
    """A config file: how it is found, read, overridden, checked and written."""

    description: str = ""

    @classmethod
    def folder(cls) -> Path:
        """Where the bundled files of this class lie."""
        raise TypeError(f"{cls.__name__} does not define folder()")

    @classmethod
    def names(cls) -> list[str]:
        """Names of the bundled files."""
        return sorted(path.stem for path in cls.folder().glob("*.toml"))

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read and check a TOML file; see `read`."""
        return cls.parse(*cls.read(name_or_path, overrides))

    @classmethod
    def read(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
        """Read a TOML file: its contents with the overrides, and its name for errors.

        Args:
          name_or_path: a bundled name that `l2o list` shows, or a path.
          overrides: assignments such as "meta.steps=500"; the value is TOML, or a plain string.

        Raises:
          UserError: one sentence that names the file, the field, what was found and what was expected.
        """
        candidates = (Path(name_or_path), cls.folder() / f"{name_or_path}.toml")
        path = next((p for p in candidates if exists(p) and p.is_file()), None)
        if path is None:
            hint = nearest(name_or_path, cls.names())
            raise UserError(
                f"no config {str(name_or_path)!r}{hint}: expected a TOML file or one of {', '.join(cls.names())}"
            )
        try:
            data = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text, expected a TOML file in that encoding") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # also numbers and nesting beyond what Python reads
            raise UserError(f"{path} is not valid TOML: {error}") from None
        for override in overrides:
            assign(data, override)
        return data, f"{path} with --set" if overrides else str(path)

    @classmethod
    def parse(cls, data: dict[str, Any], source: str) -> Self:
        """Check a document that was read from `source`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise UserError(f"{source}: {explain(error, cls, data)}") from None

    def toml(self) -> str:
        """The fully resolved document; reading it back gives an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def import_modules(modules: list[str] | None) -> None:
    """Import a user's modules, whose kinds a config may name; they may lie in the working directory.

    Raises:
      UserError: there is no such module.
    """
    for name in modules or []:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(name)
        except (ModuleNotFoundError, ValueError, TypeError) as error:  # not there, or a kind that is taken
            raise UserError(f"--import {name}: {error}, expected a module on the path or in this directory") from None


def named_as_files(**fields: Collection[str]) -> None:
    """Check names that are names of files, too; to be called in a validator.

    Raises:
      ValueError: a name that cannot be one, with its field.
    """
    for field, names in fields.items():
        wrong = [name for name in names if not re.fullmatch(r"[\w+-][\w.+-]*", name)]
        if wrong:
            raise ValueError(f"{field}: found the name {wrong[0]!r}, expected letters, digits and any of _ . + -")


def steps_within(steps: Sequence[int], end: int, unit: str) -> None:
    """Check the steps that a study reports; to be called in a validator.

    Raises:
      ValueError: they do not increase, or lie beyond the end of a run.
    """
    late = [step for step in steps if step > end]
    if late:
        raise ValueError(f"step {late[0]} lies beyond the {end} {unit} of a run")
    if list(steps) != sorted(set(steps)):
        raise ValueError(f"steps must increase, found {list(steps)}")


def assign(data: dict[str, Any], override: str) -> None:
    """Carry out an assignment such as "meta.steps=500" in a document that was read.

    Raises:
      UserError: it is none, or its field is inside of something that is no table.
    """
    name, equals, raw = override.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set {without_password(override)!r}: expected field=value, for example meta.steps=500")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw
    *parents, last = name.strip().split(".")
    place: Any = data
    for part in parents:
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            raise UserError(
                f"--set {without_password(override)!r}: {part!r} is not inside a table, expected field=value"
            )
    if isinstance(place, list) and last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise UserError(f"--set {without_password(override)!r}: {last!r} is not inside a table, expected field=value")


def explain(error: ValidationError, cls: type[Config], data: Any) -> str:
    """One sentence for a failed validation: the dotted field, what was found, what is allowed, the nearest name."""
    errors = error.errors(include_url=False)
    missing = [_dotted(e["loc"]) for e in errors if e["type"] == "missing"]
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    if unknown:  # a misspelled field often makes another one missing: name the cause
        *parents, name = unknown[0]["loc"]
        allowed = _fields(cls, data, parents)
        where, hint = _dotted(unknown[0]["loc"]), nearest(name, allowed)
        return f"{where} is an unknown field{hint}, expected one of {', '.join(allowed)}"
    if missing:
        return f"missing {', '.join(missing)}, which every such file needs"
    first = errors[0]
    where = _dotted(first["loc"])
    if first["type"] in ("kind_missing", "kind_unknown", "table_expected"):
        return f"{where}: {first['msg']}"
    if first["type"] == "value_error":
        return f"{where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
    expected = _EXPECTED.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    expected = expected.removeprefix("Input should be ").removeprefix("a ").removeprefix("valid ")
    found = first["input"]
    return f"{where}: found {without_password(repr(found))} ({type(found).__name__}), expected {expected}"


_EXPECTED = {
    "model_type": "table",
    "tuple_type": "array",
    "too_short": "an array of at least {min_length} items",
    "string_too_short": "at least {min_length} characters",
}


def _dotted(location: Sequence[Any]) -> str:
    return ".".join(str(part) if re.fullmatch(r"[\w-]+", str(part)) else repr(part) for part in location)


def _fields(cls: Any, data: Any, location: Sequence[Any]) -> list[str]:
    """Names of the fields allowed at a location, following the `kind` tags in the data."""
    for part in location:
        data = data[part] if isinstance(data, (dict, list)) else None
        if get_origin(cls) is dict:  # the part is a name that somebody chose
            cls = cls.__args__[1]
        elif isinstance(part, str):
            cls = cls.model_fields[part].annotation
        while get_origin(cls) is not dict and hasattr(cls, "__args__"):
            cls = cls.__args__[0]
        default = cls.model_fields["kind"].default if "kind" in getattr(cls, "model_fields", ()) else None
        kind = data.get("kind", default) if isinstance(data, dict) else None
        if isinstance(kind, str) and kind in kinds(cls):
            cls = kinds(cls)[kind]
    return list(cls.model_fields)
