"""Minima found are the published ones, and none below a dense grid's."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.core import Evaluation, Problem, Task
from l2o.space.domain import Space
from tasks.family import TaskFamily
from tasks.gp import GPConfig
from tasks.optimum import minima
from tasks.synthetic import FunctionConfig

NAMES = ["branin", "goldstein_price", "six_hump_camel", "hartmann3", "hartmann6"]


def drawn(family, n, seed=0):
    return jax.vmap(family.sample)(jax.random.split(jax.random.key(seed), n))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_minima_are_found(name):
    family = FunctionConfig(function=name, normalize=True).build()
    known = jnp.asarray(family.task(family.sample(jax.random.key(0))).info["f_opt"])
    found = minima(family, drawn(family, 2), jax.random.key(1))
    np.testing.assert_allclose(found, known, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [1, 2])
def test_nothing_on_a_dense_grid_is_lower(dimension):
    family = GPConfig(dimension=dimension).build()
    params = drawn(family, 3)
    found = minima(family, params, jax.random.key(1))
    line = jnp.linspace(0, 1, 400 if dimension == 2 else 4000)
    points = jnp.stack(jnp.meshgrid(*[line] * dimension), -1).reshape(-1, dimension)
    values = jax.vmap(lambda p: jax.vmap(p.value)(points).min())(params)
    assert np.all(found <= np.asarray(values) + 1e-6)
    np.testing.assert_allclose(found, values, atol=1e-3)


@pytest.mark.slow
def test_noise_is_left_out_where_the_task_says_how():
    quiet, noisy = (GPConfig(dimension=1, noise=noise).build() for noise in (0.0, 1.0))
    found = [minima(family, drawn(quiet, 2), jax.random.key(1)) for family in (quiet, noisy)]
    np.testing.assert_array_equal(*found)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Broken(TaskFamily):
    """A bowl on a box of named coordinates, of which the half around the minimum has no value; no gradients."""

    def sample(self, key):
        return jax.random.uniform(key, (), minval=1.0, maxval=2.0)

    def task(self, params):
        low, high = ({"a": jnp.full(2, s * 10.0), "b": jnp.full((), s * 5.0)} for s in (-1, 1))
        start = jax.tree.map(jnp.zeros_like, low)

        def evaluate(key, x):
            value = params * (jnp.sum((x["a"] - 3) ** 2, 1) + x["b"] ** 2)
            return Evaluation(jnp.where(x["a"][:, 0] > 2, value, jnp.nan))

        return Task(Problem(Space.box(low, high), start), evaluate)


def test_trees_and_walls():
    np.testing.assert_allclose(minima(Broken(), drawn(Broken(), 2), jax.random.key(1)), 0.0, atol=1e-4)


def test_where_nothing_has_a_value():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Nowhere(Broken):
        def task(self, params):
            return super().task(params)._replace(evaluate=lambda key, x: Evaluation(x["b"] * jnp.nan))

    assert minima(Nowhere(), drawn(Nowhere(), 1), jax.random.key(1), candidates=8, starts=2).tolist() == [np.inf]
