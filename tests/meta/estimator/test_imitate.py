"""Imitation: zero for a copy, one for standing still, exact gradients, and a student that learns its teacher's rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import ValidationError

from l2o.lift.optax import gradient_based
from l2o.registry import parse
from meta.curriculum import FixedConfig
from meta.estimator import EstimatorConfig
from meta.objective import SumConfig
from tasks.quadratic import QuadraticConfig

RATE = 0.02
STUDENT = gradient_based(lambda key: jnp.array(-3.0), lambda theta, horizon: optax.adam(jnp.exp(theta)))
FAMILY = FixedConfig(length=7).family(QuadraticConfig(dimension=3, start_scale=1.0).build())
TEACHER = {"kind": "adam", "learning_rate": RATE}


def build(length=4):
    fields = {"kind": "imitate", "teacher": TEACHER, "unroll_length": length}
    return parse(EstimatorConfig, fields).build(STUDENT, SumConfig().build(), 7, 3)


@pytest.fixture(scope="module")
def started():
    estimator = build()
    return jax.jit(estimator.estimate), estimator.init(jax.random.key(0), jnp.array(-3.0), FAMILY)


def test_a_copy_has_loss_zero_and_standing_still_has_loss_one(started):
    estimate, state = started
    for theta, expected in ((np.log(RATE), 0.0), (-40.0, 1.0), (np.log(3 * RATE), 4.0)):
        _, _, loss = estimate(jnp.array(theta, jnp.float32), state, FAMILY)
        np.testing.assert_allclose(loss, expected, atol=1e-4)


def test_the_gradient_equals_a_finite_difference(started):
    estimate, state = started
    losses = [estimate(jnp.float32(-3.0 + step), state, FAMILY)[2] for step in (0.01, -0.01)]
    gradient, _, _ = estimate(jnp.array(-3.0), state, FAMILY)
    np.testing.assert_allclose((losses[0] - losses[1]) / 0.02, gradient, rtol=1e-2)


def test_runs_follow_the_teacher_whatever_theta_is(started):
    """After two windows every run is where the teacher is, and those beyond the horizon of 7 have begun again."""
    estimate, state = started
    found = []
    for theta in (-3.0, -1.0):
        now = state
        for _ in range(2):
            _, now, loss = estimate(jnp.array(theta), now, FAMILY)
            assert np.isfinite(loss)
        found.append(now)
    jax.tree.map(np.testing.assert_array_equal, found[0].state[0], found[1].state[0])
    assert sorted(found[0].step.tolist()) == [4, 8, 8]


def test_a_student_learns_its_teachers_rate():
    estimator, rule = build(7), optax.adam(0.1)

    def step(carry, _):
        theta, state, optimizer = carry
        gradient, state, _ = estimator.estimate(theta, state, FAMILY)
        updates, optimizer = rule.update(gradient, optimizer)
        return (optax.apply_updates(theta, updates), state, optimizer), None

    @jax.jit
    def train(theta):
        carry = theta, estimator.init(jax.random.key(1), theta, FAMILY), rule.init(theta)
        return jax.lax.scan(step, carry, None, 150)[0][0]

    np.testing.assert_allclose(np.exp(train(jnp.array(-2.0))), RATE, rtol=0.05)


def test_a_teacher_cannot_run_on_the_host():
    with pytest.raises(ValidationError, match="teacher: tpe runs on the host and cannot be compiled"):
        parse(EstimatorConfig, {"kind": "imitate", "teacher": {"kind": "tpe"}})


def test_a_teacher_needs_its_learning_rate():
    with pytest.raises(ValidationError, match="teacher: adam has no learning_rate, expected one"):
        parse(EstimatorConfig, {"kind": "imitate", "teacher": {"kind": "adam"}})
