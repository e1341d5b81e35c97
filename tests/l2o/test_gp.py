"""Gaussian processes against dense formulas in numpy, scikit-learn's kernels and scipy's normal distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, stats
from sklearn.gaussian_process import kernels

from l2o.gp import (
    Posterior,
    Prior,
    covariance,
    expected_improvement,
    log_expected_improvement,
    log_likelihood,
)

SCALES = np.array([0.3, 0.8, 1.7])


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def prior(matern=1.0):
    return Prior(*(jnp.asarray(a, float) for a in (SCALES, 1.3, 0.01, 0.4, matern)))


def data(n, room=None):
    """Points and values; the rows from n on are garbage."""
    rng = np.random.default_rng(0)
    room = n if room is None else room
    return jnp.asarray(rng.random((room, 3))), jnp.asarray(rng.normal(size=room))


def kernel(matern):
    base = kernels.Matern(SCALES, nu=2.5) if matern else kernels.RBF(SCALES)
    return kernels.ConstantKernel(1.3) * base


@pytest.mark.parametrize("matern", [0.0, 1.0])
def test_covariances_are_those_of_scikit_learn(matern):
    a, b = data(7)[0], data(12)[0]
    np.testing.assert_allclose(covariance(prior(matern), a, b), kernel(matern)(np.asarray(a), np.asarray(b)), rtol=1e-9)


def test_a_mixed_kernel_lies_between():
    x = data(5)[0]
    ends = 0.25 * covariance(prior(1.0), x, x) + 0.75 * covariance(prior(0.0), x, x)
    np.testing.assert_allclose(covariance(prior(0.25), x, x), ends, rtol=1e-9)


def test_categories_are_one_apart_whatever_their_numbers():
    x = data(5)[0]
    coded, flags = x.at[:, 1].set(jnp.array([0.1, 0.5, 0.1, 0.9, 0.5])), jnp.array([False, True, False])
    for far in (0.0, 1.0):  # both kinds of pairs against points that are so far apart
        same = coded[:, None, 1] == coded[None, :, 1]
        reference = covariance(prior(), x.at[:, 1].set(0.0), x.at[:, 1].set(far))
        found = covariance(prior()._replace(categories=flags), coded, coded)
        chosen = same if far == 0 else ~same
        np.testing.assert_allclose(np.asarray(found)[chosen], np.asarray(reference)[chosen], rtol=1e-9)


def test_covariance_has_a_finite_gradient_at_distance_zero():
    x = data(4)[0]
    gradient = jax.grad(lambda x: covariance(prior(), x, x).sum())(x)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("matern", [0.0, 1.0])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_a_batch_of_observations_gives_the_textbook_posterior(matern, n):
    x, y = data(n, room=13)
    where = jnp.asarray(np.random.default_rng(1).random((6, 3)))
    mean, variance = Posterior.fit(prior(matern), x, y, jnp.asarray(n)).predict(where)

    seen, k = np.asarray(x[:n]), kernel(matern)
    cross = k(seen, np.asarray(where)) if n else np.zeros((0, 6))
    gram = (k(seen) if n else np.zeros((0, 0))) + 0.01 * np.eye(n)
    np.testing.assert_allclose(mean, 0.4 + cross.T @ np.linalg.solve(gram, np.asarray(y[:n]) - 0.4), rtol=1e-7)
    np.testing.assert_allclose(variance, 1.3 - np.sum(cross * np.linalg.solve(gram, cross), 0), rtol=1e-7)


def test_one_by_one_equals_all_at_once():
    x, y = data(9, room=13)
    together = Posterior.fit(prior(), x, y, jnp.asarray(9))
    one_by_one = Posterior.empty(prior(), 13)
    for i in range(9):
        one_by_one = one_by_one.observe(x[i], y[i])
    one_by_one = one_by_one._replace(x=x)  # the unused rows may differ
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), one_by_one, together)


def test_a_full_posterior_ignores_more():
    x, y = data(4)
    full = Posterior.fit(prior(), x, y, jnp.asarray(4))
    jax.tree.map(np.testing.assert_array_equal, full.observe(x[0] + 0.5, y[0]), full)


def test_observing_the_same_point_often_stays_finite_in_single_precision():
    with jax.enable_x64(False):
        posterior = Posterior.empty(Prior(jnp.ones(2), noise=1e-5), 16)
        for _ in range(16):
            posterior = posterior.observe(jnp.full(2, 0.5), jnp.float32(1.0))
        mean, variance = posterior.predict(jnp.full((1, 2), 0.5))
        np.testing.assert_allclose(mean, 1.0, atol=1e-3)
        assert 0 < variance[0] < 1e-3


@pytest.mark.parametrize("n", [1, 5, 8])
def test_log_likelihood_is_that_of_the_normal_distribution(n):
    x, y = data(n, room=11)
    found = log_likelihood(prior(), x, y, jnp.asarray(n))
    gram = kernel(1.0)(np.asarray(x[:n])) + 0.01 * np.eye(n)
    expected = stats.multivariate_normal(np.full(n, 0.4), gram).logpdf(np.asarray(y[:n]))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_gradient_of_the_likelihood_is_that_of_finite_differences():
    x, y = data(6, room=9)
    likelihood = jax.jit(lambda prior, y: log_likelihood(prior, x, y, jnp.asarray(6)))
    check_grads(likelihood, (prior(), y), order=1, eps=1e-5, rtol=1e-6)


GAPS = np.array([-3.0, -0.5, 0.0, 0.7, 2.0])  # of the best value over the mean


@pytest.mark.parametrize("gap", GAPS)
def test_expected_improvement_is_the_integral_it_stands_for(gap):
    integral, _ = integrate.quad(lambda f: (gap - f) * stats.norm(0, 1.5).pdf(f), -15, gap)
    found = expected_improvement(jnp.zeros(()), jnp.asarray(2.25), jnp.asarray(gap))
    np.testing.assert_allclose(found, integral, rtol=1e-6)


def test_gradients_of_expected_improvement_are_the_closed_ones():
    """dEI/dmean = -Phi(z) and dEI/dsigma = phi(z)."""
    mean, variance = jnp.zeros(GAPS.shape), jnp.full(GAPS.shape, 2.25)
    total = lambda mean, variance: expected_improvement(mean, variance, jnp.asarray(GAPS)).sum()  # noqa: E731
    by_mean, by_variance = jax.grad(total, argnums=(0, 1))(mean, variance)
    np.testing.assert_allclose(by_mean, -stats.norm.cdf(GAPS / 1.5), rtol=1e-6)
    np.testing.assert_allclose(by_variance * 2 * 1.5, stats.norm.pdf(GAPS / 1.5), rtol=1e-6)


def test_log_expected_improvement_is_its_logarithm_and_finite_far_away():
    z = jnp.linspace(-12.0, 6.0, 181)
    mean, variance = jnp.zeros(z.shape), jnp.full(z.shape, 4.0)
    exact = np.log(np.asarray(expected_improvement(mean, variance, 2 * z)))
    near = z > -8  # below, the plain one cancels even in double precision
    np.testing.assert_allclose(log_expected_improvement(mean, variance, 2 * z)[near], exact[near], rtol=2e-3)
    np.testing.assert_allclose(log_expected_improvement(mean, variance, 2 * z)[z > -4.9], exact[z > -4.9], rtol=1e-7)
    with jax.enable_x64(False):
        far = jnp.array([-1e4, -30.0, -5.01, -4.99, 0.0, 50.0], jnp.float32)
        value, slope = jax.vmap(jax.value_and_grad(log_expected_improvement, argnums=2), (None, None, 0))(
            jnp.zeros(()), jnp.ones(()), far
        )
        assert np.isfinite(value).all()
        assert (np.asarray(slope) > 0).all()
        assert np.isfinite(slope).all()


def test_a_certain_prediction_has_a_finite_improvement():
    assert np.isfinite(log_expected_improvement(jnp.ones(()), jnp.zeros(()), 0.0))
    np.testing.assert_allclose(expected_improvement(jnp.zeros(()), jnp.zeros(()), 1.0), 1.0, rtol=1e-6)
