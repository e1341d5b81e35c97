"""Configs load and round-trip; every mistake in one is a single sentence that names the file and the field."""

import copy
import datetime
import math
import tomllib

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import Curves, Experiment
from experiments.study import StudyConfig
from l2o.errors import UserError

EXPERIMENT = {
    "seed": 3,
    "optimizer": {"kind": "lstm", "layers": 1, "hidden": 2},
    "task": {"kind": "mlp_classifier", "width": 4, "dataset": {"kind": "digits"}},
    "meta": {
        "steps": 6, "horizon": 4, "log_every": 2, "validate_every": 2, "checkpoint_every": 4,
        "objective": {"kind": "sum", "log": True},
        "estimator": {"kind": "backprop", "unroll_length": 2},
        "optimizer": {"learning_rate": 3e-3},
    },
}  # fmt: skip
STUDY = {
    "seed": 3,
    "horizon": 6,
    "runs": 4,
    "steps": [2, 6],
    "optimizers": ["lstm"],
    "baselines": [{"kind": "sgd"}, {"kind": "adam", "learning_rate": 0.1}],
    "tune": {"low": 0.01, "high": 1.0, "per_decade": 1, "measure": "mean"},
    "task": {"kind": "quadratic", "dimension": 2},
}
DOCUMENTS = {Experiment: EXPERIMENT, Curves: STUDY}


@pytest.fixture
def refusal(tmp_path):
    """The one-line refusal of a document with some fields replaced; None deletes."""

    def write(edits, cls=Experiment):
        data = copy.deepcopy(DOCUMENTS[cls])
        for field, value in edits.items():
            place, (*parents, last) = data, [int(part) if part.isdecimal() else part for part in field.split(".")]
            for part in parents:
                place = place[part]
            if value is None:
                del place[last]
            else:
                place[last] = value
        path = tmp_path / "mine.toml"
        path.write_text(tomli_w.dumps(data), encoding="utf-8")
        with pytest.raises(UserError) as caught:
            cls.load(path)
        return one_line(caught, path)

    return write


def one_line(caught, path=None):
    text = str(caught.value)
    assert len(text.splitlines()) == 1, text
    if path is not None:
        assert str(path) in text
        text = text.replace(str(path), "").removeprefix(": ")
    assert "pydantic" not in text and "Input should" not in text
    return text


BUNDLED = [(cls, name) for cls in (Experiment, Curves) for name in cls.names()]


@pytest.mark.parametrize(("cls", "name"), BUNDLED, ids=[f"{cls.__name__}-{name}" for cls, name in BUNDLED])
def test_bundled_files_load_and_round_trip(cls, name):
    document = StudyConfig.load(name) if cls is Curves else cls.load(name)
    assert document.description, "l2o list shows it"
    text = document.toml()
    again = type(document).parse(tomllib.loads(text), "again")
    assert again == document
    assert again.toml() == text


@pytest.mark.parametrize("cls", [Experiment, Curves])
def test_every_bundled_file_is_named(cls):
    assert cls.names() == sorted(path.stem for path in cls.folder().glob("*.toml"))
    assert cls.names()


@pytest.mark.parametrize("cls", [Experiment, Curves])
def test_a_document_round_trips_through_a_file(cls, tmp_path):
    document = cls.parse(DOCUMENTS[cls], "here")
    path = tmp_path / "resolved.toml"
    path.write_text(document.toml(), encoding="utf-8")
    assert cls.load(path) == document


def test_the_resolved_document_spells_out_defaults():
    data = tomllib.loads(Experiment.parse(EXPERIMENT, "here").toml())
    assert data["optimizer"]["preprocessing"] == "log"
    assert data["meta"]["estimator"]["stagger"] is True
    assert data["task"]["batch_size"] == 128


@pytest.mark.parametrize(
    ("cls", "field", "hint"),
    [
        (Experiment, "sed", "seed"),
        (Experiment, "optimizer.hiden", "hidden"),
        (Experiment, "task.widht", "width"),
        (Experiment, "task.dataset.data_dri", None),
        (Experiment, "meta.stps", "steps"),
        (Experiment, "meta.objective.lgo", "log"),
        (Experiment, "meta.estimator.unrol_length", "unroll_length"),
        (Experiment, "meta.optimizer.learning_rat", "learning_rate"),
        (Experiment, "str", None),
        (Curves, "horizn", "horizon"),
        (Curves, "tune.per_decad", "per_decade"),
        (Curves, "baselines.0.learning_rat", "learning_rate"),
        (Curves, "baselines.1.decay", None),
    ],
)
def test_unknown_field(refusal, cls, field, hint):
    text = refusal({field: 1}, cls)
    assert text.startswith(f"{field} is an unknown field")
    assert "expected one of " in text
    if hint is not None:
        assert f"(did you mean {hint!r}?)" in text


def test_a_misspelled_required_field_is_named_rather_than_the_missing_one(refusal):
    assert "did you mean 'steps'?" in refusal({"meta.steps": None, "meta.stepz": 6})


@pytest.mark.parametrize("found", [[1], {}, "lstm"])
def test_a_kind_where_there_are_none(refusal, found):
    assert refusal({"meta.kind": found}).startswith("meta.kind is an unknown field")


def test_an_unknown_field_with_a_line_break_stays_on_one_line(refusal):
    assert "unknown field" in refusal({"a\nb": 1})


@pytest.mark.parametrize(
    ("cls", "field", "found", "hint"),
    [
        (Experiment, "optimizer", "lstn", "lstm"),
        (Experiment, "task", "mlp_clasifier", "mlp_classifier"),
        (Experiment, "task.dataset", "digit", "digits"),
        (Experiment, "meta.objective", "smu", "sum"),
        (Experiment, "meta.estimator", "backpropagation", "backprop"),
        (Curves, "task", "quadratc", "quadratic"),
        (Curves, "baselines.0", "sdg", "sgd"),
        (Curves, "baselines.1", "adm", "adam"),
    ],
)
def test_unknown_kind(refusal, cls, field, found, hint):
    text = refusal({f"{field}.kind": found}, cls)
    assert text.startswith(field)
    assert f"unknown kind {found!r} (did you mean {hint!r}?), expected one of " in text


@pytest.mark.parametrize("found", [3, True, [], "nothing like it"])
def test_a_kind_that_is_nothing_like_any(refusal, found):
    text = refusal({"meta.objective.kind": found})
    assert text.startswith("meta.objective") and repr(found) in text and "weighted_sum" in text


@pytest.mark.parametrize(
    ("cls", "field"),
    [(Experiment, "optimizer"), (Experiment, "meta.estimator"), (Curves, "task"), (Curves, "baselines.1")],
)
def test_missing_kind(refusal, cls, field):
    text = refusal({f"{field}.kind": None}, cls)
    assert text.startswith(field) and "kind is missing, expected one of " in text


@pytest.mark.parametrize(
    ("cls", "field", "found", "expected"),
    [
        (Experiment, "seed", "7", "integer"),
        (Experiment, "seed", True, "integer"),
        (Experiment, "seed", -1, "greater than or equal to 0"),
        (Experiment, "seed", 2**31, "less than"),
        (Experiment, "description", 3, "string"),
        (Experiment, "meta.steps", 6.0, "integer"),
        (Experiment, "meta.steps", "6", "integer"),
        (Experiment, "meta.steps", True, "integer"),
        (Experiment, "meta.steps", {}, "integer"),
        (Experiment, "meta.steps", {"of": 3}, "integer"),
        (Experiment, "meta.steps", [6], "integer"),
        (Experiment, "meta.steps", 0, "greater than or equal to 1"),
        (Experiment, "meta.steps", datetime.date(2020, 1, 1), "integer"),
        (Experiment, "meta.init", 3, "string"),
        (Experiment, "meta.init", "", "at least 1 character"),
        (Experiment, "meta.objective.log", 1, "boolean"),
        (Experiment, "meta.objective.log", "true", "boolean"),
        (Experiment, "meta.optimizer.learning_rate", "0.1", "number"),
        (Experiment, "meta.optimizer.learning_rate", True, "number"),
        (Experiment, "meta.optimizer.learning_rate", math.nan, "finite number"),
        (Experiment, "meta.optimizer.learning_rate", math.inf, "finite number"),
        (Experiment, "meta.optimizer.learning_rate", -math.inf, "finite number"),
        (Experiment, "meta.optimizer.learning_rate", 0, "greater than 0"),
        (Experiment, "meta.optimizer.average", 1.0, "less than 1"),
        (Experiment, "meta.optimizer.schedule", "linear", "'cosine' or 'constant'"),
        (Experiment, "optimizer.p", 81.0, "less than or equal to 80"),
        (Experiment, "optimizer.preprocessing", "lg", "'log' or 'none'"),
        (Experiment, "meta", 3, "table"),
        (Experiment, "meta.optimizer", 0.1, "table"),
        (Experiment, "optimizer", 3, "table"),
        (Experiment, "task.dataset", "digits", "table"),
        (Experiment, "meta.objective", [1], "table"),
        (Curves, "runs", 1, "greater than or equal to 2"),
        (Curves, "steps", 6, "array"),
        (Curves, "steps", [], "at least 1 item"),
        (Curves, "steps.1", "6", "integer"),
        (Curves, "steps.1", True, "integer"),
        (Curves, "steps.0", 0, "greater than or equal to 1"),
        (Curves, "optimizers", "lstm", "array"),
        (Curves, "optimizers.0", 1, "string"),
        (Curves, "baselines", 3, "array"),
        (Curves, "baselines.0", "sgd", "table"),
        (Curves, "baselines.0.learning_rate", math.nan, "finite number"),
        (Curves, "baselines.1.learning_rate", 0.0, "greater than 0"),
        (Curves, "baselines.1.b1", 1, "less than 1"),
        (Curves, "tune", [], "table"),
        (Curves, "tune.low", math.inf, "finite number"),
        (Curves, "tune.low", 0.0, "greater than 0"),
        (Curves, "tune.per_decade", 0, "greater than or equal to 1"),
    ],
)
def test_a_value_that_does_not_fit(refusal, cls, field, found, expected):
    text = refusal({field: found}, cls)
    assert text.startswith(f"{field}: "), text
    assert repr(found) in text, text
    assert "expected " in text and expected in text.split("expected ", 1)[1], text
    assert "dictionary" not in text and "Tuple" not in text and "String should" not in text, "TOML has tables"


@pytest.mark.parametrize("measure", ["eahc", 0, -1, True, 1.5, [2]])
def test_what_rates_are_tuned_for(refusal, measure):
    text = refusal({"tune.measure": measure}, Curves)
    assert text.startswith("tune") and "measure" in text and repr(measure) in text
    assert "step" in text or "integer" in text


def test_a_grid_upside_down(refusal):
    text = refusal({"tune.low": 2.0}, Curves)
    assert text.startswith("tune") and "2.0" in text and "1.0" in text


@pytest.mark.parametrize("edit", [{"steps": [2, 7]}, {"tune.measure": 7}, {"horizon": 5}])
def test_a_step_beyond_the_horizon(refusal, edit):
    text = refusal(edit, Curves)
    assert f"step {6 if 'horizon' in edit else 7} lies beyond the horizon of {edit.get('horizon', 6)}" in text


@pytest.mark.parametrize("name", ["validate_every", "checkpoint_every"])
def test_every_is_a_multiple_of_log_every(refusal, name):
    text = refusal({f"meta.{name}": 3})
    assert text.startswith("meta") and name in text and "log_every" in text and "3 and 2" in text


def test_missing_fields_are_all_named(refusal):
    text = refusal({"meta.steps": None, "task": None})
    assert "meta.steps" in text and "task" in text and "missing" in text


def test_an_empty_file_is_told_what_it_needs(tmp_path):
    path = tmp_path / "empty.toml"
    path.write_text("")
    with pytest.raises(UserError) as caught:
        Experiment.load(path)
    text = one_line(caught, path)
    assert "missing" in text and "optimizer, task, meta" in text
    with pytest.raises(UserError, match="task"):
        Curves.load(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe\x00s", "UTF-8"),
        (b"seed = 1\n\xe9 = 2", "UTF-8"),
        (b"seed = ", "TOML"),
        (b"seed = 1\nseed = 2", "TOML"),
        (b"[meta\nsteps = 3", "TOML"),
        (b"just some words", "TOML"),
        (b"PK\x03\x04\x00\x00", "TOML"),
        (b"seed = " + b"9" * 5000, "TOML"),
        (b"seed = " + b"[" * 5000, "TOML"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_is_no_toml(tmp_path, content, why):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Experiment.load(path)
    assert why in one_line(caught, path)


@pytest.mark.parametrize(("cls", "typo"), [(Experiment, "lstm_digit"), (Curves, "digit")])
def test_a_config_that_does_not_exist(cls, typo):
    with pytest.raises(UserError) as caught:
        cls.load(typo)
    text = one_line(caught)
    assert f"{typo!r} (did you mean {typo + 's'!r}?)" in text
    for name in cls.names():
        assert name in text


@pytest.mark.parametrize("name", ["", ".", "no/such/file.toml", "x" * 5000, "a\0b", "a\nb"], ids=lambda name: name[:9])
def test_odd_names_of_configs(name):
    with pytest.raises(UserError) as caught:
        Experiment.load(name)
    one_line(caught)


def load_with(overrides, tmp_path, cls=Curves):
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(DOCUMENTS[cls]), encoding="utf-8")
    return cls.load(path, overrides)


def test_set_takes_toml_and_plain_strings(tmp_path):
    study = load_with(
        ["horizon = 8", "steps=[1, 8]", "tune.low=1e-2", "tune.measure=each", 'description="two words"',
         "optimizers=[]", "task.dimension=3", "baselines=[{kind = 'sgd'}]"],
        tmp_path,
    )  # fmt: skip
    assert (study.horizon, study.steps, study.tune.low, study.tune.measure) == (8, (1, 8), 0.01, "each")
    assert (study.description, study.optimizers, study.task.dimension) == ("two words", (), 3)
    assert [baseline.kind for baseline in study.baselines] == ["sgd"]
    experiment = load_with(["meta.init=runs/other", "meta.objective.log=false", "seed=4"], tmp_path, Experiment)
    assert (experiment.meta.init, experiment.meta.objective.log, experiment.seed) == ("runs/other", False, 4)


def test_set_reaches_items_of_lists(tmp_path):
    study = load_with(
        ["baselines.0.kind=momentum", "baselines.1.learning_rate=0.5", "optimizers.0=other", "steps.1=5"], tmp_path
    )
    assert study.baselines[0].kind == "momentum" and study.baselines[1].learning_rate == 0.5
    assert study.optimizers == ("other",) and study.steps == (2, 5)


def test_set_makes_tables_that_the_file_leaves_out(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps({k: v for k, v in STUDY.items() if k != "tune"}), encoding="utf-8")
    assert Curves.load(path, ["tune.per_decade=3"]).tune.per_decade == 3


def test_the_last_of_two_assignments_wins(tmp_path):
    assert load_with(["horizon=7", "horizon=9"], tmp_path).horizon == 9


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("meta.steps", "expected field=value"),
        ("", "expected field=value"),
        ("=3", "expected field=value"),
        (" = 3", "expected field=value"),
        ("seed.deep=3", "'deep' is not inside a table"),
        ("seed.very.deep=3", "'very' is not inside a table"),
        ("steps.first=3", "'first' is not inside a table"),
        ("steps.2=3", "'2' is not inside a table"),
        ("steps.²=3", "'²' is not inside a table"),
        ("baselines.2.kind=sgd", "'2' is not inside a table"),
        ("horizn=7", "horizn is an unknown field (did you mean 'horizon'?)"),
        ("tune.per.decade=7", "tune.per is an unknown field"),
        ("baselines.0.kind=sdg", "did you mean 'sgd'?"),
        ("baselines.0.kindd=sgd", "baselines.0.kindd is an unknown field (did you mean 'kind'?)"),
        ("horizon=ten", "horizon: found 'ten' (str), expected integer"),
        ("horizon=", "horizon: found '' (str), expected integer"),
        ("horizon=nan", "horizon: found nan"),
        ("horizon=" + "9" * 5000, "horizon"),
        ("steps=[2,", "steps: found '[2,' (str), expected array"),
    ],
)
def test_set_gone_wrong(tmp_path, override, words):
    with pytest.raises(UserError) as caught:
        load_with([override], tmp_path)
    assert words in one_line(caught)


SCALARS = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(st.characters(codec="utf-8")), st.dates(), st.times(),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400, "", "lstm", "sgd", "each"]),
    st.sampled_from([[], {}, [[]], [{}], {"kind": "sgd"}]),
)  # fmt: skip
KEYS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8), st.sampled_from(["kind", "str", "int", "0", "steps"])
)


def paths_of(place, prefix=()):
    """Every path of a document, tables and items of lists included."""
    items = place.items() if isinstance(place, dict) else enumerate(place) if isinstance(place, list) else ()
    for name, value in items:
        yield (*prefix, name)
        yield from paths_of(value, (*prefix, name))


@st.composite
def mutations(draw, document):
    data = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths_of(data)) or [()]))
        if not path:
            break
        place = data
        for part in path[:-1]:
            place = place[part]
        action = draw(st.sampled_from(["delete", "replace", "insert"]))
        if action == "delete":
            del place[path[-1]]
        elif action == "replace" or isinstance(place, list):
            place[path[-1]] = copy.deepcopy(draw(SCALARS))
        else:
            place[draw(KEYS)] = copy.deepcopy(draw(SCALARS))
    return data


def survives(cls, data):
    """A document is read, or refused in one sentence, whether it comes from a file or from Python."""
    try:
        document = cls.parse(data, "mine.toml")
    except UserError as error:
        text = str(error)
        assert text.startswith("mine.toml: ") and len(text.splitlines()) == 1, text
        assert len(text) > len("mine.toml: ") + 3
    else:
        assert cls.parse(tomllib.loads(document.toml()), "again") == document


@settings(max_examples=300, deadline=None)
@given(mutations(EXPERIMENT))
def test_no_mutation_of_an_experiment_gives_a_traceback(data):
    survives(Experiment, data)


@settings(max_examples=300, deadline=None)
@given(mutations(STUDY))
def test_no_mutation_of_a_study_gives_a_traceback(data):
    survives(Curves, data)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from([*paths_of(STUDY)]), KEYS)
def test_no_assignment_gives_a_traceback(value, path, more):
    for name in (".".join(map(str, path)), ".".join(map(str, (*path, more))), more):
        try:
            Curves.load("digits", [f"{name}={value}"])
        except UserError as error:
            assert len(str(error).splitlines()) == 1, str(error)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.booleans())
def test_no_damage_to_a_file_gives_a_traceback(tmp_path_factory, noise, at, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    whole = tomli_w.dumps(EXPERIMENT).encode()
    path.write_bytes(whole[:at] + noise + (b"" if cut else whole[at:]))
    try:
        Experiment.load(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error), str(error)
