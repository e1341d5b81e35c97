"""The families of test functions: their optima, where runs start, and what the transformations do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from tasks import functions
from tasks.synthetic import FUNCTIONS, FunctionConfig, SyntheticConfig


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dimension", [2, 5])
def test_the_minimum_is_zero_where_it_is_said_to_be(name, dimension):
    function = FUNCTIONS[name]
    optimum = jnp.full(dimension, function.optimum)
    np.testing.assert_allclose(function.value(optimum), 0, atol=1e-5)
    assert np.abs(jax.grad(function.value)(optimum)).max() < 1e-3
    points = optimum[None] + function.reach * jax.random.uniform(jax.random.key(0), (500, dimension), minval=-1.0)
    assert jax.vmap(function.value)(points).min() > 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_task_is_its_function_moved(name):
    family = SyntheticConfig(functions=(name,), dimension=3, shift=2.0).build()
    params = family.sample(jax.random.key(1))
    task, (_, shift, start) = family.task(params), params
    assert np.abs(shift).max() <= 2 and np.abs(start - task.info["x_opt"]).max() <= FUNCTIONS[name].reach
    value = task.evaluate(jax.random.key(2), jnp.stack([task.info["x_opt"], start])).value
    np.testing.assert_allclose(value[0], task.info["f_opt"], atol=1e-5)
    np.testing.assert_allclose(value[1], FUNCTIONS[name].value(start - shift), rtol=1e-5)


def test_tasks_draw_every_function():
    family = SyntheticConfig(functions=("rastrigin", "ackley"), dimension=2).build()
    numbers, _, _ = jax.vmap(family.sample)(jax.random.split(jax.random.key(3), 64))
    assert set(numbers.tolist()) == {0, 1}


def test_rosenbrock_by_hand():
    x = jnp.array([2.0, 3.0, 1.0])
    expected = (100 * (3 - 4) ** 2 + (1 - 2) ** 2 + 100 * (1 - 9) ** 2 + (1 - 3) ** 2) / 2
    np.testing.assert_allclose(FUNCTIONS["rosenbrock"].value(x), expected)


ANY = {name: f.dimension or 3 for name, f in functions.FUNCTIONS.items()}
SETTINGS = [{}, {"translation": 0.5, "scaling": 0.3, "rotate": True, "normalize": True}]


def transformed(name, **fields):
    return FunctionConfig(function=name, dimension=ANY[name], **fields).build()


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize(
    "fields", [pytest.param(SETTINGS[0], marks=pytest.mark.slow), SETTINGS[1]], ids=["default", "all"]
)
def test_a_transformed_function_attains_its_minimum_inside_the_cube(name, fields):
    """And stays above it at random points and corners, with finite gradients everywhere."""
    family = transformed(name, **fields)
    d = family.dimension
    points = np.concatenate([np.random.default_rng(0).random((64, d)), np.zeros((1, d)), np.ones((1, d))])

    def run(key):
        task = family.task(family.sample(key))
        at = jnp.concatenate([task.info["x_opt"][None], jnp.asarray(points)])
        evaluation = task.evaluate(jax.random.key(1), at)
        return task.info["x_opt"], task.info["f_opt"], evaluation.value, evaluation.gradient

    x_opt, f_opt, value, gradient = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 16))
    assert np.all((x_opt >= 0.02) & (x_opt <= 0.98)) and len(np.unique(np.asarray(x_opt)[:, 0])) > 10
    np.testing.assert_allclose(value[:, 0], f_opt, rtol=1e-5, atol=1e-5)
    assert np.all(value[:, 1:] > f_opt[:, None])
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))
    np.testing.assert_allclose(f_opt * family.unit, functions.FUNCTIONS[name].landmarks(d).f_opt, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["branin", "goldstein_price", "hartmann3", "hartmann6"])
def test_a_search_of_the_cube_finds_the_minimum_and_nothing_below(name):
    family = transformed(name, rotate=True)
    with jax.enable_x64(True):
        task = family.task(family.sample(jax.random.key(4)))
        evaluate = jax.jit(task.evaluate)

        def value_and_gradient(u):
            evaluation = evaluate(jax.random.key(5), jnp.asarray(u)[None])
            return float(evaluation.value[0]), np.asarray(evaluation.gradient[0], float)

        starts = np.random.default_rng(0).random((8, family.dimension))
        bounds = [(0, 1)] * family.dimension
        runs = [minimize(value_and_gradient, u, jac=True, method="L-BFGS-B", bounds=bounds) for u in starts]
    np.testing.assert_allclose(min(run.fun for run in runs), task.info["f_opt"], rtol=1e-6)


def test_without_transformations_the_cube_is_the_published_domain():
    family = FunctionConfig(function="branin", translation=0.0, scaling=0.0, flip=False, permute=False).build()
    task = family.task(jax.jit(family.sample)(jax.random.key(6)))
    u = np.random.default_rng(0).random((8, 2))
    x = jnp.asarray(u * [15, 15] + [-5, 0])
    expected = jax.vmap(functions.branin)(x)
    np.testing.assert_allclose(task.evaluate(jax.random.key(7), jnp.asarray(u)).value, expected, rtol=1e-4, atol=1e-4)


def test_flips_and_permutations_keep_the_domain():
    """The eight corners of Hartmann3's cube are the corners of the published domain, in another order."""
    family = FunctionConfig(function="hartmann3", translation=0.0, scaling=0.0).build()
    corners = jnp.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    expected = np.sort(jax.vmap(functions.hartmann3)(corners))
    found = set()
    for key in jax.random.split(jax.random.key(8), 4):
        task = family.task(jax.jit(family.sample)(key))
        value = np.asarray(task.evaluate(jax.random.key(9), corners).value)
        np.testing.assert_allclose(np.sort(value), expected, rtol=1e-4, atol=1e-5)
        found.add(tuple(np.argsort(value)))
    assert len(found) > 1


def test_axes_are_stretched_and_turned():
    scaled = FunctionConfig(function="sphere", dimension=4, scaling=0.2, rotate=False).build()
    axes = jax.jit(jax.vmap(scaled.sample))(jax.random.split(jax.random.key(10), 64)).axes
    lengths = np.linalg.norm(axes, axis=2)
    assert np.all((lengths >= 0.8 - 1e-6) & (lengths <= 1.2 + 1e-6)) and lengths.min() < 0.85 and lengths.max() > 1.15
    assert np.all((np.abs(axes) > 0).sum(2) == 1)
    turned = FunctionConfig(function="sphere", dimension=4, scaling=0.0, rotate=True).build()
    axes = jax.jit(turned.sample)(jax.random.key(11)).axes
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-5)
    assert np.all(np.abs(axes) > 0)


def test_normalized_values_have_a_standard_deviation_of_one():
    for name in ("sphere", "goldstein_price"):
        family = transformed(name, normalize=True, translation=0.0, scaling=0.0)
        task = family.task(jax.jit(family.sample)(jax.random.key(12)))
        u = jnp.asarray(np.random.default_rng(1).random((4096, family.dimension)))
        np.testing.assert_allclose(np.std(task.evaluate(jax.random.key(13), u).value), 1, rtol=0.2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"function": "brannin"}, "did you mean 'branin'"),
        ({"function": "sphere"}, "dimension is missing: sphere has any number of variables"),
        ({"function": "hartmann3", "dimension": 6}, "dimension: hartmann3 has 3 variables, found 6"),
        ({"function": "sphere", "dimension": 1}, "greater than or equal to 2"),
        ({"function": "sphere", "dimension": 2, "translation": 0.6}, "less than or equal to 0.5"),
        ({"function": "sphere", "dimension": 2, "scaling": 1.0}, "less than 1"),
    ],
)
def test_a_bad_function_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FunctionConfig(**fields)
    assert FunctionConfig(function="hartmann3", dimension=3).build().dimension == 3
