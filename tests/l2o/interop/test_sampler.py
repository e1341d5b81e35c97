"""Any black-box optimizer as a sampler of Optuna."""

import copy
import pickle
import threading
import warnings

import pytest

import l2o
from l2o import UserError
from l2o.baselines.gp import GPEIConfig

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402
from optuna.testing.pytest_samplers import (  # noqa: E402
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import TrialState, create_trial  # noqa: E402

GP = GPEIConfig(max_trials=16, initial=2, candidates=32, fit_steps=2, ascent_steps=2, max_pending=4)
SPACE = {"x": FloatDistribution(-1, 1), "y": IntDistribution(1, 64, log=True), "z": CategoricalDistribution(["a", "b"])}


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


def created(optimizer, seed=0, **fields):
    return optuna.create_study(sampler=l2o.Sampler(optimizer, seed), **fields)


def objective(trial):
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 1, 64, log=True)
    return x**2 + y / 64 + (trial.suggest_categorical("z", ["a", "b"]) == "a")


def troubled(trial):
    value = objective(trial)
    if trial.number % 6 == 3:
        raise ValueError
    if trial.number % 6 == 5:
        trial.report(value, 0)
        raise optuna.TrialPruned
    return value


def points(study):
    return [trial.params for trial in study.get_trials()]


def different(trials):
    return len({str(trial.params) for trial in trials})


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: l2o.Sampler("random", 0)


class TestRelative(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: l2o.Sampler("random", 0)


class TestOneObjective(SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: l2o.Sampler("random", 0)


@pytest.mark.slow
class TestBasicOfAModel(TestBasic):
    @pytest.fixture
    def sampler(self):
        return lambda: l2o.Sampler(GP, 0)


@pytest.mark.slow
class TestRelativeOfAModel(TestRelative):
    @pytest.fixture
    def sampler(self):
        return lambda: l2o.Sampler(GP, 0)


@pytest.mark.parametrize("optimizer", [GP, "tpe", "cma_es"], ids=["gp_ei", "tpe", "cma_es"])
def test_a_seed_decides_all_also_of_a_study_that_goes_on(optimizer):
    def run(seed, parts):
        storage = optuna.storages.InMemoryStorage()
        for n in parts:  # each in a sampler of its own
            study = created(optimizer, seed, study_name="same", storage=storage, load_if_exists=True)
            with warnings.catch_warnings(action="error"):
                study.optimize(troubled, n_trials=n, catch=(ValueError,))
        return study

    whole = run(0, [10])
    assert points(run(0, [4, 6])) == points(whole) != points(run(1, [10]))
    assert different(whole.trials) == 10


def test_the_goal():
    best = {}
    for direction in ("minimize", "maximize"):
        study = created(GP, direction=direction)
        study.optimize(objective, n_trials=14)
        best[direction] = study.best_value
    assert best["minimize"] < 0.5 and best["maximize"] > 1.8


def test_trials_that_failed_or_were_enqueued_and_those_of_others():
    study = created(GP)
    study.add_trial(create_trial(params={"x": 0.5, "y": 8, "z": "a"}, distributions=SPACE, value=0.9))
    study.add_trial(create_trial(params={"x": 0.5, "y": 4, "z": "b"}, distributions=SPACE, state=TrialState.FAIL))
    study.add_trial(create_trial(params={"x": 0.5}, distributions={"x": SPACE["x"]}, state=TrialState.FAIL))
    study.enqueue_trial({"x": 0.25, "y": 2, "z": "b"})
    study.optimize(troubled, n_trials=8, catch=(ValueError,))
    assert study.trials[3].params == {"x": 0.25, "y": 2, "z": "b"}
    assert len(study.trials) == 11 and different(study.trials[3:]) == 8


def test_what_is_in_progress_is_not_proposed_again():
    study = created(GP)
    study.optimize(objective, n_trials=8)
    running = [study.ask(SPACE) for _ in range(6)]
    assert different([*study.trials]) == 14
    for trial in running[::2]:
        study.tell(trial, 1.0)
    running += [study.ask(SPACE) for _ in range(2)]
    assert different(study.trials) == 16


def test_parameters_that_come_and_go():
    def dynamic(trial):
        if trial.suggest_categorical("kind", ["deep", "flat"]) == "deep":
            trial.suggest_float("rate", 0, 1 + trial.number)
        trial.suggest_float("one", 2, 2)
        return trial.suggest_float("x", -1, 1, step=0.25)

    study = optuna.create_study(sampler=l2o.Sampler("random", 0, warn_independent_sampling=False))
    study.optimize(dynamic, n_trials=12)
    assert len(study.trials) == 12 and len({trial.params["x"] for trial in study.trials}) > 4


def test_copies_go_on_alike():
    study = created(GP)
    study.optimize(objective, n_trials=4)
    ours, copied, pickled = study, copy.deepcopy(study), pickle.loads(pickle.dumps(study))
    for each in (ours, copied, pickled):
        each.optimize(objective, n_trials=2)
    assert points(ours) == points(copied) == points(pickled)


def test_reseeding_changes_the_seed():
    found = []
    for again in range(2):
        study = created("random")
        if again:
            study.sampler.reseed_rng()
        study.optimize(objective, n_trials=2)
        found.append(points(study))
    assert found[0] != found[1]


@pytest.mark.parametrize("optimizer", [GP, "random", "tpe"], ids=["gp_ei", "random", "tpe"])
def test_threads(optimizer):
    study = created(optimizer)
    study.optimize(objective, n_trials=1)
    begun = threading.Barrier(4)

    def together(trial):
        trial.suggest_float("x", -1, 1)
        begun.wait(60)
        return objective(trial)

    study.optimize(together, n_trials=12, n_jobs=4)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 13 and different(study.trials) == 13


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_workers_share_a_storage_with_samplers_of_their_own(kind, tmp_path):
    def storage():
        files = optuna.storages.journal
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/study.db"
        return optuna.storages.JournalStorage(files.JournalFileBackend(str(tmp_path / "journal.log")))

    optuna.create_study(study_name="shared", storage=storage())

    def work(trials, seed):
        study = optuna.load_study(study_name="shared", storage=storage(), sampler=l2o.Sampler(GP, seed))
        study.optimize(troubled, n_trials=trials, catch=(ValueError,))

    threads = [threading.Thread(target=work, args=(4, seed)) for seed in (0, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    optuna.load_study(study_name="shared", storage=storage()).ask(SPACE)  # a worker that was killed
    work(3, 2)
    trials = optuna.load_study(study_name="shared", storage=storage()).get_trials()
    assert [trial.number for trial in trials] == list(range(16))
    assert different(trials) >= 15


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "gp_e"}, "no optimizer named 'gp_e'.*did you mean"),
        ({"optimizer": "adam"}, "'adam' reads gradients"),
        ({"optimizer": "lstm"}, "'lstm' reads gradients"),
        ({"optimizer": "random", "seed": -1}, "seed is -1"),
        ({"optimizer": "random", "budget": 0}, "budget is 0: expected a whole number from 1"),
        ({"optimizer": "random", "warm_start": True}, "warm_start: random reads no other studies"),
    ],
)
def test_bad_arguments(fields, message):
    with pytest.raises(UserError, match=message):
        l2o.Sampler(**fields)


def test_a_space_that_the_optimizer_does_not_take():
    study = created("rnn")
    with pytest.raises(UserError, match="takes up to 6 dimensions"):
        study.optimize(lambda trial: sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(7)), n_trials=2)


def test_an_optformer_reads_studies_and_is_the_other_sampler():
    assert l2o.Sampler("optformer", 0, warm_start=True)._reads_studies
    assert isinstance(l2o.OptFormerSampler(0), l2o.Sampler)
