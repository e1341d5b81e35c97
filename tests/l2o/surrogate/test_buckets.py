"""Sums over buckets against integrals of the density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, simpson

from l2o.surrogate.buckets import Buckets

BUCKETS = Buckets.of(12)
LOGITS = jax.random.normal(jax.random.key(3), (3, 12)) * 1.5
GRID = np.linspace(-40, 40, 400_001)


@pytest.fixture(scope="module")
def density():
    """Of each distribution on the grid."""
    grid = jnp.asarray(GRID)
    found = jax.jit(jax.vmap(lambda logits: BUCKETS.log_prob(jnp.broadcast_to(logits, (*GRID.shape, 12)), grid)))
    return np.exp(np.asarray(found(LOGITS), float))


def integral(values):
    return simpson(values, x=GRID)


def test_a_density_has_mass_one_and_the_moments_that_it_says(density):
    np.testing.assert_allclose(integral(density), 1.0, rtol=1e-4)
    mean = integral(density * GRID)
    np.testing.assert_allclose(BUCKETS.mean(LOGITS), mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(BUCKETS.variance(LOGITS), integral(density * GRID**2) - mean**2, rtol=2e-3)


@pytest.mark.parametrize("best", [-9.0, -1.7, 0.0, 0.4, 2.5, 8.0])
def test_improvement_and_its_probability(density, best):
    at = jnp.full(3, best)
    below = best >= GRID
    np.testing.assert_allclose(BUCKETS.cdf(LOGITS, at), integral(density * below), rtol=1e-3, atol=1e-5)
    expected = integral(density * np.maximum(best - GRID, 0))
    found = jnp.exp(BUCKETS.log_expected_improvement(LOGITS, at))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-7)


def test_the_logarithm_of_an_improvement_falls_where_the_improvement_is_zero():
    far = jnp.asarray([-20.0, -25.0, -30.0])
    found = BUCKETS.log_expected_improvement(jnp.broadcast_to(LOGITS[0], (3, 12)), far)
    assert np.all(np.isfinite(found))

    def gain(depth, best):
        return depth * np.exp(float(BUCKETS.log_prob(LOGITS[0], jnp.float32(best - depth))))

    exact = [np.log(quad(gain, 0, 12, args=(float(best),))[0]) for best in far]
    np.testing.assert_allclose(found, exact, rtol=5e-3)


@pytest.mark.parametrize("q", [1e-4, 0.03, 0.5, 0.9, 0.9999])
def test_a_quantile_is_where_the_distribution_has_that_mass(q):
    at = BUCKETS.quantile(LOGITS, q)
    np.testing.assert_allclose(BUCKETS.cdf(LOGITS, at), q, rtol=1e-2, atol=2e-6)


def test_samples_are_of_the_distribution():
    drawn = BUCKETS.sample(jax.random.key(0), jnp.broadcast_to(LOGITS[1], (20_000, 12)))
    assert np.mean(drawn) == pytest.approx(float(BUCKETS.mean(LOGITS[1])), abs=0.05)
    assert np.std(drawn) == pytest.approx(float(jnp.sqrt(BUCKETS.variance(LOGITS[1]))), rel=0.05)
