import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.gp import covariance
from tasks.gp import GPConfig
from tasks.optimum import minima

DRAWS = 4000


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["squared_exponential", "matern52"])
@pytest.mark.parametrize("d", [1, 3])
def test_draws_have_the_mean_and_covariance_of_their_prior(kernel, d):
    """Over many draws of one prior; the features of each draw are its own, so their error averages out."""
    family = GPConfig(dimension=d, length_scales=(0.4, 0.4), kernels=(kernel,), features=64).build()
    u = jax.random.uniform(jax.random.key(1), (6, d))

    def values(key):
        return jax.vmap(family.sample(key).value)(u)

    y = np.asarray(jax.jit(jax.vmap(values))(jax.random.split(jax.random.key(2), DRAWS)), np.float64)
    expected = np.asarray(covariance(family.sample(jax.random.key(3)).prior, u, u), np.float64)
    np.testing.assert_allclose(y.mean(0), 0.0, atol=5 / np.sqrt(DRAWS))
    # the variance of a product of two standard normals is at most 2, and a little more for features of finite number
    np.testing.assert_allclose(y.T @ y / DRAWS, expected, atol=5 * np.sqrt(2.2 / DRAWS))
    assert expected.min() < 0.6, "some points are far apart to the kernel"


def test_length_scales_and_kernels_vary_and_stay_in_their_range():
    family = GPConfig(dimension=3, length_scales=(0.2, 1.0)).build()
    priors = jax.vmap(lambda k: family.sample(k).prior)(jax.random.split(jax.random.key(0), 300))
    scales = np.asarray(priors.length_scale)
    assert scales.min() >= 0.2 and scales.max() <= 1.0
    assert abs(np.log(scales).mean() - np.log(0.2) / 2) < 0.05
    assert set(np.asarray(priors.matern).tolist()) == {0.0, 1.0}
    shared = GPConfig(dimension=3, ard=False).build().sample(jax.random.key(1)).prior.length_scale
    assert len(set(shared.tolist())) == 1


def test_the_optimum_that_is_looked_for_is_about_the_lowest_value():
    family = GPConfig(dimension=3, optimum=True).build()
    params = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(4), 6))
    found = np.asarray(jax.vmap(lambda p: family.task(p).info["f_opt"])(params))
    exact = minima(family, params, jax.random.key(5), candidates=1024, starts=32)
    assert (found >= exact - 1e-3).all() and np.median(found - exact) < 0.01
    assert "f_opt" not in GPConfig(dimension=3).build().task(jax.tree.map(lambda a: a[0], params)).info


def test_noise_is_in_the_values_and_not_in_what_a_judge_knows():
    family = GPConfig(noise=0.1).build()
    task = family.task(family.sample(jax.random.key(6)))
    x = jnp.tile(jnp.array([[0.3, 0.8]]), (2000, 1))
    values = np.asarray(task.evaluate(jax.random.key(7), x).value)
    assert abs(values.std() - 0.1) < 0.01
    assert abs(values.mean() - task.info["value"](x[0])) < 0.01
    assert task.info["prior"].noise == pytest.approx(0.01)


def test_the_prior_is_told_only_when_asked_for():
    for reveal in (False, True):
        family = GPConfig(reveal=reveal).build()
        task = family.task(family.sample(jax.random.key(8)))
        assert (task.problem.context is not None) == reveal


def test_reversed_length_scales_are_refused():
    with pytest.raises(ValueError, match="must not decrease"):
        GPConfig(length_scales=(1.0, 0.2))
