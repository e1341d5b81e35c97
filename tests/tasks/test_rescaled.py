"""Random units: the chain rule, the starts, the measures, and what the units are drawn from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.datasets import Dataset
from tasks.networks.classifiers import Classifier, MLPClassifierConfig
from tasks.quadratic import QuadraticConfig
from tasks.rescaled import Rescaled, RescaledConfig

PER = ["coordinate", "tensor", "model"]


def classifier() -> Classifier:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(12, 2, 3, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 12), jnp.int32)
    return Classifier(Dataset(images, labels, images, labels), 3, MLPClassifierConfig(depth=0, batch_size=5))


FAMILY = classifier()


def rescaled(per: Any = "coordinate", parameters=1.5, objective=0.7, family: Any = FAMILY) -> Rescaled:
    config = RescaledConfig(family=QuadraticConfig(), parameters=parameters, per=per, objective=objective)
    return Rescaled(family, config)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("per", PER)
def test_value_gradient_start_and_measures_are_those_of_the_family_in_other_units(per):
    family = rescaled(per)

    @jax.jit
    def both(family):
        params = family.sample(jax.random.key(1))
        inner, c, s = params
        task, plain = family.task(params), family.family.task(inner)

        def outer(z):
            return jax.tree.map(lambda a, b: a * jnp.broadcast_to(b, a.shape), z, c)

        def f(z):
            """One point, with the key that evaluates it."""
            at = jax.tree.map(lambda a: a[None], outer(z))
            return s * plain.evaluate(jax.random.key(2), at).value[0]

        z = jax.tree.map(lambda a: a + 0.3, task.problem.start)
        found = task.evaluate(jax.random.key(2), jax.tree.map(lambda a: a[None], z))
        value, gradient = jax.value_and_grad(f)(z)
        return (
            (outer(task.problem.start), found.value[0], jax.tree.map(lambda a: a[0], found.gradient)),
            (plain.problem.start, value, gradient),
            (task.measure(jax.random.key(3), z), plain.measure(jax.random.key(3), outer(z))),
        )

    found, expected, measured = both(family)
    assert_close(found, expected)
    assert_close(*measured)


def test_several_points_at_once_have_the_same_units():
    family = rescaled(family=QuadraticConfig(dimension=4, start_scale=1.0).build())
    params = family.sample(jax.random.key(4))
    task = family.task(params)
    evaluate: Any = jax.jit(task.evaluate)
    z = jnp.stack([task.problem.start, 2 * task.problem.start, -task.problem.start])
    together = evaluate(jax.random.key(5), z)
    for i in range(3):
        one = evaluate(jax.random.key(5), z[i : i + 1])
        np.testing.assert_allclose(together.value[i], one.value[0], rtol=1e-5)
        np.testing.assert_allclose(together.gradient[i], one.gradient[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per", PER)
def test_what_the_units_are_drawn_from(per):
    family = rescaled(per, parameters=2.0, objective=0.5)
    inner, c, s = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(6), 400))
    logs = [np.log(leaf).reshape(400, -1) for leaf in jax.tree.leaves(c)]
    assert [log.shape[1] for log in logs] == [
        leaf[0].size if per == "coordinate" else 1 for leaf in jax.tree.leaves(inner)
    ]
    for scale, log in ((2.0, np.concatenate(logs, axis=1)), (0.5, np.log(s))):
        assert -scale - 1e-4 < log.min() < -0.9 * scale and 0.9 * scale < log.max() < scale + 1e-4
        np.testing.assert_allclose(np.mean(log), 0, atol=0.2 * scale)
        np.testing.assert_allclose(np.std(log), scale / np.sqrt(3), rtol=0.1)
    equal = np.all([log[:, :1] == logs[0][:, :1] for log in logs])
    assert equal == (per == "model")
    columns = np.concatenate(logs, axis=1)
    if per != "model":
        correlation = np.corrcoef(np.c_[columns, np.log(s)].T) - np.eye(columns.shape[1] + 1)
        assert np.abs(correlation).max() < 0.3, "every unit is drawn on its own"


def test_units_of_size_zero_change_nothing():
    family = rescaled("coordinate", 0.0, 0.0)
    params = family.sample(jax.random.key(7))
    inner, c, s = params
    assert s == 1 and all(np.all(leaf == 1) for leaf in jax.tree.leaves(c))
    task, plain = family.task(params), FAMILY.task(inner)
    jax.tree.map(np.testing.assert_array_equal, task.problem, plain.problem)
    x = jax.tree.map(lambda a: a[None], plain.problem.start)
    jax.tree.map(
        np.testing.assert_array_equal, task.evaluate(jax.random.key(8), x), plain.evaluate(jax.random.key(8), x)
    )


def test_a_config_builds_the_family_it_names():
    inner: Any = {"kind": "quadratic", "dimension": 3}
    config = RescaledConfig(family=inner, parameters=1.0)
    family = config.build("test")
    assert family.family == QuadraticConfig(dimension=3).build() and family.parts == (family,)
    assert jax.tree.map(jnp.shape, jax.eval_shape(family.sample, jax.random.key(9))) == (((3, 3), (3,), (3,)), (1,), ())
