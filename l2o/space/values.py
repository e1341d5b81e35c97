"""What a value of a parameter may be: plain numbers and text, and categories, which may be lists and tuples of such."""

import math
from typing import Any

import numpy as np

DEEPEST = 8  # lists within lists of a category


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
        _check_category(value, value, DEEPEST)
    if len(set(map(_with_types, values))) < len(values):
        raise ValueError(f"categories must be distinct, found {list(values)!r:.200}")


def _check_category(value: Any, part: Any, deepest: int) -> None:
    """Raise a ValueError unless this part of a value may be in a category."""
    if isinstance(part, list | tuple) and deepest:
        for each in part:
            _check_category(value, each, deepest - 1)
    elif part is not None and type(part) not in (str, int, float, bool):
        deep = f"nested at most {DEEPEST} deep, " if isinstance(part, list | tuple) else ""
        raise ValueError(
            f"categories must be strings, numbers, booleans, None, or lists and tuples of such, {deep}found "
            f"{value!r:.80}"
        )
    elif isinstance(part, float) and not math.isfinite(part):
        raise ValueError(f"categories that are numbers must be finite, found {value!r:.80}")
    elif isinstance(part, str):
        check_text("a category", part)


def plain_category(value: Any, deepest: int = DEEPEST) -> Any:
    """A category of Python's own numbers and strings, which shares no list with `value`; inverse of `as_json`."""
    if isinstance(value, dict) and value.keys() == {"tuple"} and isinstance(value["tuple"], list):
        value = tuple(value["tuple"])
    if type(value) in (list, tuple) and deepest:
        return type(value)(plain_category(each, deepest - 1) for each in value)
    return plain(value)


def as_json(category: Any) -> Any:
    """A category as JSON has it, where a tuple is `{"tuple": [...]}`."""
    if isinstance(category, tuple):
        return {"tuple": [as_json(each) for each in category]}
    return [as_json(each) for each in category] if isinstance(category, list) else category


def _with_types(value: Any) -> Any:
    """The value beside its type, and so for all parts of it: what tells categories apart."""
    return type(value), tuple(map(_with_types, value)) if isinstance(value, list | tuple) else value


def hashable(value: Any) -> Any:
    """The value with tuples in place of lists."""
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value


def is_category(category: Any, value: Any, exact: bool = False) -> bool:
    """Whether a value is a category; a list may stand for a tuple, and 1.0 for 1, unless exactly that is asked for."""
    if exact and type(category) is not type(value):
        return False
    if isinstance(category, list | tuple):
        if not isinstance(value, list | tuple) or len(category) != len(value):
            return False
        return all(is_category(a, plain(b), exact) for a, b in zip(category, value, strict=True))
    return (value is None if category is None else np.isscalar(value)) and bool(category == value)
