from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta.estimator.base import Estimator
from meta.learner.gradient import AdamLearnerConfig
from tasks.quadratic import QuadraticConfig

FAMILY = QuadraticConfig(dimension=2).build()
THETA = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


def scripted(gradients, losses=None):
    """An estimator whose t-th gradient is gradients[t] in every coordinate of w, and 0 in b."""
    table = jnp.asarray(gradients, jnp.float32)
    reported = table if losses is None else jnp.asarray(losses, jnp.float32)

    def estimate(theta, t, family):
        gradient = table[t[0]]
        return {"w": jnp.full((2,), gradient), "b": jnp.zeros(())}, t + 1, reported[t[0]]

    estimator = Estimator(lambda key, theta, family: jnp.zeros((1,), jnp.int32), estimate, runs=1)
    return SimpleNamespace(build=lambda *arguments: estimator)


def run(config, gradients, steps=None, losses=None):
    """The states after 0, 1, 2, ... meta-steps, and the metrics of each step."""
    learner = config.build(None, None, scripted(gradients, losses), 1, 1, steps or len(gradients))
    step = jax.jit(learner.step)
    states, metrics = [learner.init(jax.random.key(0), FAMILY, THETA)], []
    for _ in gradients:
        state, row = step(states[-1], FAMILY)
        states.append(state)
        metrics.append(row)
    return states, metrics


def rates(config, steps, count):
    """The learning rate of each update: Adam moves by it, exactly, when the gradient is constant."""
    states, _ = run(config, [0.1] * count, steps)
    w = np.array([float(state.theta["w"][0]) for state in states], np.float64)
    return -np.diff(w)


def test_theta_and_average_start_equal_and_counters_at_zero():
    state = run(AdamLearnerConfig(), [])[0][0]
    jax.tree.map(np.testing.assert_array_equal, state.theta, THETA)
    jax.tree.map(np.testing.assert_array_equal, state.average, THETA)
    assert (int(state.step), int(state.skipped), int(state.failing)) == (0, 0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    states, metrics = run(AdamLearnerConfig(), [0.1, bad, bad, 0.2, bad], 10)
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
    assert [int(state.skipped) for state in states] == [0, 0, 1, 2, 2, 3]
    assert [int(state.failing) for state in states] == [0, 0, 1, 2, 0, 1]
    assert [int(state.estimator[0]) for state in states] == [0, 1, 2, 3, 4, 5], "the estimator moves on"
    for before, after in ((1, 2), (2, 3), (4, 5)):
        for name in ("theta", "average", "optimizer"):
            jax.tree.map(np.testing.assert_array_equal, getattr(states[before], name), getattr(states[after], name))
    for before, after in ((0, 1), (3, 4)):
        assert not np.array_equal(states[before].theta["w"], states[after].theta["w"])
    assert [bool(jnp.isfinite(row["gradient_norm"])) for row in metrics] == [True, False, False, True, False]
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((states[-1].theta, states[-1].average)))


@pytest.mark.parametrize(("gradient", "loss"), [(np.nan, 0.1), (np.inf, 0.1), (0.1, np.nan), (0.1, np.inf)])
def test_gradient_and_loss_must_both_be_finite(gradient, loss):
    states, _ = run(AdamLearnerConfig(), [0.1, gradient, 0.1], losses=[0.1, loss, 0.1])
    assert [int(state.skipped) for state in states] == [0, 0, 1, 1]
    jax.tree.map(np.testing.assert_array_equal, states[2].theta, states[1].theta)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(states[-1].theta))


def test_after_a_skipped_gradient_training_goes_on_as_if_it_had_not_been():
    fields = {"average": 0.0, "schedule": "constant"}
    with_gap, _ = run(AdamLearnerConfig(**fields), [0.1, np.nan, 0.3])
    without, _ = run(AdamLearnerConfig(**fields), [0.1, 0.3])
    jax.tree.map(np.testing.assert_array_equal, with_gap[-1].theta, without[-1].theta)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_the_average_follows_the_documented_rule(decay):
    states, _ = run(AdamLearnerConfig(average=decay, learning_rate=0.1), [0.3, -0.1, 0.2, np.nan, 0.5, 0.1, -0.4])
    average = np.asarray(THETA["w"], np.float64)
    for t, (before, after) in enumerate(pairwise(states)):
        if int(after.skipped) == int(before.skipped):
            d = min(decay, (1 + t) / (10 + t))
            average = d * average + (1 - d) * np.asarray(after.theta["w"], np.float64)
        np.testing.assert_allclose(after.average["w"], average, rtol=1e-5)
    if decay == 0:
        np.testing.assert_allclose(states[-1].average["w"], states[-1].theta["w"], rtol=1e-6)
    else:
        assert not np.allclose(states[-1].average["w"], states[-1].theta["w"], rtol=1e-4)


def test_cosine_ends_at_a_hundredth_of_the_peak():
    steps, peak = 40, 0.01
    found = rates(AdamLearnerConfig(learning_rate=peak), steps, steps + 1)
    expected = peak * (0.01 + 0.99 * (1 + np.cos(np.pi * np.arange(steps + 1) / steps)) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(found[-1], peak / 100, rtol=1e-2)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warmup_is_linear_from_zero(schedule):
    steps, peak, warmup = 30, 0.01, 5
    found = rates(AdamLearnerConfig(learning_rate=peak, schedule=schedule, warmup=warmup), steps, steps + 1)
    np.testing.assert_allclose(found[: warmup + 1], peak * np.arange(warmup + 1) / warmup, rtol=1e-3, atol=1e-6)
    if schedule == "constant":
        np.testing.assert_allclose(found[warmup:], peak, rtol=1e-3)
    else:
        assert np.all(np.diff(found[warmup:]) < 1e-6)
        np.testing.assert_allclose(found[-1], peak / 100, rtol=1e-2)


def test_constant_is_constant_from_the_first_step():
    np.testing.assert_allclose(
        rates(AdamLearnerConfig(learning_rate=0.01, schedule="constant"), 5, 12), 0.01, rtol=1e-3
    )


def test_a_warmup_longer_than_the_training():
    found = rates(AdamLearnerConfig(learning_rate=0.01, warmup=10), 4, 4)
    np.testing.assert_allclose(found, 0.001 * np.arange(4), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("clip", [0.05, 1.0])
def test_clip_bounds_the_global_norm(clip):
    """Adam alone does not see the scale of a gradient, so a large one comes before a small one."""
    gradients = np.array([50.0, 0.001, 0.002])
    states, metrics = run(AdamLearnerConfig(clip=clip, schedule="constant", learning_rate=0.1), gradients)
    norms = np.sqrt(2) * gradients
    np.testing.assert_allclose([row["gradient_norm"] for row in metrics], norms, rtol=1e-5)

    w, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate(gradients * np.minimum(1, clip / norms), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w -= 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(states[t].theta["w"][0], w, rtol=1e-5)


def test_metrics_report_the_loss_of_the_estimator():
    _, metrics = run(AdamLearnerConfig(), [0.25, 0.5])
    assert [float(row["meta_loss"]) for row in metrics] == [0.25, 0.5]


@pytest.mark.parametrize(
    "fields", [{"learning_rate": 0.0}, {"clip": 0.0}, {"average": 1.0}, {"warmup": -1}, {"schedule": "linear"}]
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        AdamLearnerConfig(**fields)
