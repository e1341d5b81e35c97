"""The test functions: their optima, where runs start, and one function by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.synthetic import FUNCTIONS, SyntheticConfig


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
