"""Named parameters: what is refused, exact round trips, agreement with the single-precision Space."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o import Parameter, SearchSpace, UserError

# the runtime type checks of the tests look at one parameter of a tuple, drawn at random
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisWarning")
SCALES = ("linear", "log", "reverse_log")
NAMES = st.one_of(st.text(min_size=1, max_size=20), st.just('ü\n"*|&<é,' * 60))
CATEGORIES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)
)


@st.composite
def parameters(draw, name="p", extreme=False):
    """A parameter of any kind and scale; `extreme`, also with numbers that single precision cannot hold."""
    kind = draw(st.sampled_from(["float", "integer", "discrete", "categorical"]))
    if kind == "categorical":
        values = draw(st.lists(CATEGORIES, min_size=1, max_size=6, unique_by=lambda v: (type(v), v)))
        return Parameter(name=name, kind=kind, values=values)
    if kind == "discrete":
        numbers = st.one_of(st.integers(-9, 9), st.floats(-1e6, 1e6))
        return Parameter(name=name, kind=kind, values=draw(st.lists(numbers, min_size=1, max_size=6, unique=True)))
    scale = draw(st.sampled_from(SCALES))
    if kind == "integer":
        top = 2**60 if extreme else 10**4
        low = draw(st.integers(1 if scale != "linear" else -top, top))
        return Parameter(name=name, kind=kind, low=low, high=low + draw(st.integers(0, top)), scale=scale)
    smallest, widest = (1e-14, 1e14) if extreme else (0.1, 1e4)
    low = draw(st.floats(1e-3, 10) if scale != "linear" else st.floats(-10, 10))
    high = low + max(abs(low), 0.01) * draw(st.floats(smallest, widest))
    return Parameter(name=name, kind=kind, low=low, high=high, scale=scale)


@st.composite
def spaces(draw, extreme=False, most=12):
    names = draw(st.lists(NAMES, min_size=1, max_size=most, unique=True))
    return SearchSpace(tuple(draw(parameters(name, extreme)) for name in names))


UNITS = st.lists(st.floats(0, 1), min_size=12, max_size=12)


@settings(deadline=None, max_examples=60)
@given(spaces(extreme=True))
def test_dictionaries_and_json_are_exact(space):
    assert SearchSpace.from_dict(space.to_dict()) == space
    back = SearchSpace.from_json(space.to_json())
    assert back == space
    assert repr(back) == repr(space)  # types too: 1, 1.0 and True are equal


@settings(deadline=None, max_examples=100)
@given(spaces(extreme=True), UNITS, st.sampled_from([2, 16, 256]))
def test_round_trips_in_double_precision(space, u, bins):
    u = np.array(u[: len(space)])
    assignment = space.from_unit(u)
    unit = space.to_unit(assignment)
    assert unit.dtype == np.float64 and np.all((unit >= 0) & (unit <= 1))
    tokens = space.to_tokens(assignment, bins)
    back = space.from_tokens(tokens, bins)
    unit_back = space.to_unit(back)
    for i, p in enumerate(space.parameters):
        value = assignment[p.name]
        narrow = _rounding(p)
        if p.kind == "float":
            assert p.low <= value <= p.high and abs(unit[i] - u[i]) <= 1e-12 + narrow
        elif p.kind == "integer":
            assert isinstance(value, int) and p.low <= value <= p.high
        else:
            assert any(value is v for v in p.values)
        if 0 < p.levels < 2**40 and p.scale == "linear":
            assert p.from_unit(unit[i]) == value and abs(unit[i] - u[i]) <= 0.5 / p.levels + 1e-9
        assert 0 <= tokens[i] < space.sizes(bins)[i]
        if 0 < p.levels <= bins:
            assert back[p.name] == value and type(back[p.name]) is type(value)
        else:
            assert abs(unit_back[i] - unit[i]) <= 0.5 / bins + 1e-9 + narrow + _share(p, value)


def _rounding(p):
    """What the rounding error of a float is in the unit interval, at most."""
    if p.kind != "float":
        return 0
    step = 4e-16 * max(abs(p.low), abs(p.high))
    return step / (p.low * math.log1p((p.high - p.low) / p.low) if p.scale == "reverse_log" else p.high - p.low)


def _share(p, value):
    """What the share of one value is in the unit interval, at most."""
    if p.kind == "integer":
        return 2 * abs(p.to_unit(value) - p.to_unit(value + 1 if value < p.high else value - 1))
    return 1 / p.levels if p.levels else 0


@settings(deadline=None, max_examples=60)
@given(spaces(most=5), UNITS, st.sampled_from([4, 200]))
def test_single_precision_space_agrees(space, u, bins):
    mixed = space.space
    assignment = space.from_unit(u[: len(space)])
    x = space.to_point(assignment)
    assert x.dtype == np.float32 and mixed.contains(jnp.array(x))
    np.testing.assert_allclose(mixed.to_unit(jnp.array(x)), space.to_unit(assignment), atol=1e-4)
    np.testing.assert_array_equal(mixed.levels, [p.levels for p in space.parameters])
    np.testing.assert_array_equal(mixed.sizes(bins), space.sizes(bins))
    back = space.from_point(x)
    for p in space.parameters:
        if p.levels:
            assert back[p.name] == assignment[p.name] and type(back[p.name]) is type(assignment[p.name])
        else:
            assert math.isclose(back[p.name], assignment[p.name], rel_tol=2e-7, abs_tol=1e-9)
    middles = [size // 2 for size in space.sizes(bins)]
    point = mixed.from_tokens(jnp.array(middles), bins)
    values = space.from_tokens(middles, bins)
    for i, p in enumerate(space.parameters):
        step = 0 if p.kind == "float" else 1
        assert abs(float(point[i]) - p.index(values[p.name])) <= step + 1e-3 * (1 + abs(float(point[i])))
        if p.levels == 0 or p.levels <= bins:  # the middles of bins; large integers may lie anywhere in theirs
            assert space.to_tokens(values, bins)[i] == middles[i] == mixed.to_tokens(point, bins)[i]


def test_scales_are_logarithms():
    fields = {"kind": "float", "low": 1e-5, "high": 1e-1}
    space = SearchSpace.from_dict({s: {**fields, "scale": s} for s in SCALES[1:]})
    np.testing.assert_allclose(
        space.to_unit({"log": 1e-4, "reverse_log": 1e-1 + 1e-5 - 1e-4}), [0.25, 0.75], rtol=1e-12
    )
    assert space.from_unit([0.25, 1.0])["log"] == pytest.approx(1e-4, rel=1e-12)


def test_huge_integers_and_narrow_ranges_are_exact():
    space = SearchSpace.from_dict(
        {"seed": {"kind": "integer", "low": 2**60, "high": 2**60 + 9}, "x": (1.0, 1.0 + 2**-40)}
    )
    for k in range(10):
        assert space.from_unit(space.to_unit({"seed": 2**60 + k, "x": 1 + k * 2**-44})) == {
            "seed": 2**60 + k,
            "x": 1 + k * 2**-44,
        }
    with pytest.raises(UserError, match=r"'seed'.*single precision"):
        _ = space.space


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "float", "low": 1.0, "high": 1.0 + 1e-12},
        {"kind": "float", "low": 0.0, "high": 1e-42},
        {"kind": "float", "low": 0.0, "high": 1e300},
        {"kind": "float", "low": 1e-42, "high": 1.0, "scale": "log"},
        {"kind": "float", "low": 1e-30, "high": 1e30, "scale": "log"},
        {"kind": "integer", "low": 2**60, "high": 2**60 + 5},
    ],
)
def test_what_single_precision_cannot_hold(fields):
    space = SearchSpace.from_dict({"a": (0, 1), "b": fields})
    assert space.to_unit(space.from_unit([0.5, 0.5]))[1] == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UserError, match=r"'b'.*single precision"):
        _ = space.space


def test_shorthands():
    space = SearchSpace.from_dict({"a": ["sgd", 3, None], "b": (0, 1), "c": {"kind": "discrete", "values": [3, 0.5]}})
    assert [p.kind for p in space.parameters] == ["categorical", "float", "discrete"]
    assert space.names == ["a", "b", "c"] and len(space) == 3
    assert type(space.parameters[1].low) is float and space.parameters[2].values == (0.5, 3)
    assert space.space.ordered.tolist() == [False, True, True]


def test_equal_categories_of_different_types_are_distinct():
    p = Parameter(name="p", kind="categorical", values=[1, True, 1.0, "1", np.float64(2.5), np.int64(4)])
    assert [p.index(v) for v in (True, 1.0, 1, "1", np.int64(1), np.float32(1), 2.5, 4.0)] == [1, 2, 0, 3, 0, 2, 4, 5]
    for bad in (None, "x", [1], np.ones(2), {}):
        with pytest.raises(UserError, match=r"'p' is .*expected one of"):
            p.index(bad)


def kinds_of(value):
    return [type(value), *map(kinds_of, value)] if isinstance(value, list | tuple) else type(value)


def test_categories_may_be_lists_and_tuples():
    given = [(64, 64), [64, 64], (128,), [[3, 3], [5]], (), (True, None, "a"), (1, np.float32(0.5)), ([1.5],), (1.0,)]
    space = SearchSpace.from_dict({"layers": given, "other": [[3, 3], [5]]})
    p = space.parameters[0]
    for i, category in enumerate(given):
        assert p.index(category) == i and p.value(i) == category
        assert i == 6 or kinds_of(p.value(i)) == kinds_of(category)  # Python's own numbers, once and for all
    assert [p.index(v) for v in ([128], (128,), (1.0, None, "a"), [[1.5]], (np.int64(64), 64))] == [2, 2, 5, 7, 0]
    for bad in ((64,), 64, None, "ab", (64, 65), {64, 65}, np.ones(2)):
        with pytest.raises(UserError, match=r"'layers' is .*expected one of"):
            p.index(bad)
    given[1].append("changed")
    p.value(3)[0].append("changed")
    p.value(7)[0].append("changed")
    assert (p.value(1), p.value(3), p.value(7)) == ([64, 64], [[3, 3], [5]], ([1.5],))
    assert hash(p) == hash(p.model_copy()) and repr(p) == repr(Parameter(**p.model_dump()))
    assert space.to_dict()["other"]["values"] == [[3, 3], [5]]
    assert space.to_dict()["layers"]["values"][0] == {"tuple": [64, 64]}
    for back in (SearchSpace.from_dict(space.to_dict()), SearchSpace.from_json("\ufeff" + space.to_json())):
        assert back == space and repr(back) == repr(space)
    assert space.from_unit(space.to_unit({"layers": (), "other": [5]})) == {"layers": (), "other": [5]}


@pytest.mark.parametrize(
    ("low", "scale"), [(2.0, "linear"), (-1e9, "linear"), (0.0, "linear"), (1e-300, "log"), (3, "reverse_log")]
)
def test_a_float_may_be_a_constant(low, scale):
    space = SearchSpace.from_dict(
        {"c": {"kind": "float", "low": low, "high": low, "scale": scale}, "d": (low, low), "x": (0, 1)}
    )
    p, mixed = space.parameters[0], space.space
    assert p.levels == p.size(9) == 1 and p.to_unit(low) == 0.5 and p.to_token(low, 9) == 0
    for found in (p.from_unit(0), p.from_unit(0.7), p.from_unit(1), p.from_token(0, 9), p.value(p.index(low))):
        assert found == low and type(found) is float
    with pytest.raises(UserError, match=f"from {p.low} to {p.high}"):
        p.index(low + 1)
    assert mixed.levels.tolist() == [1, 1, 0] and mixed.low.tolist() == [*mixed.high.tolist()[:2], 0]
    whole = {"c": low, "d": low, "x": 0.5}
    assert space.from_point(space.to_point(whole)) == space.from_unit(space.to_unit(whole)) == whole
    np.testing.assert_allclose(mixed.to_unit(jnp.array(space.to_point(whole))), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(mixed.from_unit(jnp.array([1.0, 0.0, 0.5])), [0, 0, 0.5])
    assert SearchSpace.from_json(space.to_json()) == space
    assert space.from_unit([0, 0, 0.5])["c"] == low


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"kind": "float", "low": 0, "high": 1, "step": 0.1}, [k / 10 for k in range(11)]),
        ({"kind": "float", "low": 0.05, "high": 0.5, "step": np.float64(0.2)}, [0.05, 0.25, 0.45]),
        ({"kind": "float", "low": 0, "high": 1, "step": 7}, [0.0]),
        ({"kind": "float", "low": 2, "high": 2, "step": 1}, [2.0]),
        ({"kind": "integer", "low": 1, "high": 8, "step": 3}, [1, 4, 7]),
        ({"kind": "integer", "low": 2**60, "high": 2**60 + 4, "step": 2.0}, [2**60, 2**60 + 2, 2**60 + 4]),
    ],
)
def test_a_step_lists_the_values(fields, values):
    p = SearchSpace.from_dict({"p": fields}).parameters[0]
    assert p == Parameter(name="p", kind="discrete", values=values)
    assert list(map(type, p.values)) == list(map(type, values))


def test_a_step_of_one_leaves_an_integer():
    fields = {"kind": "integer", "low": 0, "high": 2**40}
    for step in (1, 1.0, None):
        assert Parameter(name="p", **fields, step=step) == Parameter(name="p", **fields)


def test_a_listed_number_may_have_a_rounding_error():
    p = Parameter(name="p", kind="discrete", values=[0.1, 0.2, 0.3, 4])
    assert p.index(0.1 + 0.2) == 2 and p.index(np.float64(4)) == 3
    for bad in (0.3001, 0.0, 5, 0.25, "0.1", True, math.nan, None):
        with pytest.raises(UserError, match=r"'p' is .*expected"):
            p.index(bad)


def _good():
    return SearchSpace.from_dict(
        {"lr": (0.0, 1.0), "layers": {"kind": "integer", "low": 1, "high": 8}, "opt": ["a", "b"]}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 2.0}, "'lr' is 2.0: expected a number from 0.0 to 1.0"),
        ({"lr": math.nan}, "'lr' is nan: expected a finite number"),
        ({"lr": "0.5"}, "expected a finite number"),
        ({"lr": True}, "expected a finite number"),
        ({"layers": 9}, "from 1 to 8"),
        ({"layers": 2.5}, "whole number"),
        ({"opt": "c"}, "one of"),
        ({"lrr": 1}, "did you mean 'lr'"),
    ],
)
def test_bad_assignments_are_refused(change, message):
    good = {"lr": 0.5, "layers": 2.0, "opt": "b"}
    assert _good().from_point(_good().to_point(good)) == {"lr": 0.5, "layers": 2, "opt": "b"}
    for use in (_good().to_point, _good().to_unit, lambda a: _good().to_tokens(a, 16)):
        with pytest.raises(UserError, match=message):
            use({**good, **change})
    with pytest.raises(UserError, match="lacks 'layers'"):
        _good().to_point({"lr": 0.5, "opt": "a"})
    with pytest.raises(UserError, match="expected a dictionary"):
        _good().to_point([0.5])


def test_bad_points_and_tokens_are_refused():
    for bad in ([0.5, 1.0], [0.5, 1.0, math.nan], 3.0):
        with pytest.raises(UserError, match="expected 3 finite numbers"):
            _good().from_unit(bad)
        with pytest.raises(UserError, match="expected 3 finite numbers"):
            _good().from_point(bad)
    with pytest.raises(UserError, match="has 2 tokens, found token 2"):
        _good().from_tokens([0, 0, 2], 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "float", "low": 1.0}, "has low and high"),
        ({"kind": "float", "low": 1, "high": 0}, "low must be at most high, found 1.0 and 0.0"),
        ({"kind": "float", "low": math.nan, "high": 1}, "low must be a finite number, found nan"),
        ({"kind": "float", "low": 0, "high": math.inf}, "high must be a finite number, found inf"),
        ({"kind": "float", "low": 0, "high": 10**400}, "high must be a finite number"),
        ({"kind": "float", "low": "0", "high": 1}, "low must be a finite number, found '0'"),
        ({"kind": "float", "low": False, "high": 1}, "low must be a finite number, found False"),
        ({"kind": "float", "low": -1.7e308, "high": 1.7e308}, "too wide"),
        ({"kind": "float", "low": 5e-324, "high": 1, "scale": "log"}, "too wide"),
        ({"kind": "float", "low": 0, "high": 1, "scale": "log"}, "low must be positive on the scale log"),
        ({"kind": "integer", "low": 0, "high": 1, "scale": "reverse_log"}, "low must be positive"),
        ({"kind": "integer", "low": 0, "high": 1.5}, "whole numbers"),
        ({"kind": "integer", "low": 0, "high": 2**63}, "whole numbers below"),
        ({"kind": "integer", "low": 1, "high": 0}, "at most high"),
        ({"kind": "integer", "low": 1, "high": 2, "values": [1]}, "no values"),
        ({"kind": "discrete", "values": []}, "one or more"),
        ({"kind": "discrete"}, "one or more"),
        ({"kind": "discrete", "values": [1, 1.0]}, "distinct"),
        ({"kind": "discrete", "values": [1, True]}, "finite numbers, found True"),
        ({"kind": "discrete", "values": [1, math.inf]}, "finite numbers, found inf"),
        ({"kind": "discrete", "values": [1, 2], "scale": "log"}, "nor a scale"),
        ({"kind": "categorical", "values": ["a", "a"]}, "distinct"),
        ({"kind": "categorical", "values": [math.nan]}, "finite"),
        ({"kind": "categorical", "values": [{1}]}, r"found \{1\}"),
        ({"kind": "categorical", "values": [(1, {"a": 2})]}, r"lists and tuples of such, found \(1, "),
        ({"kind": "categorical", "values": [[[[[[[[[[1]]]]]]]]]]}, "nested at most 8 deep"),
        ({"kind": "categorical", "values": [[1, math.nan]]}, r"finite, found \[1, nan\]"),
        ({"kind": "categorical", "values": [("\ud800",)]}, "valid Unicode"),
        ({"kind": "categorical", "values": [(1, [2]), (1, [2])]}, "distinct"),
        ({"kind": "categorical", "values": ["\ud800"]}, "valid Unicode"),
        ({"kind": "categorical", "values": "abc"}, "found 'abc'"),
        ({"kind": "categorical", "values": ["a"], "low": 0}, "neither bounds"),
        ({"kind": "flaot", "low": 0, "high": 1}, "'float', 'integer'.*found 'flaot'"),
        ({"low": 0, "high": 1}, "kind: Field required"),
        ({"kind": "float", "low": 0, "high": 1, "hihg": 2}, "unknown field 'hihg'.*'high'"),
        ({"kind": "float", "low": 0, "high": 1, "name": "a"}, "expected a dictionary of kind"),
        (3, "expected a dictionary of kind"),
        ((1, 2, 3), "expected a dictionary of kind"),
        ((2, 1), "low must be at most high"),
        ({"kind": "float", "low": 0, "high": 1, "step": 0}, "step must be a positive number, found 0"),
        ({"kind": "float", "low": 0, "high": 1, "step": -0.5}, "step must be a positive number"),
        ({"kind": "float", "low": 0, "high": 1, "step": math.nan}, "step must be a positive number, found nan"),
        ({"kind": "float", "low": 0, "high": 1, "step": math.inf}, "step must be a positive number, found inf"),
        ({"kind": "float", "low": 0, "high": 1, "step": True}, "step must be a positive number, found True"),
        ({"kind": "float", "low": 0, "high": 1, "step": "0.1"}, "step must be a positive number, found '0.1'"),
        ({"kind": "float", "low": 0, "high": 1, "step": 1e-6}, "has 1000001 steps from 0.0 to 1.0: expected at most"),
        ({"kind": "float", "low": 0, "high": 1, "step": 5e-324}, "has inf steps"),
        ({"kind": "float", "low": 1, "high": 9, "step": 1, "scale": "log"}, "on a linear scale alone"),
        ({"kind": "integer", "low": 0, "high": 9, "step": 1.5}, "step of an integer must be a whole number, found 1.5"),
        ({"kind": "integer", "low": 1, "high": 9, "step": 2, "scale": "log"}, "on a linear scale alone"),
        ({"kind": "discrete", "values": [1, 2], "step": 1}, "on a linear scale alone"),
        ({"kind": "float", "step": 1}, "has low and high"),
        ([], "one or more"),
    ],
)
def test_bad_parameters_are_refused_in_a_sentence(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        SearchSpace.from_dict({"lr": fields})
    assert "parameter 'lr'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["conditional", "parent", "condition", "children", "conditions"])
def test_conditional_parameters_are_refused(key):
    with pytest.raises(UserError, match=f"'lr' has '{key}', and conditional parameters are not supported yet"):
        SearchSpace.from_dict({"lr": {"kind": "float", "low": 0, "high": 1, key: {}}})


def test_bad_spaces_are_refused():
    a = Parameter(name="a", kind="float", low=0, high=1)
    with pytest.raises(UserError, match="several parameters named 'a'"):
        SearchSpace((a, a))
    with pytest.raises(UserError, match="at least one"):
        SearchSpace(())
    with pytest.raises(UserError, match="at least 1 character"):
        SearchSpace.from_dict({"": (0, 1)})
    with pytest.raises(UserError, match="expected a dictionary"):
        SearchSpace.from_dict([a])
    for text, message in (("{", "not valid JSON"), ('{"a": [1], "a": [2]}', "twice"), ("[]", "expected a dictionary")):
        with pytest.raises(UserError, match=message):
            SearchSpace.from_json(text)
    for text in ('{"a": {"kind": "float", "low": NaN, "high": 1}}', '{"a": [Infinity]}'):
        with pytest.raises(UserError, match="finite"):
            SearchSpace.from_json(text)


def test_parameters_are_frozen_and_hashable():
    a = Parameter(name="a", kind="float", low=0, high=1)
    with pytest.raises(ValueError, match="frozen"):
        a.low = 3
    assert hash(a) == hash(Parameter(name="a", kind="float", low=0.0, high=1.0))


@pytest.mark.parametrize(("kind", "scale"), list(itertools.product(("float", "integer"), SCALES)))
def test_what_a_token_stands_for_has_that_token(kind, scale):
    p = Parameter(name="p", kind=kind, low=1, high=300, scale=scale)
    for k in range(1, 301):
        token = p.to_token(k, 300)
        assert p.to_token(p.from_token(token, 300), 300) == token
