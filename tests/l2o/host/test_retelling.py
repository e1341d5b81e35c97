"""Suggestions in a study that somebody else keeps: what is told, how often, and what is in progress."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o import Record, RecordedTrial
from l2o.acquisition import Pending
from l2o.baselines.gp import GPEIConfig
from l2o.host.proposals import Proposer, source
from l2o.host.retelling import Retelling
from l2o.surrogate.pfn import PFNConfig

SPACE = l2o.SearchSpace.from_dict({"x": (0.0, 1.0), "k": ["a", "b"]})
GP = GPEIConfig(max_trials=8, initial=2, candidates=32, fit_steps=2, ascent_steps=4, max_pending=4)
PFN = PFNConfig(
    width=16, heads=4, feedforward=16, layers=1, parameter_width=8, buckets=16, max_trials=8, initial=2, candidates=32,
    ascent_steps=1, max_pending=4,
)  # fmt: skip


def pfn():
    return l2o.Loaded(PFN, PFN.build().init(jax.random.key(0)), {}, [], "")


def value(parameters):
    return (parameters["x"] - 0.3) ** 2 + (parameters["k"] == "a")


def record(done, pending=(), goal="minimize"):
    waiting = [RecordedTrial(parameters, None, "pending") for parameters in pending]
    return Record(SPACE, goal=goal, trials=[*done, *waiting])


def finished(parameters):
    return RecordedTrial(parameters, value(parameters))


def made(optimizer, seed=0):
    return Retelling(source(optimizer), 100, seed)


def play(retelling, done, count):
    """One trial after the other."""
    for _ in range(count):
        done.append(finished(retelling.suggest(record(done), len(done))))
    return done


@pytest.fixture
def told(monkeypatch):
    """Values that were told."""
    found, tell = [], Proposer.tell
    monkeypatch.setattr(Proposer, "tell", lambda self, ticket, value: [found.append(value), tell(self, ticket, value)])
    return found


@pytest.mark.parametrize("optimizer", [GP, "random", "cma_es"], ids=["gp_ei", "random", "cma_es"])
def test_one_worker_gets_what_a_study_of_ours_suggests(optimizer, told):
    study = l2o.Study(SPACE, optimizer, seed=3)
    for _ in range(7):
        trial = study.suggest()
        study.observe(trial, value(trial.parameters))
    told.clear()
    found = play(made(optimizer, 3), [], 7)
    assert [trial.parameters for trial in found] == [trial.parameters for trial in study.history]
    assert told == [trial.value for trial in found[:-1]], "each once"


@pytest.mark.parametrize(
    "optimizer",
    [GP, "random", "cma_es", pytest.param(pfn, marks=pytest.mark.slow)],
    ids=["gp_ei", "random", "cma_es", "pfn"],
)
def test_trials_in_progress_get_different_points_and_change_nothing_later(optimizer):
    optimizer = optimizer() if callable(optimizer) else optimizer
    one, other = made(optimizer), made(optimizer)
    done = []
    for end in range(4):
        waiting = []
        for i in range(4):
            waiting.append(one.suggest(record(done, waiting), len(done) + i, i))
        assert len({str(point) for point in waiting}) == 4, end
        done.append(finished(waiting[end % 4]))  # the others fall out of the study
    assert one.suggest(record(done), 4) == other.suggest(record(done), 4)
    assert one.suggest(record(done, waiting[:2]), 6, 2) == other.suggest(record(done, waiting[:2]), 6, 2)


def test_a_model_expects_what_is_in_progress():
    """Another worker's point, which it did not propose, is not near to what it proposes then."""
    retelling = made(GP)
    done = play(retelling, [], 7)
    best = retelling.suggest(record(done), 7)
    beside = retelling.suggest(record(done, [best]), 8, 1)
    assert beside != best and (beside["k"] != best["k"] or abs(beside["x"] - best["x"]) > 1e-4)
    assert retelling.suggest(record(done), 7) == best


def test_one_that_is_not_known_yet_is_taken_to_be_what_is_proposed_for_it():
    for optimizer in (GP, "random"):
        retelling = made(optimizer)
        done = play(retelling, [], 4)
        first = retelling.suggest(record(done), 4)
        assert retelling.suggest(record(done), 5, 1) != first  # the other worker is about to have that
        assert (
            retelling.suggest(record(done), 5, 1) == retelling.suggest(record(done, [first]), 5, 1) or optimizer is GP
        )


def test_a_history_that_is_no_longer_the_same_begins_anew_and_several_go_on(told):
    retelling = made("random")
    one, other = ([finished({"x": x, "k": k}) for x in (0.1, 0.2, 0.3, 0.4)] for k in "ab")
    for length in (2, 3, 4):  # as the brackets of a pruner
        for history in (one, other):
            retelling.suggest(record(history[:length]), 9)
    assert len(told) == 8
    told.clear()
    changed = [one[0], *other[1:]]
    assert retelling.suggest(record(changed), 9) == made("random").suggest(record(changed), 9)
    assert len(told) == 2 * 4
    retelling.suggest(record(one, goal="maximize"), 9)
    assert told[-4:] == [-trial.value for trial in one]


def test_failures_are_told(told):
    for optimizer in ("random", "tpe"):
        told.clear()
        done = [RecordedTrial({"x": 0.5, "k": "a"}, None, "infeasible"), finished({"x": 0.25, "k": "b"})]
        made(optimizer).suggest(record(done), 2)
        assert np.isnan(told[0]) and told[1] == value(done[1].parameters)


def test_one_that_runs_on_the_host_is_told_everything_anew(told):
    pytest.importorskip("optuna")
    retelling = made("tpe")
    done = play(retelling, [], 12)
    assert len(told) == sum(range(12))
    assert len({trial.parameters["x"] for trial in done}) == 12
    beside = [retelling.suggest(record(done, [{"x": 0.5, "k": "a"}] * i), 12 + i, i) for i in range(3)]
    assert len({point["x"] for point in beside}) == 3 and beside[0] == made("tpe").suggest(record(done), 12)


def test_points_in_progress():
    points = jnp.arange(5.0)[:, None] / 5
    pending = Pending.none(3, 1)
    for point in points[:2]:
        pending = pending.asked(point)
    np.testing.assert_array_equal(pending.x[pending.used], points[:2])
    for point, left in zip(points[:2], points[1::-1], strict=True):
        one = pending.told(point)
        np.testing.assert_array_equal(one.x[one.used], left[None])
    one = pending.told(points[4])
    np.testing.assert_array_equal(one.x[one.used], points[1:2], "the oldest goes in place of what is not known")
    assert one.told(points[4]).told(points[4]).number == 0
    for point in points[2:]:
        pending = pending.asked(point)
    np.testing.assert_array_equal(pending.x, points[2:])
    assert pending.number == 5 and pending.told(points[0]).number == 4, "one that found no room"
    np.testing.assert_array_equal(pending.of(points[1:]).x, points[2:])
    assert pending.of(points[1:]).number == 4 and pending.of(points[:0]).number == 0
    some = pending.of(points[:2])
    np.testing.assert_array_equal(some.x[some.used], points[:2])


def test_a_study_of_ours_expects_what_it_asked_for():
    study = l2o.Study(SPACE, GP, seed=0)
    for _ in range(4):
        trial = study.suggest()
        study.observe(trial, value(trial.parameters))
    open_trials = study.suggest(count=4)
    assert len({str(trial.parameters) for trial in open_trials}) == 4
