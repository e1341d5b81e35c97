import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.quadratic import QuadraticConfig


def test_value_and_gradient_equal_the_closed_form():
    family = QuadraticConfig(dimension=4, start_scale=1.0).build()
    params = family.sample(jax.random.key(0))
    w, y, start = (np.asarray(a, np.float64) for a in params)
    task = family.task(params)
    np.testing.assert_array_equal(task.problem.start, params[2])

    points = jax.random.normal(jax.random.key(1), (3, 4))
    evaluation = task.evaluate(jax.random.key(2), points)
    residual = np.asarray(points, np.float64) @ w.T - y
    np.testing.assert_allclose(evaluation.value, (residual**2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(evaluation.gradient, 2 * residual @ w, rtol=1e-4, atol=1e-4)

    at_start = task.evaluate(jax.random.key(3), params[2][None])
    np.testing.assert_allclose(at_start.value, [((w @ start - y) ** 2).sum()], rtol=1e-5)


@pytest.mark.parametrize(("dimension", "start_scale"), [(10, 0.01), (10, 0.0), (4, 1.0)])
def test_mean_initial_loss(dimension, start_scale):
    """E||W x - y||^2 = d^2 s^2 + d for independent standard normal W, y and x ~ N(0, s^2)."""
    family = QuadraticConfig(dimension=dimension, start_scale=start_scale).build()

    def initial(key):
        sample_key, evaluate_key = jax.random.split(key)
        task = family.task(family.sample(sample_key))
        return task.evaluate(evaluate_key, task.problem.start[None]).value[0]

    losses = np.asarray(jax.vmap(initial)(jax.random.split(jax.random.key(0), 20_000)))
    expected = dimension**2 * start_scale**2 + dimension
    assert abs(losses.mean() - expected) < 3 * losses.std() / np.sqrt(losses.size)
    assert 3 * losses.std() / np.sqrt(losses.size) < 0.03 * expected, "the test would not see a wrong mean"


def test_the_minimum_is_zero_at_the_solution():
    family = QuadraticConfig(dimension=5).build()
    w, y, start = family.sample(jax.random.key(4))
    task = family.task((w, y, start))
    solution = np.linalg.solve(np.asarray(w, np.float64), np.asarray(y, np.float64)).astype(np.float32)
    evaluation = task.evaluate(jax.random.key(5), jnp.asarray(solution)[None])
    np.testing.assert_allclose(evaluation.value, [0.0], atol=1e-8)
    np.testing.assert_allclose(evaluation.gradient, np.zeros((1, 5)), atol=1e-3)
    assert task.info["f_opt"] == 0


def test_start_scale_is_the_standard_deviation_of_the_start():
    starts = {
        scale: jax.vmap(QuadraticConfig(dimension=10, start_scale=scale).build().sample)(
            jax.random.split(jax.random.key(6), 1000)
        )[2]
        for scale in (0.01, 1.0)
    }
    np.testing.assert_allclose(starts[0.01], 0.01 * starts[1.0], rtol=1e-5)
    np.testing.assert_allclose(np.std(starts[1.0]), 1.0, rtol=0.03)


def test_both_splits_are_one_distribution_and_keys_decide_the_function():
    train, test = QuadraticConfig(dimension=2).build("train"), QuadraticConfig(dimension=2).build("test")
    first, second = train.sample(jax.random.key(7)), test.sample(jax.random.key(7))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    other = train.sample(jax.random.key(8))
    assert all(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("fields", [{"dimension": 0}, {"start_scale": -1.0}, {"start_scale": float("nan")}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        QuadraticConfig(**fields)
