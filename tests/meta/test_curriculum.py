"""Horizons: how they are drawn, where a run ends, and when training moves on to longer ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import ValidationError

import meta.trainer as trainer
from l2o.core import LearnedOptimizer
from l2o.gradient.lstm import LSTMConfig
from l2o.lift.optax import from_optax
from meta.checkpoints import read_metrics
from meta.curriculum import CurriculumConfig, FixedConfig, LogUniformConfig, parse_horizon
from meta.estimator.backprop import BackpropConfig
from meta.estimator.base import Windows
from meta.objective import BestConfig, FinalConfig, SumConfig, WeightedSumConfig
from meta.trainer import MetaConfig, train
from tasks.quadratic import QuadraticConfig

QUADRATIC = QuadraticConfig(dimension=2, start_scale=1.0).build()
DRAWS = 8000


def horizons(schedule, stage=0):
    family = schedule.family(QUADRATIC, stage)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda key: family.sample(key)[1]))(keys))


def assert_frequency(found, probability):
    assert abs(found.mean() - probability) < 4 * (probability * (1 - probability) / DRAWS) ** 0.5


@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 5), (3, 6)])
def test_each_integer_between_the_ends_has_its_probability(low, high):
    """Horizon h stands for the reals from h to h + 1, log-uniform between low and high + 1."""
    drawn = horizons(LogUniformConfig(low=low, high=high))
    assert drawn.dtype == np.int32 and set(drawn) == set(range(low, high + 1))
    for h in range(low, high + 1):
        assert_frequency(drawn == h, np.log((h + 1) / h) / np.log((high + 1) / low))


def test_half_of_the_horizons_are_below_the_geometric_mean():
    drawn = horizons(LogUniformConfig(low=100, high=10_000))
    assert drawn.min() >= 100 and drawn.max() <= 10_000
    assert_frequency(drawn <= 1000, 0.5)
    assert_frequency(drawn <= 316, 0.25)


@pytest.mark.parametrize("length", [1, 2, 7, 100, 1001, 50_000])
def test_a_fixed_horizon_is_always_the_same(length):
    assert set(horizons(FixedConfig(length=length))) == {length}


def test_the_horizon_reaches_the_task_and_leaves_it_as_it_was():
    family = LogUniformConfig(low=3, high=9).family(QUADRATIC)
    inner, horizon = family.sample(jax.random.key(1))
    task, plain = family.task((inner, horizon)), QUADRATIC.task(inner)
    assert 3 <= int(task.problem.horizon) == int(horizon) <= 9
    np.testing.assert_array_equal(task.problem.start, plain.problem.start)
    x = jnp.ones((1, 2))
    np.testing.assert_array_equal(task.evaluate(jax.random.key(2), x).value, plain.evaluate(jax.random.key(2), x).value)


def test_another_stage_compiles_nothing_again():
    traces = []

    @jax.jit
    def draw(family, key):
        traces.append(None)
        return family.sample(key)[1]

    schedule = CurriculumConfig(lengths=(3, 8, 20))
    found = [int(draw(schedule.family(QUADRATIC, stage), jax.random.key(0))) for stage in range(3)]
    assert found == [3, 8, 20] and len(traces) == 1
    mixed = LogUniformConfig(low=2, high=4).family(QUADRATIC)
    assert 2 <= int(draw(mixed, jax.random.key(0))) <= 4 and len(traces) == 1


def test_stages_longest_and_what_is_validated():
    fixed, drawn = FixedConfig(length=5), LogUniformConfig(low=2, high=9)
    grown = CurriculumConfig(lengths=(4, 8, 20), wait=3)
    assert [(s.stages, s.longest, s.patience) for s in (fixed, drawn, grown)] == [
        (((5, 5),), 5, 1), (((2, 9),), 9, 1), (((4, 4), (8, 8), (20, 20)), 20, 3),
    ]  # fmt: skip
    assert [grown.validated(stage) for stage in range(3)] == [8, 20, 20]
    assert (fixed.validated(0), drawn.validated(0)) == (5, 4), "the geometric mean of 2 and 9"


def test_an_integer_is_a_fixed_horizon():
    assert parse_horizon(7) == FixedConfig(length=7)
    for schedule in (FixedConfig(length=7), LogUniformConfig(low=2, high=4), CurriculumConfig(lengths=(2, 4), wait=2)):
        assert parse_horizon(schedule) is schedule
        assert parse_horizon(schedule.model_dump(mode="json")) == schedule


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "log_uniform", "low": 5, "high": 5}, "low must be below high, found 5 and 5"),
        ({"kind": "log_uniform", "low": 6, "high": 5}, "low must be below high, found 6 and 5"),
        ({"kind": "log_uniform", "low": 0, "high": 5}, "low"),
        ({"kind": "curriculum", "lengths": [5, 5]}, r"lengths must increase, found \[5, 5\]"),
        ({"kind": "curriculum", "lengths": [2, 8, 4]}, "lengths must increase"),
        ({"kind": "curriculum", "lengths": [5]}, "at least 2"),
        ({"kind": "curriculum", "lengths": [0, 5]}, "greater than or equal to 1"),
        ({"kind": "curriculum", "lengths": [2, 5], "wait": 0}, "wait"),
        ({"kind": "fixed", "length": 0}, "length"),
        ({"kind": "loguniform"}, r"unknown kind 'loguniform' \(did you mean 'log_uniform'\?\)"),
        (0, "length"),
        (True, "expected a table"),
        (2.5, "expected a table"),
        ("100", "expected a table"),
    ],
)
def test_a_horizon_that_makes_no_sense_is_refused(value, words):
    with pytest.raises(ValidationError, match=words):
        MetaConfig.model_validate({"steps": 1, "horizon": value})


# windows that reach past the horizon

WHOLE = 5
SGD = LearnedOptimizer(lambda key: jnp.array(0.05), lambda theta: from_optax(optax.sgd(theta)))
BY_HAND = {
    "sum": (SumConfig(), lambda values: values),
    "weighted_sum": (WeightedSumConfig(power=1.0), lambda values: 2 * np.arange(1, WHOLE + 1) / WHOLE * values),
    "final": (FinalConfig(), lambda values: np.where(np.arange(1, WHOLE + 1) == WHOLE, values, 0.0)),
    "best": (BestConfig(), np.minimum.accumulate),
}


@pytest.mark.parametrize("length", [2, 3, 5])
@pytest.mark.parametrize("kind", BY_HAND)
def test_what_lies_beyond_the_horizon_is_not_counted(kind, length):
    config, by_hand = BY_HAND[kind]
    family, runs_of = FixedConfig(length=WHOLE).family(QUADRATIC), Windows(SGD, config.build(), length)
    theta = SGD.init(jax.random.key(0))
    run = jax.jit(lambda key: runs_of.start(theta, key, family))(jax.random.key(4))
    (w, y, x), _ = jax.tree.map(lambda a: np.asarray(a, np.float64), run.params)
    values = []
    for _ in range(WHOLE):
        x = x - 0.05 * 2 * w.T @ (w @ x - y)
        values.append(np.sum((w @ x - y) ** 2))
    losses = by_hand(np.array(values))
    advance = jax.jit(lambda run: runs_of.advance(theta, run, family))
    finished = jax.jit(lambda run: runs_of.finished(run, family))
    for first in range(0, WHOLE, length):
        assert not finished(run)
        run, total, mean = advance(run)
        inside = losses[first : first + length]
        np.testing.assert_allclose(total, inside.sum() / length, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(mean, inside.mean(), rtol=1e-4, atol=1e-7)
    assert finished(run)


def test_a_run_in_progress_keeps_its_horizon_when_the_stage_changes():
    schedule, runs_of = CurriculumConfig(lengths=(3, 9)), Windows(SGD, SumConfig().build(), 2)
    theta, (short, long) = jnp.array(0.05), (schedule.family(QUADRATIC, stage) for stage in range(2))
    run = runs_of.start(theta, jax.random.key(5), short)
    for _ in range(2):
        assert not runs_of.finished(run, long)
        run, _, _ = runs_of.advance(theta, run, long)
    assert runs_of.finished(run, long)
    assert int(runs_of.start(theta, jax.random.key(5), long).params[1]) == 9


# a training that grows

LEARNED = LSTMConfig(layers=1, hidden=2).build()


def grow(out, monkeypatch, scores, lengths=(2, 3, 5), wait=1, steps=6, report=lambda row: None, **fields):
    """A validation after each meta-step, with these scores; returns also the horizons it was given."""
    remaining, seen = list(scores), []

    def evaluate(make, theta, family, key, *, horizon, **options):
        seen.append((horizon, jax.tree.map(np.array, theta)))
        return {"objective": np.array([remaining.pop(0)]), "value": np.zeros((1, 3))}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    out.mkdir(exist_ok=True)
    config = MetaConfig(
        steps=steps, tasks=2, horizon=CurriculumConfig(lengths=lengths, wait=wait), log_every=1, validate_every=1,
        checkpoint_every=1, validation_tasks=2, estimator=BackpropConfig(unroll_length=2), devices=1, **fields,
    )  # fmt: skip
    result = train(out, LEARNED, QUADRATIC, config, seed=0, identity={}, report=report)
    return result, seen


def column(out, name):
    return [row[name] for row in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("wait", "scores", "expected"),
    [
        (1, [1, 1, 9, 9, 5, 6], [2, 2, 3, 3, 5, 5]),
        (2, [3, 4, 2, 4, 4, 9], [2, 2, 2, 2, 2, 3]),
        (2, [1, np.nan, 3, np.nan, 4, 5], [2, 2, 2, 3, 3, 3]),
    ],
)
def test_the_horizon_grows_when_validation_stops_improving(tmp_path, monkeypatch, wait, scores, expected):
    _, seen = grow(tmp_path, monkeypatch, scores, wait=wait)
    assert column(tmp_path, "horizon") == expected
    following = {2: 3, 3: 5, 5: 5}
    assert [horizon for horizon, _ in seen] == [following[h] for h in expected]


@pytest.mark.parametrize(("scores", "best"), [([1, 2, 9, 9, 4, 5], 4), ([3, 4, 1, 2, 6, 5], 5)])
def test_the_best_theta_of_the_last_stage_is_kept(tmp_path, monkeypatch, scores, best):
    """Scores of different horizons are not compared."""
    result, seen = grow(tmp_path, monkeypatch, scores)
    assert (result.validation, result.validation_step) == (scores[best], best + 1)
    jax.tree.map(np.testing.assert_array_equal, result.theta, seen[best][1])
    assert not np.array_equal(seen[best][1]["output"]["w"], seen[best - 1][1]["output"]["w"])


def test_the_validation_of_a_training_that_would_have_grown_at_its_end(tmp_path, monkeypatch):
    """There is no training in the stage that would begin then, so the best of the present one stands."""
    result, seen = grow(tmp_path, monkeypatch, [6, 5, 4, 3, 2, 3])
    assert (result.validation, result.validation_step) == (2, 5)
    jax.tree.map(np.testing.assert_array_equal, result.theta, seen[4][1])


@pytest.mark.slow
def test_resumed_in_the_middle_of_a_stage(tmp_path, monkeypatch):
    scores = [1, 2, 9, 8, 8.5, 7]
    whole, seen = grow(tmp_path / "whole", monkeypatch, scores)

    def report(row):
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grow(tmp_path / "cut", monkeypatch, scores, report=report)
    resumed, again = grow(tmp_path / "cut", monkeypatch, scores[3:])
    assert [horizon for horizon, _ in again] == [horizon for horizon, _ in seen[3:]] == [5, 5, 5]
    assert column(tmp_path / "cut", "horizon") == column(tmp_path / "whole", "horizon") == [2, 2, 3, 3, 3, 5]
    assert (resumed.validation, resumed.validation_step) == (whole.validation, whole.validation_step)
    jax.tree.map(np.testing.assert_array_equal, resumed.theta, whole.theta)
