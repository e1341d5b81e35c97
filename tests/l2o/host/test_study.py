"""Studies of named parameters: what optimizers are told, what a kill leaves, what is refused."""

import itertools
import json
import math
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import l2o
from l2o import HostOptimizer, Optimizer, SearchSpace, Study, UserError
from l2o.host.policy import Policy, Prediction
from l2o.host.view import NamedView
from l2o.record import Record, RecordedTrial

ROOT = Path(l2o.__file__).resolve().parent.parent
SPACE = SearchSpace.from_dict(
    {
        "lr": {"kind": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
        "Größe": {"kind": "integer", "low": 1, "high": 8},
        "constant": (3.0, 3.0),
        "batch": {"kind": "discrete", "values": [16, 32, 64]},
        "only": [("x", 2)],
        "优化器": ["sgd", "adam", None, True],
    }
)


UNIT = {"kind": "float", "low": 0, "high": 1}


def loss(parameters):
    away = abs(math.log10(parameters["lr"]) + 3) + abs(parameters["Größe"] - 4)
    return away + ["sgd", "adam", None, True].index(parameters["优化器"])


def moody(parameters):
    """Deterministic, and fails now and then."""
    return math.nan if parameters["Größe"] == 2 else loss(parameters)


def population_optimizer():
    """Four at a time, around the best point so far; it knows that a space has bounds and nothing more."""

    def init(key, problem):
        return problem.space, problem.start, jnp.asarray(jnp.inf)

    def ask(key, state):
        space, best, _ = state
        u = space.to_unit(best)[None] + 0.3 * jax.random.normal(key, (4, best.size))
        return jax.vmap(space.from_unit)(jnp.clip(u, 0, 1)), state

    def tell(key, state, x, evaluation):
        space, best, value = state
        new = jnp.where(jnp.isfinite(evaluation.value), evaluation.value, jnp.inf)
        i = jnp.argmin(new)
        return space, jnp.where(new[i] < value, x[i], best), jnp.minimum(value, new[i])

    return Optimizer(init, ask, tell)


def host_optimizer(told=None):
    """One at a time, around the last point that it was told; it does not care whether numbers are whole."""

    def init(key, problem):
        return problem.space, np.asarray(problem.start)

    def ask(key, state):
        space, last = state
        noise = np.asarray(jax.random.normal(key, last.shape))
        return last[None] + 0.3 * noise * np.asarray(space.high - space.low), state

    def tell(key, state, x, evaluation):
        if told is not None:
            told.append((np.asarray(x[0]), float(evaluation.value[0])))
        return state[0], np.asarray(x[0])

    return HostOptimizer(init, ask, tell)


class FakePolicy:
    """Knows nothing but the record and the seed, as the true one."""

    def __init__(self, loaded):
        self.config = loaded.config

    def suggest(self, record, count=1, *, seed=0, earlier=()):
        rng = np.random.default_rng([seed, zlib.crc32(repr((record, earlier)).encode())])
        return [record.space.from_unit(rng.uniform(size=len(record.space))) for _ in range(count)]

    def predict(self, record, assignments, *, earlier=()):
        centre = [t.value for t in record.trials if t.state == "complete"][-1] + len(earlier)
        return [Prediction(np.array([centre, centre + 1.0]), np.array([1.0]), 0.0) for _ in assignments]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("l2o.host.study.Policy", FakePolicy)


LOADED = l2o.load("optformer")
OPTIMIZERS = {"random": "random", "four": population_optimizer(), "host": host_optimizer(), "optformer": LOADED}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def seen(study):
    """What must be equal between equal studies."""
    return [(t.number, t.parameters, t.value, t.state, t.error) for t in study.history]


def play(study, count, f=moody):
    for _ in range(count):
        trial = study.suggest()
        study.observe(trial, f(trial.parameters))
    return study


# Suggestions


@pytest.mark.parametrize("name", ["random", "sobol", "hill_climbing", "cma_es", "les", "eagle", "rnn", "gp_ei", "tpe"])
def test_any_optimizer_searches_a_mixed_space_and_goes_on_from_a_file(name, tmp_path):
    if name == "tpe":
        pytest.importorskip("optuna")
    settings = (
        {"max_trials": 8, "initial": 2, "candidates": 8, "fit_steps": 2, "ascent_steps": 2} if name == "gp_ei" else {}
    )
    optimizer = l2o.kinds(l2o.BaselineConfig)[name](**settings) if settings else name
    with Study(SPACE, optimizer, seed=1, budget=9, path=tmp_path / "whole") as whole:
        play(whole, 9)
    for trial in whole.history:
        assert list(trial.parameters) == SPACE.names
        SPACE.to_unit(trial.parameters)  # refuses what is not in the space
        assert trial.parameters["constant"] == 3 and trial.parameters["only"] == ("x", 2)
        assert type(trial.parameters["Größe"]) is int and type(trial.parameters["lr"]) is float
    assert len({trial.parameters["lr"] for trial in whole.history}) >= 3
    (tmp_path / "part").write_bytes(b"".join((tmp_path / "whole").read_bytes().splitlines(keepends=True)[:11]))
    with Study(SPACE, optimizer, seed=1, budget=9, path=tmp_path / "part") as resumed:
        play(resumed, 4)
    assert seen(resumed) == seen(whole) and repr(resumed) == repr(whole)
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


def test_lists_and_tuples_come_back_as_they_were_from_a_file_too(tmp_path):
    space = {"layers": [(64, 64), [64, 64], (128,)], "k": [[3, [3]], [5]], "step": {**UNIT, "step": 0.25}}
    with Study(space, "random", seed=1, path=tmp_path / "study") as study:
        play(study, 12, lambda parameters: float(len(parameters["layers"])))
        study.observe({"layers": [128], "k": [5], "step": 0.5}, 0.5)
        waits = study.suggest()
        waits.parameters["k"].append("changed")
        study.history[0].parameters["layers"] = None
    tuples = [type(trial.parameters["layers"]) for trial in study.history]
    assert {trial.parameters["layers"] == (64, 64) for trial in study.history} == {True, False}
    assert {tuple, list} == set(tuples) and all(trial.parameters["k"] in space["k"] for trial in study.history)
    assert study.history[12].parameters == {"layers": (128,), "k": [5], "step": 0.5}
    with Study(space, "random", seed=1, path=tmp_path / "study") as again:
        assert seen(again) == seen(study)
        assert [type(trial.parameters["layers"]) for trial in again.history] == tuples
        assert again.suggest().parameters == waits.parameters
        again.history[0].parameters["k"].clear()
        assert seen(again) == seen(study)
    with pytest.raises(UserError, match="another study, its space"):
        Study(space | {"layers": [[64, 64], (64, 64), (128,)]}, "random", seed=1, path=tmp_path / "study")


@every_optimizer
def test_the_calls_and_the_seed_decide_everything(name, fake):
    runs = [play(Study(SPACE, OPTIMIZERS[name], seed=seed), 9) for seed in (3, 3, 4)]
    assert seen(runs[0]) == seen(runs[1]) != seen(runs[2])


def test_several_at_a_time():
    study = Study(SPACE, "random")
    batch = study.suggest(count=3)
    one, also_one = study.suggest(), study.suggest(count=1)
    assert [trial.number for trial in [*batch, one, also_one]] == [0, 1, 2, 3, 4]
    assert all(trial.state == "pending" and trial.value is None and trial.error is None for trial in study.history)
    study.observe(batch[2], 2.0)
    study.fail(batch[0], "no memory")
    study.observe(one, math.inf)
    assert [t.state for t in study.history] == ["infeasible", "pending", "complete", "infeasible", "pending"]
    assert [t.error for t in study.history] == ["no memory", None, None, "the value is inf", None]
    assert study.best is batch[2] and study.history[2] is batch[2]
    assert repr(study) == "Study(random, minimize, 5 trials, 2 pending, 2 infeasible, best 2.0)"


def test_the_best_is_in_the_direction_of_the_goal():
    for goal, best in (("minimize", 1), ("maximize", 2)):
        study = Study(SPACE, "random", goal=goal)
        assert study.best is None and "best none" in repr(study)
        for value in (2.0, 1.0, 4.0, math.nan, 4.0, 1):
            study.observe(study.suggest(), value)
        assert study.best.number == best


def test_what_an_optimizer_is_told():
    """Values that it minimizes, and the points that were evaluated, not those that it proposed."""
    told, values = [], [1.5, math.nan, -2.0, np.float32(3), jnp.asarray([4.0])]
    study = Study(SPACE, host_optimizer(told), goal="maximize")
    for value in values:
        study.observe(study.suggest(), value)
    study.fail(study.suggest())
    study.suggest()
    np.testing.assert_array_equal([value for _, value in told], [-1.5, math.nan, 2.0, -3.0, -4.0, math.nan])
    points = [NamedView(SPACE).point(trial.parameters) for trial in study.history[:-1]]
    np.testing.assert_array_equal([x for x, _ in told], points)


def test_a_search_of_mixed_spaces_gets_the_mixed_space():
    """Of categories alone, hill climbing changes one of them, always to another."""
    study = Study({"a": ["u", "v", "w"], "b": ["u", "v", "w"], "c": ["u"]}, "hill_climbing", goal="maximize")
    first = study.suggest()
    study.observe(first, 1.0)
    for _ in range(12):
        trial = study.suggest()
        changed = [name for name in "abc" if trial.parameters[name] != first.parameters[name]]
        assert len(changed) == 1
        study.observe(trial, 0.0)


def test_a_logged_point_counts_more_than_the_proposed_one(tmp_path):
    """A file from a machine that rounds otherwise goes on from what was evaluated there."""
    space, told = SearchSpace.from_dict({"a": (0.0, 1.0), "b": (0.0, 1.0)}), []
    play(Study(space, host_optimizer(), path=tmp_path / "file"), 2, lambda p: 0.0).close()
    lines = (tmp_path / "file").read_text().splitlines(keepends=True)
    lines[1] = json.dumps({"asked": 0, "parameters": [{"a": 0.25, "b": 1.0}]}) + "\n"
    (tmp_path / "file").write_text("".join(lines[:3]))
    with Study(space, host_optimizer(told), path=tmp_path / "file") as study:
        study.suggest()
    np.testing.assert_array_equal(told[0][0], [0.25, 1.0])


def test_an_interrupted_suggestion_changes_nothing():
    calls, whole = [], host_optimizer()

    def ask(key, state):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole.ask(key, state)

    study = play(Study(SPACE, whole._replace(ask=ask)), 2)
    with pytest.raises(KeyboardInterrupt):
        play(study, 3)
    assert seen(play(study, 2)) == seen(play(Study(SPACE, whole), len(study.history)))
    assert len(study.history) > 3


def test_own_parameters_belong_to_who_reads_any(fake):
    study = Study(SPACE, LOADED, goal="maximize", name="n", metric="m")
    trial = study.suggest()
    own = trial.parameters | {"lr": 1e-1, "Größe": np.int64(5), "优化器": 1}  # the category True equals 1
    study.observe(own, 3.5)
    study.observe(own, math.nan)
    study.fail(own)
    expected = own | {"优化器": True}
    assert [t.parameters for t in study.history[1:]] == [expected] * 3
    assert [t.state for t in study.history] == ["pending", "complete", "infeasible", "infeasible"]
    assert study.best.number == 1 and type(study.history[1].parameters["Größe"]) is int
    assert study.record == Record(
        SPACE, "n", "m", "maximize", "unknown",
        [
            RecordedTrial(trial.parameters, None, "pending"), RecordedTrial(expected, 3.5),
            *[RecordedTrial(expected, None, "infeasible")] * 2,
        ],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["random", "four", "host", "optformer"])
def test_guesses_come_first_and_what_is_known_is_there(name, fake, tmp_path):
    guess = {"lr": 1e-3, "Größe": 4, "constant": 3.0, "batch": 16, "only": ("x", 2), "优化器": None}
    call = dict(
        space=SPACE, optimizer=OPTIMIZERS[name], goal="maximize", guesses=[guess, guess | {"batch": 64}],
        known=[(guess, 2.5), (guess | {"Größe": 2}, math.nan)],
    )  # fmt: skip
    with Study(**call, path=tmp_path / "whole") as whole:
        first = whole.suggest(count=3)
        play(whole, 3)
        whole.observe(guess | {"batch": 32}, 9.0)
        play(whole, 2)
    assert [t.state for t in whole.history[:2]] == ["complete", "infeasible"] and whole.best.value == 9.0
    assert [t.number for t in first] == [2, 3, 4] and [t.parameters for t in first[:2]] == call["guesses"]
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for kept in range(1, 5):  # killed after any of the first lines
        (tmp_path / "part").write_bytes(b"".join(lines[:kept]))
        with Study(**call, path=tmp_path / "part") as part:
            waiting = [t.number for t in part.history if t.state == "pending"]
            assert [t.number for t in part.suggest(count=3)] == [2, 3, 4] and waiting == [[], [], [], [2, 3]][kept - 1]
            play(part, 3)
            part.observe(guess | {"batch": 32}, 9.0)
            play(part, 2)
        assert seen(part) == seen(whole) and (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_trial_is_told_by_its_number_or_a_copy():
    study = Study(SPACE, "random")
    trials = study.suggest(count=4)
    study.observe(2, 1.0)
    study.fail(np.int64(1))
    study.observe(pickle.loads(pickle.dumps(trials[0])), 3.0)
    assert [t.state for t in trials] == ["complete", "infeasible", "complete", "pending"]
    assert [t.value for t in study.history] == [3.0, None, 1.0, None]


def test_a_changed_dictionary_changes_no_trial():
    study = Study(SPACE, "random")
    trial = study.suggest()
    trial.parameters["lr"] = 7
    study.history.clear()
    assert study.history == [trial] and trial.parameters["lr"] <= 0.1


def test_earlier_studies(fake):
    first = play(Study(SPACE, LOADED, seed=1), 3)
    runs = [play(Study(SPACE, LOADED, earlier=earlier), 2) for earlier in ([], [first], [first.record])]
    assert seen(runs[0]) != seen(runs[1]) == seen(runs[2])
    assert runs[1].predict([first.best.parameters])[0].mean() == runs[1].history[-1].value + 1.5
    later = Study(SPACE, LOADED, earlier=[first])
    play(first, 1)
    assert seen(play(later, 2)) == seen(runs[1])  # as it was


def test_distributions_of_optuna():
    distributions = pytest.importorskip("optuna").distributions
    space = {
        "lr": distributions.FloatDistribution(1e-5, 0.1, log=True),
        "layers": distributions.IntDistribution(2, 2),
        "kind": distributions.CategoricalDistribution(["a"]),
    }
    trial = Study(space, "random").suggest()
    assert trial.parameters["layers"] == 2 and trial.parameters["kind"] == "a"


# The true policy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small untrained OptFormer on disk."""
    config = l2o.kinds(l2o.OptimizerConfig)["optformer"](
        bins=16, width=16, heads=2, feedforward=8, encoder_layers=0, decoder_layers=1, max_trials=6, candidates=4,
        acquisition="expected_improvement",
    )  # fmt: skip
    theta = config.build().init(jax.random.key(0))
    return l2o.save(tmp_path_factory.mktemp("tiny") / "artifact", config, theta)


def test_an_optformer_suggests_predicts_and_goes_on_from_a_file(tiny, tmp_path):
    def begin(path):
        return Study(SPACE, tiny, name="net", metric="loss", seed=2, path=path)

    with begin(tmp_path / "whole") as whole:
        play(whole, 2, loss)
        whole.observe(whole.best.parameters | {"Größe": 4}, 0.5)
        first, second = whole.suggest(count=2)
        whole.observe(second, 1.0)
        last = whole.suggest()
    assert first.parameters not in (second.parameters, last.parameters)
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for kept, waiting in ((6, []), (7, [3, 4]), (8, [3]), (9, [3, 5])):  # lines: 2 * 2, one of its own, 2 together, ...
        (tmp_path / "part").write_bytes(b"".join(lines[:kept]))
        with begin(tmp_path / "part") as part:
            assert [t.number for t in part.history if t.state == "pending"] == waiting
            again = part.suggest(count=2)
            assert [t.parameters for t in again] == [
                t.parameters for t in ([first, second] if kept < 8 else [first, last])
            ]
    predictions = whole.predict([first.parameters, second.parameters])
    expected = Policy(l2o.load(tiny)).predict(whole.record, [first.parameters, second.parameters])
    assert [p.mean() for p in predictions] == [p.mean() for p in expected]
    with pytest.raises(UserError, match="an assignment lacks 'lr'"):
        whole.predict([{}])


# The file


@every_optimizer
@settings(max_examples=15, deadline=None)
@given(choices=st.lists(st.integers(0, 9), min_size=1, max_size=25), cut=st.integers(0, 25))
def test_a_reopened_study_is_the_same(name, choices, cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")

    def step(study, choice):
        pending = [t for t in study.history if t.state == "pending"]
        if choice in (0, 1) or not pending:
            study.suggest(count=choice % 2 + 1)
        elif choice == 2:
            study.fail(pending[0])
        elif choice == 3 and name == "optformer":
            study.observe(pending[0].parameters, 0.5)
        else:
            trial = pending[choice % len(pending)]
            study.observe(trial, moody(trial.parameters))

    def begin(path):
        return Study(SPACE, OPTIMIZERS[name], seed=5, goal="maximize", path=folder / path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("l2o.host.study.Policy", FakePolicy)
        with begin("whole") as whole:
            for choice in choices:
                step(whole, choice)
        with begin("parts") as study:
            for choice in choices[:cut]:
                step(study, choice)
        with begin("parts") as study:
            pending = [t for t in study.history if t.state == "pending"]
            assert [study.suggest() for _ in pending] == pending  # again first, in their order
            for choice in choices[cut:]:
                step(study, choice)
        assert seen(study) == seen(whole)
        assert (folder / "parts").read_bytes() == (folder / "whole").read_bytes()


def test_a_torn_line_is_cut(tmp_path):
    """After any byte of the last lines, all trials of whole lines are there, and the study can go on."""

    def begin(path):
        return Study(SPACE, "random", path=tmp_path / path)

    with begin("whole") as whole:
        play(whole, 3)
        whole.fail(whole.suggest(count=2)[1], "störung")
    data = (tmp_path / "whole").read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 1 + 6 + 2
    for size in range(len(b"".join(lines[:6])), len(data) + 1):
        (tmp_path / "cut").write_bytes(data[:size])
        events = [json.loads(line) for line in data[:size].split(b"\n")[1:-1]]
        with begin("cut") as study:
            assert sum(t.state != "pending" for t in study.history) == sum("told" in event for event in events)
            assert seen(study)[:2] == seen(whole)[:2]
        assert (tmp_path / "cut").read_bytes() == data[: data[:size].rfind(b"\n") + 1]
    for size in range(0, len(lines[0]), 7):  # in the first line: as if it had not begun
        (tmp_path / "cut").write_bytes(data[:size])
        begin("cut").close()
        assert (tmp_path / "cut").read_bytes() == lines[0]


KILLED = """
import json, os, random, signal, sys, time
import l2o
from tests_space import SPACE, moody  # without computing anything: a fork is harmless

random.seed(int(sys.argv[2]))
for round in range(4):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        study = l2o.Study(SPACE, "random", path=sys.argv[1])
        report = [(t.number, t.value, t.error) for t in study.history if t.state != "pending"]
        os.write(write, (json.dumps(report) + "\\n").encode())
        while len(study.history) < 400:
            trial = study.suggest()
            value = moody(trial.parameters)
            study.observe(trial, value)
            os.write(write, b"%d\\n" % trial.number)  # it is on the disk
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        found = json.loads(pipe.readline())
        pipe.readline()
        time.sleep(random.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = pipe.read().split("\\n")[:-1]
    print(json.dumps({"found": found, "last": int(said[-1]) if said else None}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_killed_process_loses_nothing_that_it_was_told(tmp_path):
    source = Path(__file__).read_text(encoding="utf-8")
    start, end = source.index("SPACE = "), source.index("def population_optimizer")
    (tmp_path / "tests_space.py").write_text(f"import math\nfrom l2o import SearchSpace\n{source[start:end]}", "utf-8")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "file"), "1"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rounds = [json.loads(line) for line in run.stdout.splitlines()]
    whole = play(Study(SPACE, "random"), 1 + max(round["last"] or 0 for round in rounds))
    expected = [(t.number, t.value, t.error) for t in whole.history]
    assert len(rounds) == 4 and rounds[-1]["found"]
    with Study(SPACE, "random", path=tmp_path / "file") as study:
        rounds.append({"found": [(t.number, t.value, t.error) for t in study.history if t.state != "pending"]})
    for before, after in itertools.pairwise(rounds):
        told = len(after["found"])
        assert told > (before["last"] if before["last"] is not None else len(before["found"]))
        agreed = min(told, len(expected))
        assert list(map(tuple, after["found"]))[:agreed] == expected[:agreed]


def test_a_full_disk_changes_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    study = play(Study(SPACE, "random", path=tmp_path / "file"), 2)
    trial, size = study.suggest(), (tmp_path / "file").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        with pytest.raises(UserError, match="cannot be written: File too large"):
            study.observe(trial, 1.0)
        with pytest.raises(UserError, match="cannot be written"):
            study.suggest(count=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trial.state == "pending" and (tmp_path / "file").stat().st_size == size
    study.observe(trial, moody(trial.parameters))
    play(study, 2).close()
    with Study(SPACE, "random", path=tmp_path / "file") as again:
        assert seen(again) == seen(study) == seen(play(Study(SPACE, "random"), 5))


def test_a_pending_trial_of_the_last_run_may_be_told_at_once(tmp_path):
    with Study(SPACE, "random", path=tmp_path / "file") as study:
        study.suggest(count=3)
    with Study(SPACE, "random", path=tmp_path / "file") as study:
        study.observe(study.history[1], 1.0)
        assert [study.suggest().number for _ in range(3)] == [0, 2, 3]


def test_a_finished_file_is_read_without_the_optimizer(tmp_path, monkeypatch):
    play(Study(SPACE, "random", path=tmp_path / "file"), 3).close()
    monkeypatch.setattr("l2o.host.suggester.Proposer", lambda *arguments: pytest.fail("it was started"))
    with Study(SPACE, "random", path=str(tmp_path / "file")) as study:
        assert len(study.history) == 3 and study.best is not None


OTHERS = {
    "goal": {"goal": "maximize"},
    "name": {"name": "net"},
    "metric": {"metric": "loss"},
    "seed": {"seed": 1},
    "budget": {"budget": 7},
    "optimizer": {"optimizer": "sobol"},
    "space": {"space": {"b": [1, 0], "a": (0.0, 1.0)}},  # the same parameters in another order
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_study_is_refused(name, tmp_path):
    call = {"space": {"a": (0.0, 1.0), "b": [1, 0]}, "optimizer": "random", "path": tmp_path / "file"}
    Study(**call).close()
    content = (tmp_path / "file").read_bytes()
    with pytest.raises(UserError, match=f"is the log of another study, its {name} is .* there"):
        Study(**call | OTHERS[name])
    with pytest.raises(UserError, match="its space is"):
        Study(**call | {"space": {"a": (0.0, 1.0), "b": [True, False]}})
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"asked": 1, "parameters": []}',
        '{"asked": 2, "parameters": [{"a": 0.5}]}',
        '{"asked": 1, "parameters": [{"a": 1.5}]}',
        '{"asked": 1, "parameters": [{"b": 0.5}]}',
        '{"asked": 1, "parameters": [7]}',
        '{"told": [0], "value": 1.0, "error": null}',
        '{"told": 0, "value": 1.0, "error": null}',
        '{"added": 0, "parameters": {"a": 0.5}, "value": 1.0, "error": null}',
        '{"added": 1, "parameters": {"a": 0.5}, "value": null, "error": null}',
        '{"added": 1, "parameters": {"a": 0.5}, "value": NaN, "error": null}',
    ],
)
def test_a_damaged_line_is_refused(line, tmp_path):
    space = {"a": (0.0, 1.0)}
    play(Study(space, "random", path=tmp_path / "file"), 2, lambda p: 1.0).close()
    lines = (tmp_path / "file").read_text().splitlines()
    lines[3] = line
    (tmp_path / "file").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="line 4 is damaged: remove the log to begin again"):
        Study(space, "random", path=tmp_path / "file")


def test_a_search_log_is_no_study(tmp_path):
    l2o.Search([(0, 1)], "random", log=tmp_path / "file").close()
    with pytest.raises(UserError, match=r"is not a log of l2o\.Study"):
        Study(SPACE, "random", path=tmp_path / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_one_process_at_a_time(tmp_path):
    with Study(SPACE, "random", path=tmp_path / "file") as study:
        with pytest.raises(UserError, match=r"log .* is in use by another study: wait for it, or close it"):
            Study(SPACE, "random", path=tmp_path / "file")
        trial = study.suggest()
    with pytest.raises(UserError, match="is closed: open it again"):
        study.observe(trial, 1.0)
    assert trial.state == "pending"
    Study(SPACE, "random", path=tmp_path / "file").close()


# Bad input

REFUSED = {
    "Study(7)": "a search space is 7: expected a dictionary",
    "Study({})": "a search space has no parameters",
    "Study({'a': 3})": "parameter 'a' is 3: expected a dictionary of kind",
    "Study({'a': (1.0, 0.0)})": "parameter 'a': low must be at most high",
    "Study(S, 'optfomer')": "no optimizer named 'optfomer' (did you mean 'optformer'?)",
    "Study(S, 3)": "optimizer is 3: expected a name",
    "Study(S, 'lstm')": "'lstm' reads gradients",
    "Study(S, 'adam')": "'adam' reads gradients",
    "Study(S, 'random', goal='max')": "the goal of a study is 'max': expected one of minimize, maximize",
    "Study(S, 'random', goal=None)": "the goal of a study is None",
    "Study(S, 'random', name=None)": "the name of a study is None: expected a string",
    "Study(S, 'random', metric=3)": "the metric of a study is 3: expected a string",
    "Study(S, 'random', name='\\ud800')": "must be valid Unicode",
    "Study(S, 'random', seed=-1)": "seed is -1: expected a whole number",
    "Study(S, 'random', budget=0)": "budget is 0: expected a whole number",
    "Study(S, 'random', path='/nowhere/file')": "log /nowhere/file cannot be opened: No such file or directory",
    "Study(S, 'random', path='.')": "log . cannot be opened",
    "Study(S, 'random', path=3)": "the log of a study is 3: expected a path",
    "Study({f'p{i}': (0.0, 1.0) for i in range(17)})": "found 17 parameters, expected at most 16",
    "Study({f'p{i}': (0.0, 1.0) for i in range(9)}, 'rnn').suggest()": "up to 6 dimensions",
    "Study(S, 'random', earlier=[Study(S, 'random')])": "random reads no earlier studies",
    "Study(S, earlier=[3])": "earlier[0] is 3: expected a study",
    "Study(S, earlier=3)": "earlier is 3: expected a list of studies",
    "Study(S, earlier=[Study({'b': (0.0, 1.0)}, 'random')])": "earlier[0] has another space",
    "study.suggest(0)": "count is 0: expected a whole number",
    "study.suggest(2.0)": "count is 2.0",
    "study.observe(study.suggest(), '3')": "must be one real number, found str '3'",
    "study.observe(study.suggest(), None)": "must be one real number, found NoneType",
    "study.observe(done, 1.0)": "observe: trial 0 is complete already, expected one that is pending",
    "study.fail(done)": "fail: trial 0 is complete already",
    "study.observe(9, 1.0)": "observe: there is no trial 9, expected a number below",
    "study.observe(True, 1.0)": "observe takes a trial that this study asked for, found True",
    "study.observe(0.0, 1.0)": "observe takes a trial that this study asked for, found 0.0",
    "study.observe(Study(S, 'random', seed=1).suggest(), 1.0)": "observe takes a trial that this study asked for",
    "study.fail(Study(S, 'random', seed=1).suggest(2)[1])": "fail takes a trial that this study asked for",
    "study.observe({'a': 1.5}, 1.0)": "parameter 'a' is 1.5: expected a number from 0.0 to 1.0",
    "Study(S, 'random', guesses={'a': 0.5})": "guesses are {'a': 0.5}: expected a list",
    "Study(S, 'random', guesses=[{'a': 1.5}])": "parameter 'a' is 1.5",
    "Study(S, 'random', known=[{'a': 0.5}])": "known[0] is {'a': 0.5}: expected a pair of an assignment and its value",
    "Study(S, 'random', known=[({'a': 0.5}, 'x')])": "must be one real number, found str 'x'",
    "study.predict([{'a': 0.5}])": "random predicts nothing: an optimizer of kind 'optformer' does",
    "reader.observe({'a': 1.5}, 1.0)": "parameter 'a' is 1.5: expected a number from 0.0 to 1.0",
    "reader.observe({}, 1.0)": "an assignment lacks 'a'",
    "reader.observe({'a': 0.5, 'b': 1}, 1.0)": "an assignment has 'b', which the space has not",
    "reader.predict({'a': 0.5})": "points are {'a': 0.5}: expected a list of dictionaries",
    "reader.predict(['a'])": "an assignment is 'a': expected a dictionary",
    "reader.predict([{'a': 0.5}])": "needs a study with two different values",
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What a person sees, in a process without the type checks of these tests."""
    code = f"""
import json, l2o
from l2o import Study
S = {{"a": (0.0, 1.0)}}
study, reader, found = Study(S, "random"), Study(S), {{}}
done = study.suggest()
study.observe(done, 1.0)
for call in {list(REFUSED)!r}:
    try:
        eval(call)
    except l2o.UserError as error:
        found[call] = str(error)
assert done.value == 1.0 and not reader.history
print(json.dumps(found))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path_factory.mktemp("refusals"), env=environment, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("call", REFUSED)
def test_bad_input_is_one_sentence(refusals, call):
    assert REFUSED[call] in refusals[call]
    assert "\n" not in refusals[call]
