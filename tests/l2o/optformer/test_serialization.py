"""Studies as text and as integers: every writer has an exact inverse, for all kinds, names and states."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o import Parameter, SearchSpace, Space, UserError
from l2o.optformer.serialization import metadata_tokens, segments
from l2o.optformer.text import from_text, to_text
from l2o.optformer.vocabulary import WORDS, Vocabulary
from l2o.record import ALGORITHMS, Record, RecordedTrial

# the runtime type checks of the tests look at one element of a tuple, drawn at random
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisWarning")
NASTY = ('"x",<goal>:<MINIMIZE>&<name>:', "a\nb|*<3>\\", "ü学" * 250, "x" * 500, "<>", " ", "\0")
NAMES = st.one_of(st.text(min_size=1, max_size=12), st.sampled_from(NASTY))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), NAMES, st.just(""), st.floats(allow_nan=False, allow_infinity=False)
)
Y_RANGE = (-2.0, 3.0)


@st.composite
def parameters(draw, name):
    kind = draw(st.sampled_from(["float", "integer", "discrete", "categorical"]))
    if kind == "categorical":
        values = draw(st.lists(VALUES, min_size=1, max_size=5, unique_by=lambda v: (type(v), v)))
        return Parameter(name=name, kind=kind, values=values)
    if kind == "discrete":
        numbers = st.one_of(st.integers(-9, 9), st.floats(-1e30, 1e30))
        return Parameter(name=name, kind=kind, values=draw(st.lists(numbers, min_size=1, max_size=5, unique=True)))
    scale = draw(st.sampled_from(["linear", "log", "reverse_log"]))
    if kind == "integer":
        low = draw(st.integers(1 if scale != "linear" else -(2**40), 2**40))
        high = low + draw(st.one_of(st.integers(0, 5), st.integers(0, 2**40)))
    else:
        low = draw(st.floats(1e-12, 1e6) if scale != "linear" else st.floats(-1e6, 1e6))
        high = low + max(abs(low), 1e-9) * draw(st.floats(1e-3, 1e6))
    return Parameter(name=name, kind=kind, low=low, high=high, scale=scale)


@st.composite
def records(draw, most=12, trials=3):
    names = draw(st.lists(NAMES, min_size=1, max_size=most, unique=True))
    space = SearchSpace(tuple(draw(parameters(name)) for name in names))
    text = st.one_of(st.just(""), NAMES)
    goal, algorithm = draw(st.sampled_from(["minimize", "maximize"])), draw(st.sampled_from(ALGORITHMS))
    made = []
    for _ in range(draw(st.integers(0, trials))):
        u = draw(st.lists(st.floats(0, 1), min_size=len(space), max_size=len(space)))
        state = draw(st.sampled_from(["complete", "infeasible", "pending"]))
        value = draw(st.floats(-3, 4)) if state == "complete" else None
        made.append(RecordedTrial(space.from_unit(u), value, state))
    return Record(space, draw(text), draw(text), goal, algorithm, made)


def assert_equal_but_for_bins(found, expected, bins):
    """Numbers to half a bin, or to half a bin and the share of a value; all else exactly."""
    assert repr(dataclasses.replace(found, trials=())) == repr(dataclasses.replace(expected, trials=()))
    assert len(found.trials) == len(expected.trials)
    width = Y_RANGE[1] - Y_RANGE[0]
    for one, other in zip(found.trials, expected.trials, strict=True):
        assert one.state == other.state and (one.value is None) == (other.value is None)
        if other.value is not None:
            assert abs(one.value - np.clip(other.value, *Y_RANGE)) <= width * (0.5 / bins + 1e-12)
        for p in expected.space.parameters:
            a, b = one.parameters[p.name], other.parameters[p.name]
            assert p.to_token(a, bins) == p.to_token(b, bins) or (p.kind == "integer" and p.levels > bins)
            if 0 < p.levels <= bins:
                assert repr(a) == repr(b)
            elif p.kind == "float":
                assert abs(p.to_unit(a) - p.to_unit(b)) <= 0.5 / bins + 1e-6
            elif p.kind == "integer" and p.scale == "linear":
                assert abs(a - b) <= p.levels * 0.5 / bins + 1


def parse_metadata(tokens, vocabulary):
    """The study that whole metadata says, without trials, but that tuples are lists: the inverse of the writer."""
    algorithms = {vocabulary.algorithm(name): name for name in ALGORITHMS}
    words = {vocabulary.word(name): name for name in WORDS}
    starts = [i for i, token in enumerate(tokens) if words.get(token) == "parameter"]

    def entries(part):
        found = []
        for token in part:
            if token in words:
                found.append((words[token], bytearray()))
            else:
                found[-1][1].append(token - vocabulary.byte(0))
        return [(word, raw.decode()) for word, raw in found]

    def parameter(part):
        kind, scale = words[part[1]], words[part[2]]
        found = entries(part[3 if kind == "float" else 4 :])
        only = dict(found)
        values = [json.loads(text) for word, text in found if word == "category"] or None
        low, high = (json.loads(only[word]) if word in only else None for word in ("minimum", "maximum"))
        return Parameter(name=only["name"], kind=kind, low=low, high=high, values=values, scale=scale)

    parameters = [parameter(tokens[i:j]) for i, j in itertools.pairwise([*starts, len(tokens)])]
    header = dict(entries(tokens[2 : starts[0]]))
    return Record(
        SearchSpace(tuple(parameters)), header.get("name", ""), header.get("metric", ""), words[tokens[1]],
        algorithms[tokens[0]],
    )  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(records(), st.sampled_from([8, 100, 1000]))
def test_text_is_invertible(record, bins):
    metadata, trials = to_text(record, bins, Y_RANGE)
    assert_equal_but_for_bins(from_text(metadata, trials, bins, Y_RANGE), record, bins)
    assert "\n" not in metadata and set(trials) <= set("<>*|0123456789INFEASIBLEPENDING")


@settings(deadline=None, max_examples=80)
@given(records(trials=0), st.sampled_from([0, 8, 256]))
def test_metadata_tokens_are_invertible(record, bins):
    vocabulary = Vocabulary(bins)
    tokens = metadata_tokens(record, vocabulary)
    assert repr(parse_metadata(tokens, vocabulary)) == repr(record)
    assert min(tokens) >= vocabulary.outputs and max(tokens) < vocabulary.size
    assert [token - bins for token in tokens] == metadata_tokens(record, Vocabulary(0))


def _study(**changes):
    space = SearchSpace.from_dict(
        {
            "opt_kw.lr": {"kind": "float", "low": 1e-6, "high": 1e-2, "scale": "log"},
            "layers": {"kind": "integer", "low": 1, "high": 8},
            "batch": {"kind": "discrete", "values": [32, 64.5]},
            "opt_type": ["SGD", "Adam"],
        }
    )
    point = {"opt_kw.lr": 2e-3, "layers": 3, "batch": 64.5, "opt_type": "Adam"}
    trials = [
        RecordedTrial(point, 0.25),
        RecordedTrial(point, None, "infeasible"),
        RecordedTrial(point, None, "pending"),
    ]
    start = {"name": "convnet on cifar10", "metric": "accuracy", "goal": "maximize", "algorithm": "random"}
    return Record(space, **{**start, "trials": trials, **changes})


def test_the_text_is_that_of_the_paper():
    metadata, trials = to_text(_study(), 1000, (0.0, 1.0))
    assert metadata == (
        '<name>:"convnet on cifar10",<metric>:"accuracy",<goal>:<MAXIMIZE>,<algorithm>:"random"'
        '&<name>:"opt_kw.lr",<type>:<DOUBLE>,<min_value>:1e-06,<max_value>:0.01,<scale_type>:<LOG>'
        '&<name>:"layers",<type>:<INTEGER>,<min_value>:1,<max_value>:8,<scale_type>:<LINEAR>'
        '&<name>:"batch",<type>:<DISCRETE>,<categories>:[32,64.5]'
        '&<name>:"opt_type",<type>:<CATEGORICAL>,<categories>:["SGD","Adam"]'
    )
    assert trials == "<825><2><1><1>*<250>|<825><2><1><1>*<INFEASIBLE>|<825><2><1><1>*<PENDING>|"
    assert to_text(_study(name="", metric=""), 9, (0, 1))[0].startswith('<goal>:<MAXIMIZE>,<algorithm>:"random"&')


def test_the_layout_of_tokens():
    v = Vocabulary(256)

    def text(word, of):
        return [v.word(word), *map(v.byte, of.encode())]

    whole, stripped = metadata_tokens(_study(), v), metadata_tokens(_study(), v, stripped=True)
    head = [v.algorithm("random"), v.word("maximize")]
    parts = [
        [v.word("parameter"), v.word("float"), v.word("log")],
        [v.word("parameter"), v.word("integer"), v.word("linear"), v.byte(7)],
        [v.word("parameter"), v.word("discrete"), v.word("linear"), v.byte(1)],
        [v.word("parameter"), v.word("categorical"), v.word("linear"), v.byte(1)],
    ]
    after = [
        text("name", "opt_kw.lr") + text("minimum", "1e-06") + text("maximum", "0.01"),
        text("name", "layers") + text("minimum", "1") + text("maximum", "8"),
        text("name", "batch") + text("category", "32") + text("category", "64.5"),
        text("name", "opt_type") + text("category", '"SGD"') + text("category", '"Adam"'),
    ]
    assert stripped == head + list(itertools.chain(*parts))
    titles = text("name", "convnet on cifar10") + text("metric", "accuracy")
    assert whole == head + titles + [t for part in zip(parts, after, strict=True) for t in itertools.chain(*part)]


def test_a_range_of_one_value_is_in_the_middle():
    metadata, trials = to_text(_study(trials=_study().trials[:1]), 10, (0.25, 0.25))
    assert trials.endswith("*<5>|") and from_text(metadata, trials, 10, (0.25, 0.25)).trials[0].value == 0.25


def test_values_beyond_the_range_are_in_the_first_or_the_last_bin():
    trials = [RecordedTrial(_study().trials[0].parameters, value) for value in (-9.0, 0.05, 0.55, 0.95, 9.0)]
    metadata, text = to_text(_study(trials=trials), 10, (0.0, 1.0))
    assert [row.split("*")[1] for row in text.split("|")[:-1]] == ["<0>", "<0>", "<5>", "<9>", "<9>"]
    values = [trial.value for trial in from_text(metadata, text, 10, (0.0, 1.0)).trials]
    np.testing.assert_allclose(values, [0.05, 0.05, 0.55, 0.95, 0.95])


def test_long_names_are_cut_between_characters():
    v = Vocabulary(16)
    record = Record(SearchSpace.from_dict({"ü" * 9: (1.2345678, 2.0), "b": ["long category", 1]}), name="é" * 300)
    short = metadata_tokens(record, v, longest_name=5)
    numbers = [v.byte(byte) for byte in b"1.2345678"]
    assert short[2:7] == [v.word("name"), *map(v.byte, "éé".encode())]
    assert any(short[i : i + 9] == numbers for i in range(len(short)))
    assert bytes(t - v.byte(0) for t in short[-7:-2]).startswith(b'"long') and len(short) < 70
    assert metadata_tokens(record, v, longest_name=10_000) == metadata_tokens(record, v)


@settings(deadline=None, max_examples=60)
@given(records(most=5, trials=0))
def test_segments_in_jax_are_the_stripped_tokens(record):
    """Of all spaces whose integers do not begin at 0."""
    wide = [p for p in record.space.parameters if p.kind == "float" or (p.low != 0 and abs(p.low or 0) < 2**20)]
    if not wide:
        return
    v, space = Vocabulary(256), SearchSpace(tuple(wide))
    try:
        mixed = space.space
    except UserError:  # more than single precision holds
        return
    found = segments(mixed, v)
    tokens = metadata_tokens(Record(space), v, stripped=True)
    assert [int(t) for t in found.reshape(-1) if t != v.word("pad")] == tokens[2:]


def test_constants_tuples_and_steps():
    """A constant is one listed number to a network; a tuple is a list in text."""
    fields = {"c": (2.0, 2.0), "t": [(64, 64), ([1], None)], "s": {"kind": "float", "low": 0, "high": 1, "step": 0.5}}
    record = Record(SearchSpace.from_dict(fields), trials=[RecordedTrial({"c": 2.0, "t": ([1], None), "s": 0.5}, 1.0)])
    lists = fields | {"t": [[64, 64], [[1], None]]}
    back = from_text(*to_text(record, 8, (0, 2)), 8, (0, 2))
    assert back.space == SearchSpace.from_dict(lists) and back.trials[0].parameters == {
        "c": 2.0,
        "t": [[1], None],
        "s": 0.5,
    }
    v = Vocabulary(8)
    parsed = parse_metadata(metadata_tokens(record, v), v).space
    assert parsed == SearchSpace.from_dict(lists | {"c": {"kind": "discrete", "values": [2.0]}})
    assert segments(record.space.space, v).reshape(-1).tolist() == metadata_tokens(record, v, stripped=True)[2:]


def test_segments_can_be_batched():
    v, space = Vocabulary(64), _study().space.space
    zero_based = Space.mixed(*jax.tree.map(lambda a: a[:1], space._replace(low=space.low * 0, levels=space.levels + 3)))
    assert segments(zero_based, v)[0, 1] == v.word("discrete")
    many = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), space)
    found = jax.jit(jax.vmap(lambda space: segments(space, v)))(many)
    np.testing.assert_array_equal(found[1], found[0][::-1])
    assert found.dtype == jnp.int32 and found[0, 0, 3] == v.word("pad")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal": "maximise"}, "the goal of a study is 'maximise': expected one of minimize, maximize"),
        ({"algorithm": "magic"}, "the algorithm of a study is 'magic'"),
        ({"name": "\ud800"}, "name of a study must be valid Unicode"),
        ({"trials": [RecordedTrial({}, 1.0, "done")]}, "trial 0 is 'done'"),
        ({"trials": [RecordedTrial({}, None)]}, "trial 0 is complete with value None: expected a finite number"),
        ({"trials": [RecordedTrial({}, float("nan"))]}, "complete with value nan"),
        ({"trials": [RecordedTrial({}, 1.0, "pending")]}, "pending with value 1.0: expected None"),
    ],
)
def test_bad_records_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        _study(**changes)


def test_numpy_values_are_numbers():
    assert type(_study(trials=[RecordedTrial({}, np.float32(0.5))]).trials[0].value) is float


@pytest.mark.parametrize("y_range", [(1.0, 0.0), (0.0, float("nan")), (-1.7e308, 1.7e308), (1,), None])
def test_bad_ranges_are_refused(y_range):
    with pytest.raises(UserError, match=r"range of a metric is .*expected finite numbers"):
        to_text(_study(), 8, y_range)


METADATA, TRIALS = to_text(_study(), 10, (0.0, 1.0))


@pytest.mark.parametrize(
    ("metadata", "trials", "message"),
    [
        ("", "", "expected a new field"),
        (METADATA.replace('"accuracy"', '"accuracy'), "", "expected a comma or &"),
        (METADATA.replace('"accuracy"', "accuracy"), "", "damaged: expected JSON after <metric>"),
        (METADATA + "x", "", "expected a comma or &"),
        (METADATA + "&", "", "expected a new field"),
        (METADATA.replace("MAXIMIZE", "MAX"), "", "goal of a study is 'max'"),
        (METADATA.replace('"accuracy"', "3"), "", "expected name, metric, goal and algorithm"),
        (METADATA.replace("metric", "metrics"), "", "expected name, metric, goal and algorithm"),
        (METADATA.replace("DOUBLE", "FLOAT"), "", "'opt_kw.lr': kind: .*found 'FLOAT'"),
        (METADATA.replace("min_value", "minimum"), "", "unknown field 'minimum'"),
        (METADATA.replace("min_value", "name"), "", "expected a new field"),
        (METADATA.split("&")[0], "", "no parameters"),
        (METADATA, TRIALS + "<3>", r"expected <token>...\*<value>|"),
        (METADATA, TRIALS.replace("<2><1>", "<1>"), "expected 4 finite numbers"),
        (METADATA, TRIALS.replace("<2>", "<8>"), "'layers' has 8 tokens, found token 8"),
        (METADATA, TRIALS.replace("<2>", f"<{10**400}>"), "expected 4 finite numbers"),
        (METADATA, TRIALS.replace("*<2", "*<12"), "value of a trial is <12>"),
        (METADATA, TRIALS.replace("PENDING", "LATER"), "value of a trial is <LATER>"),
    ],
)
def test_damaged_text_is_refused(metadata, trials, message):
    with pytest.raises(UserError, match=message):
        from_text(metadata, trials, 10, (0.0, 1.0))
