"""Intervals and paired comparisons against scipy, ties and diverged runs."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.study.statistics import bootstrap, curve, interval, paired


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_interval_is_students_t(rng):
    values = rng.normal(3.0, 2.0, 20)
    expected = stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(interval(values), (values.mean(), *expected), rtol=1e-12)


def test_interval_by_hand():
    """Mean 2, standard error 1 / sqrt(3), and t(0.975, 2) = 4.302653 from any table."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert (high - low) / 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_interval_covers_the_mean_as_often_as_it_says(rng):
    ends = np.array([interval(row)[1:] for row in rng.normal(0.0, 1.0, (1000, 8))])
    covered = np.mean((ends[:, 0] < 0) & (ends[:, 1] > 0))
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)


def test_interval_of_equal_values_is_a_point():
    assert interval([2.5, 2.5, 2.5]) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("bad", [None, math.inf, math.nan])
def test_one_diverged_run_makes_the_interval_unbounded(bad):
    assert interval([1.0, 2.0, bad]) == (math.inf, -math.inf, math.inf)


def test_paired_is_the_interval_of_the_differences(rng):
    ours, theirs = rng.normal(0, 1, 16), rng.normal(1, 1, 16)
    found = paired(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found["difference"] == pytest.approx((ours - theirs).mean(), rel=1e-12)
    np.testing.assert_allclose([found["low"], found["high"]], [expected.low, expected.high], rtol=1e-10)


def test_pairing_removes_what_the_runs_share(rng):
    """The same difference in runs of very different difficulty."""
    hard = 100 * rng.normal(0, 1, 32)
    found = paired(hard - 1 + 0.01 * rng.normal(0, 1, 32), hard)
    assert found["high"] < -0.99 and found["low"] > -1.01


def test_ties_are_half_a_win():
    assert paired([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0])["win_rate"] == 0.5
    assert paired([1.0, 1.0], [1.0, 1.0])["win_rate"] == 0.5
    assert paired([1.0, 0.0], [1.0, 1.0])["win_rate"] == 0.75


def test_the_win_rate_has_wilsons_interval():
    found = paired([0.0] * 7 + [2.0] * 3, [1.0] * 10)
    z = stats.norm.ppf(0.975)
    centre = (0.7 + z**2 / 20) / (1 + z**2 / 10)
    half = z / (1 + z**2 / 10) * math.sqrt(0.7 * 0.3 / 10 + z**2 / 400)
    assert found["win_rate"] == 0.7
    assert found["win_rate_low"] == pytest.approx(centre - half)
    assert found["win_rate_high"] == pytest.approx(centre + half)


@pytest.mark.parametrize(("ours", "theirs"), [([None, 2.0], [1.0, 3.0]), ([1.0, 3.0], [math.nan, 2.0])])
def test_a_difference_with_a_diverged_run_is_undefined(ours, theirs):
    found = paired(ours, theirs)
    assert found["difference"] is found["low"] is found["high"] is None


def test_a_diverged_run_loses_against_any_other():
    assert paired([None, None], [1e30, 1.0])["win_rate"] == 0.0
    assert paired([1e30, 1.0], [None, None])["win_rate"] == 1.0
    assert paired([None, None], [None, None])["win_rate"] == 0.5


def test_curve_is_the_interval_at_every_step(rng):
    values = rng.normal(0, 1, (6, 3))
    found = curve(values)
    for step in range(3):
        assert (found["mean"][step], found["low"][step], found["high"][step]) == pytest.approx(
            interval(values[:, step])
        )


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_curve_is_none_where_a_run_diverged(bad):
    found = curve(np.array([[1.0, 2.0], [3.0, bad]]))
    assert found["mean"] == [2.0, None]
    assert found["low"][1] is found["high"][1] is None


def test_the_bootstrap_of_a_mean_is_near_the_t_interval():
    x = np.random.default_rng(0).normal(3.0, 2.0, 200)
    mean, low, high = bootstrap(lambda a: a, [x], seed=1)
    assert mean == pytest.approx(x.mean())
    np.testing.assert_allclose([low, high], interval(x)[1:], atol=0.06)
    assert bootstrap(lambda a: a, [x], seed=1) == (mean, low, high)


def test_the_bootstrap_of_runs_on_tasks_draws_both():
    random = np.random.default_rng(0)
    tasks = random.normal(3.0, 2.0, 200)
    runs = tasks[:, None] + random.normal(0.0, 4.0, (200, 5))
    mean, low, high = bootstrap(lambda a: a, [runs], seed=1)
    assert mean == pytest.approx(runs.mean())
    both = np.sqrt((np.var(runs.mean(1)) + np.mean(np.var(runs, axis=1)) / 5) / 200)
    np.testing.assert_allclose([low, high], mean + 1.96 * both * np.array([-1, 1]), atol=0.05)
    assert bootstrap(lambda a, b: a - b, [runs + 1, runs], seed=1) == pytest.approx((1, 1, 1)), "the same runs of both"
    assert bootstrap(lambda a: a, [tasks[:, None]], seed=1) == bootstrap(lambda a: a, [tasks], seed=1)
    fewer = bootstrap(lambda a, b: a - b, [runs, runs[:, :2]], seed=1)
    assert fewer[0] == pytest.approx(runs.mean() - runs[:, :2].mean()) and fewer[1] < fewer[0] < fewer[2]


def test_the_bootstrap_draws_pairs():
    x = np.random.default_rng(0).normal(3.0, 2.0, 50)
    found = bootstrap(lambda a, b: a - b, [x + 1, x], seed=1)
    np.testing.assert_allclose(found, 1.0)
    ratio, low, high = bootstrap(lambda a, b: a / b, [2 * x, x], seed=1)
    np.testing.assert_allclose([ratio, low, high], 2.0)
    assert bootstrap(lambda a: a, [np.array([1.0, np.inf])], seed=1) == (np.inf, -np.inf, np.inf)
