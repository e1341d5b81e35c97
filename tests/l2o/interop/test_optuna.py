"""OptFormer as a sampler of Optuna: what it reads of a study, and how it behaves in one."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import l2o
from l2o import UserError
from l2o.host.policy import Policy
from l2o.interop import optuna as module
from l2o.interop import optuna_studies
from l2o.optformer.optformer import OptFormerConfig

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.testing.pytest_samplers import (  # noqa: E402
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState, create_trial  # noqa: E402

TINY = OptFormerConfig(bins=16, width=32, heads=2, feedforward=64, decoder_layers=1, max_trials=8)
LOADED = l2o.Loaded(TINY, TINY.build().init(jax.random.key(0)), {}, [], "")
SPACE = {"x": FloatDistribution(-1, 1), "y": IntDistribution(1, 64, log=True), "z": CategoricalDistribution(["a", "b"])}


class Uniform:
    """A policy that keeps what it was asked, and draws from the whole space."""

    asked = []

    def __init__(self, loaded):
        assert loaded.config == TINY

    def suggest(self, record, count=1, *, seed=0, earlier=()):
        assert count == 1
        self.asked.append((record, seed, list(earlier)))
        return [record.space.from_unit(np.random.default_rng(seed).uniform(size=len(record.space)))]


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """What the policy was asked: records, seeds, earlier records."""
    monkeypatch.setattr(Uniform, "asked", [])
    monkeypatch.setattr(module, "Policy", Uniform)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield Uniform.asked
    optuna.logging.set_verbosity(verbosity)


def made(seed=0, **fields):
    return l2o.OptFormerSampler(seed, optimizer=LOADED, **fields)


def created(seed=0, warm_start=False, **fields):
    return optuna.create_study(sampler=made(seed, warm_start=warm_start), **fields)


def objective(trial):
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 1, 64, log=True)
    return x + y + (trial.suggest_categorical("z", ["a", "b"]) == "a")


def add(study, params, distributions=SPACE, **fields):
    study.add_trial(create_trial(params=params, distributions={n: distributions[n] for n in params}, **fields))


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return made


class TestRelative(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return made


class TestOneObjective(SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return made


def test_what_is_read_of_a_study(asked):
    study = created(study_name="digits", direction="maximize")
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["accuracy"])
    params = {"x": 0.5, "y": 8, "z": "a"}
    add(study, params, value=0.9)
    add(study, params, state=TrialState.FAIL)
    add(study, params, state=TrialState.PRUNED, intermediate_values={0: 0.1, 3: 0.3, 2: 0.2})
    add(study, params, state=TrialState.PRUNED)
    add(study, params, state=TrialState.PRUNED, intermediate_values={0: 0.1, 1: float("nan")})
    add(study, params, value=float("inf"))
    add(study, {"x": 0.5}, state=TrialState.FAIL)  # it failed before the others were chosen
    study.enqueue_trial({**params, "y": 2})
    study.enqueue_trial({"x": 0.25})  # the others are not known before it is asked for
    running = [study.ask() for _ in range(3)]
    study.enqueue_trial({**params, "y": 3})
    assert running[1].suggest_float("x", -1, 1) == 0.25 and running[1].suggest_int("y", 1, 64, log=True)
    running[2].suggest_int("y", 1, 64, log=True)
    record, _, earlier = asked[-1]
    assert (record.name, record.metric, record.goal, earlier) == ("digits", "accuracy", "maximize", [])
    assert record.space.to_dict() == {
        "x": {"kind": "float", "low": -1.0, "high": 1.0},
        "y": {"kind": "integer", "low": 1, "high": 64, "scale": "log"},
        "z": {"kind": "categorical", "values": ["a", "b"]},
    }
    found = [(trial.state, trial.value) for trial in record.trials]
    assert found == [
        ("complete", 0.9), ("infeasible", None), ("complete", 0.3), ("infeasible", None), ("infeasible", None),
        ("infeasible", None), ("pending", None), ("pending", None), ("pending", None),
    ]  # fmt: skip
    assert all(trial.parameters == params for trial in record.trials[:6])
    waited, other, waits = (trial.parameters for trial in record.trials[6:])
    assert waited == {**params, "y": 2} and waits == {**params, "y": 3}
    assert other == {"x": 0.25, "y": running[1].params["y"], "z": running[1].suggest_categorical("z", ["a", "b"])}


def test_a_name_that_optuna_made_up_is_not_told(asked):
    study = created()
    study.optimize(objective, n_trials=2)
    assert study.study_name.startswith("no-name-") and (asked[0][0].name, asked[0][0].metric) == ("", "")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_goal(direction, asked):
    study = created(direction=direction)
    study.optimize(objective, n_trials=2)
    assert asked[0][0].goal == direction and asked[0][0].trials[0].value == study.trials[0].value


def test_trials_out_of_range_are_left_out(asked):
    study = created()
    for x in (0.5, 5.0):
        study.enqueue_trial({"x": x, "y": 1, "z": "a"})
    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(objective, n_trials=3)
    assert len(study.trials) == 3 and [trial.parameters["x"] for trial in asked[-1][0].trials] == [0.5]
    study.add_trial(
        create_trial(params={"x": 0.1}, distributions={"x": FloatDistribution(0, 9)}, state=TrialState.FAIL)
    )
    study.optimize(objective, n_trials=1)
    assert len(asked[-1][0].trials) == 2


def test_trials_that_were_pruned_early_hide_no_parameter(asked):
    study = created()
    add(study, {"x": 0.5, "y": 1}, state=TrialState.PRUNED)
    study.tell(study.ask(SPACE), 0.0)
    assert asked[-1][0].space.names == ["x", "y"]  # all that is known
    add(study, {"x": 0.5}, state=TrialState.PRUNED)
    study.ask(SPACE)
    assert asked[-1][0].space.names == ["x", "y", "z"] and len(asked[-1][0].trials) == 1


class Listen:
    """Lines of the sampler's log."""

    def __init__(self, monkeypatch):
        self.lines = []
        monkeypatch.setattr(module.LOGGER, "warning", self.lines.append)


@pytest.fixture
def said(monkeypatch):
    return Listen(monkeypatch).lines


def test_dynamic_parameters_are_sampled_independently(asked, said):
    def dynamic(trial):
        if trial.suggest_categorical("kind", ["deep", "flat"]) == "deep":
            trial.suggest_float("rate", 0, 1 + trial.number)
            trial.suggest_int("odd", 0, 3 * 10**8, step=3)
        trial.suggest_float("one", 2, 2)
        trial.suggest_int("coarse", 0, 3 * 10**8, step=3)
        return trial.suggest_float("x", -1, 1)

    created().optimize(dynamic, n_trials=8)
    assert all(record.space.names == ["kind", "x"] for record, _, _ in asked[-3:])
    for name in ("rate", "coarse"):
        assert len([line for line in said if f"'{name}' is sampled by RandomSampler" in line]) == 1
    said.clear()
    sampler = made(independent_sampler=optuna.samplers.TPESampler(seed=0), warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)
    study.optimize(dynamic, n_trials=5)
    assert said == [] and len(study.trials) == 5


def test_more_parameters_than_it_reads(asked, said):
    def wide(trial):
        return sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(17))

    study = created()
    study.optimize(wide, n_trials=3)
    assert len(study.trials) == 3 and asked == [] and len(said) == 17 and "more than 16 parameters" in said[0]


def test_several_objectives_are_refused():
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=made(), study_name="two")
    with pytest.raises(UserError, match="optimizes one objective, and study 'two' has 2"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=1)


def points(study):
    return [trial.params for trial in study.get_trials()]


def test_a_seed_decides_all_also_of_a_study_that_goes_on():
    def failing(trial):
        value = objective(trial)
        if trial.number % 4 == 3:
            raise ValueError
        return value

    def run(seed, parts):
        storage = optuna.storages.InMemoryStorage()
        for n in parts:  # each in a sampler of its own
            study = created(seed, study_name="same", storage=storage, load_if_exists=True)
            study.optimize(failing, n_trials=n, catch=(ValueError,))
        return points(study)

    whole = run(0, [9])
    assert run(0, [2, 3, 4]) == whole and run(1, [9]) != whole
    assert run(None, [3]) != run(None, [3])


def test_reseeding_changes_the_seed():
    drawn = []
    for again in range(2):
        study = created()
        if again:
            study.sampler.reseed_rng()
        study.optimize(objective, n_trials=2)
        drawn.append(points(study))
    assert drawn[0] != drawn[1]


def test_copies_go_on_alike():
    study = created()
    study.optimize(objective, n_trials=3)
    ours, copied, pickled = study, copy.deepcopy(study), pickle.loads(pickle.dumps(study))
    for each in (ours, copied, pickled):
        each.optimize(objective, n_trials=2)
    assert points(ours) == points(copied) == points(pickled)


def test_parts_of_a_study_that_hyperband_shows():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)

    def reporting(trial):
        value = objective(trial)
        for step in range(9):
            trial.report(value + 1 / (1 + step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study = optuna.create_study(sampler=made(), pruner=pruner)
    study.optimize(reporting, n_trials=20)
    assert len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))) == 20


def test_warm_start(asked, said):
    storage = optuna.storages.InMemoryStorage()
    for i, name in enumerate(["first", "second"]):
        created(i, study_name=name, storage=storage, direction="maximize").optimize(objective, n_trials=4 + i)
    optuna.load_study(study_name="first", storage=storage).ask(SPACE)  # still running
    created(study_name="else", storage=storage).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    two = optuna.create_study(study_name="two", storage=storage, directions=["minimize"] * 2)
    two.optimize(lambda trial: (objective(trial), 1.0), n_trials=1)

    def read(name, warm_start):
        asked.clear()
        study = created(warm_start=warm_start, study_name=name, storage=storage, direction="maximize")
        study.optimize(objective, n_trials=3)
        assert len(asked) == 2 and asked[0][2] == asked[1][2]
        return [(record.name, len(record.trials), record.goal) for record in asked[0][2]]

    both = [("first", 4, "maximize"), ("second", 5, "maximize")]
    assert read("all", True) == both and said == []
    assert read("none", False) == read("named none", ()) == []
    assert read("one", "second") == both[1:]
    assert read("some", ["second", "else", "two", "some"]) == both[1:]
    assert len(said) == 2 and "study 'else' has another search space" in said[0] and "'two'" in said[1]
    with pytest.raises(UserError, match="no study 'third', only first, second, else"):
        read("wrong", ["third"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": -1}, "seed is -1: expected a whole number from 0"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"optimizer": "rnn"}, "takes an optimizer of kind 'optformer', found one of kind 'rnn'"),
        ({"optimizer": "optformr"}, "did you mean 'optformer'"),
        ({"warm_start": None}, "warm_start is None: expected True, or names of studies"),
        ({"warm_start": [3]}, r"warm_start is \[3\]"),
        ({"independent_sampler": 3}, "independent_sampler is 3: expected a sampler"),
    ],
)
def test_bad_arguments(fields, message):
    with pytest.raises(UserError, match=message):
        l2o.OptFormerSampler(**fields)


def test_threads_see_what_others_have_in_progress(asked):
    study = created()
    study.optimize(objective, n_trials=1)
    begun = threading.Barrier(4)

    def together(trial):
        trial.suggest_float("x", -1, 1)
        begun.wait(60)
        return objective(trial)

    study.optimize(together, n_trials=8, n_jobs=4)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 9
    assert sorted(len(record.trials) for record, _, _ in asked) == [*range(1, 5), *range(5, 9)]
    assert len({trial.params["x"] for trial in study.trials}) == 9


@pytest.fixture(params=["sqlite", "journal"])
def storage(request, tmp_path):
    """A function that opens the same storage again."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/study.db"
    files = optuna.storages.journal
    return lambda: optuna.storages.JournalStorage(files.JournalFileBackend(str(tmp_path / "journal.log")))


def test_workers_share_a_storage(storage, asked):
    optuna.create_study(study_name="shared", storage=storage())

    def troubled(trial):
        value = objective(trial)
        if trial.number % 6 == 3:
            raise ValueError
        if trial.number % 6 == 5:
            trial.report(value, 0)
            raise optuna.TrialPruned
        return value

    def work(trials):
        study = optuna.load_study(study_name="shared", storage=storage(), sampler=made())
        study.optimize(troubled, n_trials=trials, catch=(ValueError,))

    threads = [threading.Thread(target=work, args=(6,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(6)
    trials = optuna.load_study(study_name="shared", storage=storage()).get_trials()
    assert [trial.number for trial in trials] == list(range(30))
    kinds = [trial.state for trial in trials]
    assert [kinds.count(s) for s in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)] == [20, 5, 5]
    assert len({trial.params["x"] for trial in trials}) == 30
    assert len(asked[-1][0].trials) == 29


def test_what_is_proposed_may_be_longer_than_an_attribute():
    space = {f"p{i}": CategoricalDistribution([f"{i}" * 400, "b" * 500]) for i in range(8)}
    study = created()
    study.tell(study.ask(space), 0.0)
    trial = study.ask()
    trial.suggest_categorical("p0", space["p0"].choices)
    running = study.get_trials()[1]
    assert set(optuna_studies.proposed(running)) == set(space) and len(running.params) == 1
    del running.system_attrs[f"{optuna_studies.PROPOSED}:1"]
    assert optuna_studies.proposed(running) == {}


@pytest.mark.parametrize("made", ["OptFormerSampler(seed=0)", "Sampler('random')"])
def test_without_optuna_it_is_one_sentence(made, tmp_path):
    code = f"""
import sys
sys.modules["optuna"] = None
import l2o
assert not hasattr(l2o, "nothing")
try:
    l2o.{made}
except l2o.UserError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(l2o.__file__).parent.parent)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == "samplers are for Optuna, which is not installed: pip install 'l2o[optuna]'\n"


@pytest.fixture
def real(monkeypatch):
    """The policy itself, of a network that has learned nothing."""
    monkeypatch.setattr(module, "Policy", Policy)


@pytest.mark.parametrize("acquisition", ["none", "expected_improvement"])
def test_the_policy_itself(real, acquisition, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "LOADED", LOADED.configured(acquisition=acquisition, candidates=4))

    def troubled(trial):
        value = objective(trial)
        if trial.number % 5 == 3:
            raise ValueError
        return value

    def run(seed):
        study = created(seed, direction="maximize")
        study.optimize(troubled, n_trials=11, catch=(ValueError,))  # more than it remembers
        open_trials = [study.ask(SPACE) for _ in range(3)]
        assert len({str(trial.params) for trial in open_trials}) == 3
        return points(study)

    assert run(0) == run(0) != run(1)


def test_the_policy_itself_in_threads(real):
    study = created()
    study.optimize(objective, n_trials=12, n_jobs=4)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 12


@pytest.mark.slow
@pytest.mark.usefixtures("real")
class TestBasicOfThePolicyItself(TestBasic):
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("real")
class TestRelativeOfThePolicyItself(TestRelative):
    pass


WORKER = """
import sys
import optuna
import l2o

def objective(trial):
    x = trial.suggest_float("x", -5, 10)
    rate = trial.suggest_float("rate", 1e-5, 1, log=True)
    layers = trial.suggest_int("layers", 1, 8)
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    value = (x - 1) ** 2 + abs(rate - 1e-2) + abs(layers - 3) + (kind != "b")
    if trial.number % 6 == 3:
        raise ValueError("failed")
    if trial.number % 6 == 5:
        trial.report(value, 0)
        raise optuna.TrialPruned
    return value

storage = optuna.storages.RDBStorage(sys.argv[1], engine_kwargs={"connect_args": {"timeout": 300}})
study = optuna.load_study(study_name="shared", storage=storage, sampler=eval(sys.argv[3]))
study.optimize(objective, n_trials=int(sys.argv[2]), catch=(ValueError,))
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["l2o.OptFormerSampler(seed=0)", "l2o.Sampler('gp_ei', seed=0)"])
def test_processes_with_a_shipped_one(sampler, tmp_path):
    """Four workers, one of them killed, a database, 200 trials, and then one worker alone."""
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="shared", storage=url)

    def start(trials):
        arguments = [sys.executable, "-c", WORKER, url, str(trials), sampler]
        return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)

    workers = [start(trials) for trials in (50, 50, 50, 1000)]
    while len(study.get_trials(deepcopy=False)) < 60:
        assert any(worker.poll() is None for worker in workers)
        time.sleep(0.5)
    workers[3].kill()
    for worker in workers[:3]:
        _, said = worker.communicate()
        assert worker.returncode == 0, said
    workers[3].communicate()
    begun = len(study.get_trials(deepcopy=False))
    last = start(200 - begun if begun < 190 else 10)
    _, said = last.communicate()
    assert last.returncode == 0, said
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(max(200, begun + 10)))
    lost = [trial for trial in trials if not trial.state.is_finished()]
    assert len(lost) <= 1  # that of the killed worker
    wrong = {3: TrialState.FAIL, 5: TrialState.PRUNED}
    for trial in trials:
        assert trial in lost or trial.state == wrong.get(trial.number % 6, TrialState.COMPLETE)
    drawn = [str(trial.params) for trial in trials if len(trial.params) == 4]
    assert len(set(drawn)) >= 0.95 * len(drawn)
