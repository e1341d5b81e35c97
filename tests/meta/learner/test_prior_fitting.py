"""The prior-fitting learner: what it learns, and that devices and mixtures change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o import UserError
from l2o.gradient.lstm import LSTMConfig
from l2o.surrogate.pfn import PFNConfig
from meta.learner.prior_fitting import LOW, PriorFittingConfig, points, softened
from meta.objective import SumConfig
from tasks.gp import GPConfig

TINY = PFNConfig(width=8, heads=2, feedforward=8, layers=1, parameter_width=8, buckets=8, processes=2)
PRIOR = GPConfig(dimension=2, features=16, length_scales=(0.2, 0.2), kernels=("squared_exponential",), noise=1.0)


def fitted(steps, devices=1):
    """Theta after so many meta-steps, and the validation before and after."""
    config = PriorFittingConfig(sizes=(8,), queries=8, warmup=0, learning_rate=1e-2)
    learned, family = TINY.build(), PRIOR.build()
    learner = config.build(learned, SumConfig().build(), None, 1, tasks=8, steps=steps, devices=devices)
    judge = learner.validate
    assert judge is not None
    state = learner.init(jax.random.key(1), family, learned.init(jax.random.key(0)))
    validate = jax.jit(lambda theta: judge(theta, family, jax.random.key(2), 64)["validation"])
    before, step = validate(state.theta), jax.jit(learner.step)
    for _ in range(steps):
        state, metrics = step(state, family)
        assert np.isfinite(metrics["meta_loss"])
    return state.theta, before, validate(state.theta)


def test_it_learns_what_its_prior_is_like():
    """A fresh network takes the noise for small, and it is a third of the function."""
    _, before, after = fitted(30)
    assert after < before - 0.1


@pytest.mark.slow
def test_more_devices_change_nothing():
    one, two = (fitted(2, devices)[0] for devices in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, two)


def test_points_are_of_the_cube_and_some_are_near_each_other():
    found = np.asarray(jax.vmap(lambda key: points(key, 10, 6, 3))(jax.random.split(jax.random.key(0), 200)))
    assert found.shape == (200, 16, 3) and found.min() >= 0 and found.max() <= 1
    apart = np.linalg.norm(found[:, :, None] - found[:, None], axis=-1) + 9 * np.eye(16)
    nearest = np.median(apart.min(2), axis=1)  # 0.25 for uniform points
    assert 0.05 < np.mean(nearest < 0.15) < 0.5


def test_an_architecture_that_does_not_predict():
    with pytest.raises(UserError, match="prior_fitting' needs an optimizer that predicts"):
        PriorFittingConfig().build(LSTMConfig().build(), SumConfig().build(), None, 1, tasks=8, steps=1)


def test_a_function_that_fails_somewhere_is_learned_from_elsewhere():
    learned = TINY.build()
    theta = learned.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (6, 2))
    y = jnp.array([0.1, jnp.nan, 0.4, jnp.inf, 0.2, 0.3])
    belief = learned.surrogate.read(theta, x, y, jnp.ones(6, bool), jnp.ones(2, bool))
    assert np.all(np.isfinite(learned.surrogate.predict(theta, belief, x).mean))


def test_what_is_far_off_costs_more_the_farther_it_is_and_drowns_nothing():
    at = jnp.array([3.0, LOW + 0.01, LOW - 0.01, -20.0, -2000.0])
    slopes = jax.vmap(jax.grad(softened))(at)
    np.testing.assert_allclose(slopes[:2], 1.0)
    assert np.all(np.diff(slopes[1:]) < 0) and slopes[-1] > 0 and softened(at[-1]) > -15
    np.testing.assert_allclose(softened(at[1]) - softened(at[2]), 0.02, rtol=0.05)
