"""The test functions: their published minima, and that nothing lies below them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from tasks.functions import FUNCTIONS

DIMENSIONS = [(name, f.dimension or 3) for name, f in FUNCTIONS.items()]
PUBLISHED = {
    "branin": ((3.141593, 2.275), 0.397887),
    "goldstein_price": ((0, -1), 3),
    "six_hump_camel": ((0.0898, -0.7126), -1.03163),
    "beale": ((3, 0.5), 0),
    "bohachevsky": ((0, 0), 0),
    "colville": ((1, 1, 1, 1), 0),
    "hartmann3": ((0.114614, 0.555649, 0.852547), -3.86278),
    "hartmann6": ((0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), -3.32237),
    "shekel": ((4, 4, 4, 4), -10.5364),
    "styblinski_tang": ((-2.903534, -2.903534), -39.16617 * 2),
    "dixon_price": ((1, 2**-0.5), 0),
    "rosenbrock": ((1, 1), 0),
    "levy": ((1, 1), 0),
}
BY_HAND = {
    "sphere": ((1, 2), 5),
    "ellipsoid": ((1, 2), 1 + 4e6),
    "log_sum_exp": ((0, 1), np.log(np.cosh(1)) / 2),
    "zakharov": ((1, 2), 5 + 2.5**2 + 2.5**4),
    "rosenbrock": ((2, 3, 1), 100 * (3 - 4) ** 2 + (1 - 2) ** 2 + 100 * (1 - 9) ** 2 + (1 - 3) ** 2),
    "dixon_price": ((2, 1, 3), 1 + 2 * (2 - 2) ** 2 + 3 * (18 - 1) ** 2),
    "rastrigin": ((0.5, 1), 20 + 0.25 + 10 + 1 - 10),
    "ackley": ((1, 1), 20 - 20 * np.exp(-0.2)),
    "griewank": ((np.pi, 0), np.pi**2 / 4000 + 2),
    "levy": ((-3, 5), 1 * (1 + 10 * np.sin(1) ** 2) + 1),
    "styblinski_tang": ((0, 1), -5),
    "branin": ((0, 6), 20 - 10 / (8 * np.pi)),
    # the printed form, not multiplied out
    "goldstein_price": (
        (1, 1),
        (1 + 9 * (19 - 14 + 3 - 14 + 6 + 3)) * (30 + 1 * (18 - 32 + 12 + 48 - 36 + 27)),
    ),
    "six_hump_camel": ((1, 1), 4 - 2.1 + 1 / 3 + 1),
    "beale": ((1, 2), 2.5**2 + 5.25**2 + 9.625**2),
    "bohachevsky": ((1, 0.5), 1 + 0.5 + 0.3 - 0.4 + 0.7),
    "colville": ((0, 1, 2, 2), 100 + 1 + 1 + 90 * 4 + 10.1),
}


@pytest.mark.parametrize(("name", "d"), DIMENSIONS)
def test_the_minimum_is_where_and_what_it_is_said_to_be(name, d):
    function = FUNCTIONS[name]
    low, high, x_opt, f_opt = function.landmarks(d)
    assert np.all((low < x_opt) & (x_opt < high))
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(function.value)(jnp.array(x_opt))
        np.testing.assert_allclose(value, f_opt, rtol=1e-12, atol=5e-6 if name == "ackley" else 1e-12)
        np.testing.assert_allclose(slope, 0, atol=1e-9)
    np.testing.assert_allclose(function.value(jnp.array(x_opt)), f_opt, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_minimum_agrees_with_what_is_printed(name):
    x_opt, f_opt = PUBLISHED[name]
    _, _, ours, minimum = FUNCTIONS[name].landmarks(len(x_opt))
    np.testing.assert_allclose(minimum, f_opt, rtol=2e-5)
    np.testing.assert_allclose(ours, x_opt, atol=1e-3)


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name):
    x, expected = BY_HAND[name]
    np.testing.assert_allclose(FUNCTIONS[name].value(jnp.array(x, float)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "d"), DIMENSIONS)
def test_nothing_lies_below_it_even_beyond_the_domain(name, d):
    """Random points, then L-BFGS-B from the best, within a box twice as wide as the domain."""
    function = FUNCTIONS[name]
    low, high, _, f_opt = function.landmarks(d)
    rng = np.random.default_rng(0)
    bounds = (3 * low - high) / 2, (3 * high - low) / 2
    with jax.enable_x64(True):
        value, slope = jax.jit(jax.vmap(function.value)), jax.jit(jax.value_and_grad(function.value))
        x = np.concatenate([rng.uniform(*box, (2000, d)) for box in ((low, high), bounds)])
        y = np.asarray(value(x))

        def search(start):
            return minimize(
                lambda z: tuple(np.asarray(a, float) for a in slope(z)), start,
                jac=True, method="L-BFGS-B", bounds=list(zip(*bounds, strict=True)),
            ).fun  # fmt: skip

        lowest = min(search(start) for start in x[np.argsort(y)[:8]])
    assert min(y) >= f_opt
    assert lowest >= f_opt - 1e-9 * (1 + abs(f_opt))
    rugged = name in ("rastrigin", "ackley", "griewank", "levy")
    assert lowest <= f_opt + (10 if rugged else 1e-4), "a search that finds no minimum shows nothing"


@pytest.mark.parametrize(("name", "d"), DIMENSIONS)
def test_gradients_are_finite_everywhere(name, d):
    function = FUNCTIONS[name]
    low, high, x_opt, _ = function.landmarks(d)
    corners = np.stack(np.meshgrid(*[[a, (a + b) / 2, b] for a, b in zip(low, high, strict=True)]), -1).reshape(-1, d)
    inside = np.random.default_rng(0).uniform(low, high, (500, d))
    outside = np.random.default_rng(1).uniform(2 * low - high, 2 * high - low, (500, d))
    points = jnp.asarray(np.concatenate([x_opt[None], np.zeros((1, d)), corners, inside, outside]))
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(function.value)))(points)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))


def test_fixed_dimensions():
    fixed = {name: f.dimension for name, f in FUNCTIONS.items() if f.dimension}
    assert fixed == {
        "branin": 2, "goldstein_price": 2, "six_hump_camel": 2, "beale": 2, "bohachevsky": 2,
        "hartmann3": 3, "shekel": 4, "colville": 4, "hartmann6": 6,
    }  # fmt: skip
    assert len(FUNCTIONS) == 20
