"""Gaussian processes: covariances of draws, length scales, sums, periods and trends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.priors.gp import GPPriorConfig

DRAWS = 4000
PLAIN = {"spread": 0.0, "additive": 0.0, "linear": 0.0, "periodic": 0.0}


def exact(kernel, distance):
    """Rasmussen and Williams (2006), equations 4.9 and 4.17."""
    if kernel == "squared_exponential":
        return np.exp(-0.5 * distance**2)
    r = distance * np.sqrt({"matern12": 1, "matern32": 3, "matern52": 5}[kernel])
    return {"matern12": 1.0, "matern32": 1 + r, "matern52": 1 + r + r**2 / 3}[kernel] * np.exp(-r)


@pytest.mark.parametrize(
    "kernel", ["squared_exponential", "matern12", *(pytest.param(f"matern{n}2", marks=pytest.mark.slow) for n in "35")]
)
def test_processes_have_the_covariance_of_their_kernel(kernel, draws, values):
    """Of two numbers and a category with three values, from the functions of many draws."""
    config = GPPriorConfig(
        dimension=3, weights=(1, 0, 1), levels=(3, 3), kernels=(kernel,), length_scale=0.4, features=32, **PLAIN
    )
    rng = np.random.default_rng(0)
    z = np.zeros((7, 3, 3))
    z[:, :2, 0], z[np.arange(7), 2, [0, 0, 0, 1, 1, 2, 2]] = rng.uniform(size=(7, 2)), 1
    z = z.reshape(7, 9)
    y = np.asarray(values(config, draws(config, DRAWS), jnp.asarray(z, jnp.float32)), float)
    expected = exact(kernel, np.linalg.norm(z[:, None] - z[None], axis=-1) / (0.4 * np.sqrt(3)))
    assert expected.min() < 0.3 and np.sort(expected.ravel())[-8] > 0.5, "near and far points"
    np.testing.assert_allclose(y.mean(0), 0, atol=5 / np.sqrt(DRAWS))
    np.testing.assert_allclose(y.T @ y / DRAWS, expected, atol=5 * np.sqrt(2.4 / DRAWS))


def test_length_scales_are_spread_around_the_root_of_the_dimension(draws):
    config = GPPriorConfig(dimension=4, kernels=("squared_exponential",), features=64, additive=0, periodic=0, linear=0)
    size = np.log(np.asarray(jnp.std(draws(config, 400).frequency, axis=1)))
    assert np.mean(size) == pytest.approx(-np.log(2), abs=0.2)
    assert np.std(size) == pytest.approx(np.sqrt(3), abs=0.2)
    together = np.corrcoef(size.T)[np.triu_indices(4, 1)].mean()
    assert together == pytest.approx(config.shared, abs=0.12)


def test_sums_of_functions_of_few_parameters(draws):
    config = GPPriorConfig(dimension=6, additive=0.5, periodic=0, features=64)
    parameters = (np.asarray(draws(config, 200).frequency) != 0).sum(2)
    few = parameters.mean(1) < 6
    assert few.mean() == pytest.approx(0.5, abs=0.12) and np.all(parameters[~few] == 6)
    assert parameters.min() == 1 and parameters[few].mean() == pytest.approx(1 + 5 / 4, abs=0.3)


def test_periods(draws, values):
    config = GPPriorConfig(dimension=1, periodic=1.0, linear=0.0, kernels=("squared_exponential",))
    functions = draws(config, 8)
    frequency = np.sort(np.abs(np.asarray(functions.frequency)[:, :, 0]), 1)
    lowest = np.array([row[row > 0][0] for row in frequency])
    period = 2 * np.pi / lowest
    assert np.all((period > 0.199) & (period < 1.001))
    z = jnp.linspace(0, 1, 9)[:, None]
    for i in range(8):
        one = jax.tree.map(lambda a, i=i: a[i : i + 1], functions)
        np.testing.assert_allclose(values(config, one, z + period[i]), values(config, one, z), atol=2e-3)


def test_trends(draws):
    config = GPPriorConfig(dimension=2, linear=0.5)
    slope = np.asarray(draws(config, 200).slope)
    assert np.mean(np.any(slope != 0, 1)) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    "fields", [{"kernels": ("matern72",)}, {"kernels": ()}, {"length_scale": 0.0}, {"shared": 2.0}], ids=str
)
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        GPPriorConfig(**fields)
