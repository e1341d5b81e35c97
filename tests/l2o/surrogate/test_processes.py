"""Processes whose hyperparameters are given, against the exact posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from l2o import gp
from l2o.surrogate.processes import LEAST, Hyperparameters, Normals, fit, predict, warped

N, D = 9, 3
X, Q = jax.random.uniform(jax.random.key(0), (N, D)), jax.random.uniform(jax.random.key(1), (5, D))
Y = jnp.cos(4 * X[:, 0]) + X[:, 1] ** 2
ORDERED = jnp.array([True, True, False])
SCALES = jnp.array([[0.3, 0.5, 0.9], [1.0, 0.2, 0.4]])
VARIANCE, COUNT = jnp.array([1.0, 2.0]), 6


def given(kernel, warp=0.0):
    kernels = jnp.zeros((2, 4)).at[:, kernel].set(1.0)
    return Hyperparameters(
        1 / SCALES**2, jnp.array([0.01, 0.1]), VARIANCE, jnp.array([0.0, 0.3]), kernels,
        jnp.array([0.0, 0.5]), jnp.full((2, D), warp),
    )  # fmt: skip


def exact(k, kernel):
    prior = gp.Prior(
        SCALES[k], VARIANCE[k], VARIANCE[k] * (jnp.array([0.01, 0.1])[k] + LEAST), jnp.array([0.0, 0.3])[k],
        jnp.float32(kernel), ~ORDERED,
    )  # fmt: skip
    posterior = gp.Posterior.fit(prior, X, Y, jnp.asarray(COUNT))
    mean, variance = posterior.predict(Q)
    return mean, jnp.sqrt(variance + prior.noise), gp.log_likelihood(prior, X, Y, jnp.asarray(COUNT))


@pytest.mark.parametrize("kernel", [0, 1])
def test_each_is_the_exact_posterior_and_is_weighted_by_its_likelihood(kernel):
    found = predict(fit(given(kernel), X, Y, jnp.arange(N) < COUNT, ORDERED), Q)
    likelihood = []
    for k in range(2):
        mean, deviation, density = exact(k, kernel)
        np.testing.assert_allclose(found.mean[k], mean, atol=2e-3)
        np.testing.assert_allclose(found.deviation[k], deviation, rtol=2e-3)
        likelihood.append(density)
    expected = jax.nn.log_softmax(jnp.stack(likelihood) + jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(found.weight, expected, atol=0.02)


def test_masses_of_buckets_are_those_of_the_mixture():
    normals = Normals(jnp.log(jnp.array([0.3, 0.7])), jnp.array([[0.0], [1.0]]), jnp.array([[0.1], [2.0]]))
    edges = jnp.linspace(-8, 8, 33)[None]
    masses = jnp.exp(normals.log_masses(edges))
    assert float(jnp.sum(masses)) == pytest.approx(1, abs=1e-5)
    below = np.cumsum(masses[0])[:-1]
    share = 0.3 * jax.scipy.stats.norm.cdf(edges[0] / 0.1) + 0.7 * jax.scipy.stats.norm.cdf((edges[0] - 1) / 2)
    np.testing.assert_allclose(below, share, atol=1e-5)
    mean, deviation = normals.moments()
    assert float(mean[0]) == pytest.approx(0.7)
    assert float(deviation[0] ** 2) == pytest.approx(0.003 + 2.8 + 0.21, rel=1e-3)


def test_a_far_bucket_has_its_small_mass():
    normals = Normals(jnp.zeros(1), jnp.zeros((1, 1)), jnp.ones((1, 1)))
    found = normals.log_masses(jnp.array([[-9.0, 6.0, 7.0, 9.0]]))[0]
    far, near, beyond = stats.norm.cdf([-9.0, -6.0, -7.0])
    np.testing.assert_allclose([found[0], found[2]], np.log([far, near - beyond]), rtol=1e-3)


def test_a_warp_keeps_the_ends_and_the_order():
    x = jnp.linspace(0, 1, 11)[:, None]
    for a, b in ((0.0, 0.0), (1.0, -0.5), (-1.0, 0.7)):
        found = warped(x, jnp.array([[a], [b]]))[:, 0]
        assert np.all(np.diff(found) > 0) and found[0] < 0.1 and found[-1] > 0.9
    np.testing.assert_allclose(warped(x, jnp.zeros((2, 1))), x, atol=2e-4)


def test_the_derivative_of_whitening():
    a = jax.random.normal(jax.random.key(3), (5, 5))
    gram, weights = a @ a.T + jnp.eye(5), jax.random.normal(jax.random.key(4), (5, 5))

    def ours(k):
        inverse, determinant = gp.whitening(k)
        return jnp.sum(weights * inverse) + determinant

    def plain(k):
        factor = jnp.linalg.cholesky(k)
        inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(5), lower=True)
        return jnp.sum(weights * inverse) + 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))

    np.testing.assert_allclose(ours(gram), plain(gram), rtol=1e-4)
    found, expected = jax.grad(ours)(gram), jax.grad(plain)(gram)
    np.testing.assert_allclose(found + found.T, expected + expected.T, rtol=2e-3, atol=1e-4)
