"""What is bent of inputs and outputs, and noise that is uneven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.priors.hebo import HEBOPriorConfig, power


def test_outputs_are_bent_and_keep_their_order(draws):
    config = HEBOPriorConfig(dimension=2)
    functions, y = draws(config, 64), jnp.linspace(-3, 3, 61)
    bent = jax.vmap(lambda f: jax.vmap(lambda y: config.transform(f, y))(y))(functions)
    assert np.all(np.isfinite(bent)) and np.all(np.diff(bent, axis=1) > 0)
    np.testing.assert_allclose(bent[:, 30], 0, atol=1e-5)
    slope = jax.vmap(lambda f: jax.grad(lambda y: config.transform(f, y))(0.0))(functions)
    np.testing.assert_allclose(slope, 1, rtol=1e-4)
    assert np.mean(bent[:, -1] > -bent[:, 0]) > 0.6, "bad values are stretched more often than good ones"


def test_inputs_are_bent_and_ends_and_categories_stay(draws, values):
    z = jnp.array([0.0, 1e-12, 0.5, 1.0])
    for exponent in (0.2, 3.0):
        expected = np.array([0, 0, 0.5**exponent, 1])
        np.testing.assert_allclose(power(z, jnp.full(4, exponent)), expected, rtol=1e-5)
    config = HEBOPriorConfig(dimension=2, warp=1.5)
    functions = draws(config, 16)
    slope = jax.vmap(lambda f: jax.vmap(jax.grad(lambda z: config.value(f, z)))(jnp.array([[0.0, 1.0], [1.0, 0.5]])))
    assert np.all(np.isfinite(slope(functions)))
    straight = HEBOPriorConfig(dimension=2, warp=0.0)
    corners = jnp.array([[0.0, 1.0], [1.0, 1.0]])
    bent = [
        values(c, functions._replace(exponents=functions.exponents**e), corners)
        for c, e in ((config, 1), (straight, 0))
    ]
    np.testing.assert_allclose(*bent, rtol=1e-3, atol=1e-3)


def test_noise_differs_from_place_to_place(draws):
    config = HEBOPriorConfig(dimension=3, uneven=1.0)
    loud = jax.vmap(lambda f: config.loudness(f, jnp.ones(3)) / config.loudness(f, jnp.zeros(3)))(draws(config, 400))
    assert np.std(np.log(loud)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("fields", [{"tails": -1.0}, {"warp": 9.0}, {"skew": 0.3}], ids=str)
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        HEBOPriorConfig(**fields)
