"""The open registry of configuration kinds."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ValidationError

import l2o
from l2o.registry import _KINDS, nearest, parse


@pytest.fixture
def room():
    """A fresh room, forgotten afterwards."""

    class Room(l2o.Config):
        kind: str

    yield Room
    _KINDS.pop(Room, None)


def make(room, kind="one", qualname="One"):
    """A config class of a room; its qualified name decides whether it counts as the same class."""
    namespace = {
        "__annotations__": {"kind": Literal[kind], "size": int},  # type: ignore[valid-type]
        "__module__": __name__,
        "__qualname__": qualname,
        "kind": kind,
        "size": 3,
    }
    return type(qualname, (room,), namespace)


def test_a_registered_class_is_returned_unchanged_and_found_by_its_kind(room):
    one = make(room)
    assert l2o.register(one) is one
    assert l2o.kinds(room) == {"one": one}
    assert parse(room, {"kind": "one", "size": 4}) == one(size=4)


def test_kinds_are_sorted_and_rooms_are_separate(room):
    for kind in ("zebra", "apple"):
        l2o.register(make(room, kind, kind.title()))
    assert list(l2o.kinds(room)) == ["apple", "zebra"]
    assert "apple" not in l2o.kinds(l2o.OptimizerConfig)
    l2o.kinds(room).clear()
    assert len(l2o.kinds(room)) == 2, "the registry itself must not be handed out"


def test_a_class_without_a_kind_is_refused(room):
    class Nameless(room):
        size: int = 3

    with pytest.raises(TypeError, match="Nameless needs a field `kind"):
        l2o.register(Nameless)
    assert l2o.kinds(room) == {}


def test_a_class_without_a_room_is_refused(room):
    class Homeless(l2o.Config):
        kind: Literal["homeless"] = "homeless"

    with pytest.raises(TypeError, match="must subclass a room"):
        l2o.register(Homeless)
    with pytest.raises(TypeError, match="must subclass a room"):
        l2o.register(l2o.Config)


def test_a_kind_taken_by_another_class_is_refused(room):
    first = l2o.register(make(room))
    with pytest.raises(ValueError, match=r"'one' is already registered by .*One"):
        l2o.register(make(room, qualname="Other"))
    assert l2o.kinds(room) == {"one": first}


def test_the_same_class_may_be_registered_again(room):
    first = l2o.register(make(room))
    assert l2o.register(first) is first
    again = l2o.register(make(room))  # a notebook cell that was run twice
    assert l2o.kinds(room) == {"one": again}


def test_a_deeper_subclass_belongs_to_the_room(room):
    class Middle(room):
        size: int = 3

    class Leaf(Middle):
        kind: Literal["leaf"] = "leaf"

    l2o.register(Leaf)
    assert l2o.kinds(room) == {"leaf": Leaf}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "expected a table"),
        ({"size": 3}, "kind is missing"),
        ({"kind": "on"}, r"unknown kind 'on' \(did you mean 'one'\?\)"),
        ({"kind": ["one"]}, "unknown kind"),
        ({"kind": "one", "size": "3"}, "size"),
        ({"kind": "one", "sise": 3}, "sise"),
    ],
)
def test_errors_of_a_table_name_what_is_wrong(room, value, message):
    l2o.register(make(room))
    with pytest.raises(ValueError, match=message):
        parse(room, value)


def test_by_kind_finds_kinds_registered_after_the_field_was_declared(room):
    class Holder(BaseModel):
        part: Annotated[room, l2o.by_kind(room)]

    late = l2o.register(make(room, "late", "Late"))
    assert Holder.model_validate({"part": {"kind": "late", "size": 5}}).part == late(size=5)
    built = late(size=6)
    assert Holder(part=built).part is built
    with pytest.raises(ValidationError) as error:
        Holder.model_validate({"part": {"kind": "late", "size": "x"}})
    assert error.value.errors()[0]["loc"] == ("part", "size")


def test_configs_are_frozen_strict_and_refuse_nan():
    from l2o.gradient.lstm import LSTMConfig

    config = LSTMConfig()
    with pytest.raises(ValidationError):
        config.hidden = 3
    for bad in ({"hidden": "3"}, {"hidden": 0}, {"p": float("nan")}, {"output_scale": float("inf")}, {"hiden": 3}):
        with pytest.raises(ValidationError):
            LSTMConfig(**bad)


def test_nearest_hints_only_at_what_is_close():
    assert nearest("lsmt", ["lstm", "adam"]) == " (did you mean 'lstm'?)"
    assert nearest("quite different", ["lstm", "adam"]) == ""
    assert nearest("x", []) == ""
