"""Matrix adaptation with learned residuals: untrained it is the classical algorithm; what it ignores and survives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o import Evaluation, Problem, Space, Task, unroll
from l2o.evolution.rma import DAMPING, Constants, RMAConfig

INF = np.inf
VALUES = st.one_of(st.floats(-1e30, 1e30), st.sampled_from([np.nan, INF, -INF, 0.0, 1.0, 3e38, -3e38]))
few = settings(max_examples=15, deadline=None)


@functools.cache
def theta_of(config, gain=1.0):
    """Weights and biases that are large enough to matter; with a gain of 0 the untrained strategy."""
    shapes, random = jax.eval_shape(config.build().init, jax.random.key(0)), np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(gain * random.normal(size=a.shape), jnp.float32), shapes)


@functools.cache
def programs(config):
    """Jitted: theta is data."""
    learned = config.build()

    def init(theta, start, scale):
        return learned.bind(theta).init(jax.random.key(0), Problem(Space.free(), start, scale))

    def ask(theta, key, state):
        return learned.bind(theta).ask(key, state)

    def tell(theta, state, x, value):
        return learned.bind(theta).tell(jax.random.key(0), state, x, Evaluation(value))

    return jax.jit(init), jax.jit(ask), jax.jit(tell)


def rounds(config, theta, start, scale, loss, count=6):
    """Populations, and the last state."""
    init, ask, tell = programs(config)
    state, asked = init(theta, start, scale), []
    for t in range(count):
        x, state = ask(theta, jax.random.key(t), state)
        state = tell(theta, state, x, loss(x))
        asked.append(x)
    return asked, state[1]


def hills(x):
    return jnp.sum(jnp.arange(1, x.shape[-1] + 1)[None] * x**2 + jnp.cos(3 * x), -1)


def healthy(inner):
    """Finite, but for the lowest value where there was none."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(inner._replace(lowest=0.0)))


def classical(z, order, mean, sigma, matrix, path, n, d):
    """One generation of the untrained strategy in numpy, members in the order of their rank."""
    c = Constants.of(n, d)
    z = z[order]
    raw = np.log((n + 1) / 2) - np.log(np.arange(1, n + 1))
    w, negative = np.maximum(raw, 0), np.minimum(raw, 0)
    w, negative = w / w.sum(), negative / -negative.sum() * c.negative
    pairs = {tuple(np.round(row, 5)): i for i, row in enumerate(z)}
    mass = sum((w[i] - w[pairs[tuple(np.round(-z[i], 5))]]) ** 2 for i in range(n)) / 2  # all are mirrored
    path = (1 - c.c_s) * path + np.sqrt(c.c_s * (2 - c.c_s) * min(1 / mass, n)) * (w @ z)
    active = w + negative * np.minimum(d / (z**2).sum(1), 10)
    rows = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    crossed = ((rows @ rows.T) ** 2 - np.eye(d)).sum() / (d * (d - 1))
    more = ((d + 2) / 3 - 1) / (1 + DAMPING * d * crossed)
    v, p = z @ rows.T, rows @ path
    scale = more * c.c_1 / 2 * (p**2 - 1) + more * c.c_w / 2 * (w @ v**2 - 1)
    new_mean = mean + sigma * matrix @ (w @ z)
    matrix = (
        matrix
        + c.c_1 / 2 * matrix @ (np.outer(path, path) - np.eye(d))
        + c.c_w / 2 * matrix @ ((z * active[:, None]).T @ z - (w + negative).sum() * np.eye(d))
    )
    matrix = np.exp(scale)[:, None] * matrix
    size = np.sqrt((matrix**2).sum() / d)
    sigma = sigma * size * np.exp(c.c_s / c.d_s * (np.linalg.norm(path) / c.chi - 1))
    return new_mean, sigma, matrix / size, path


def test_untrained_it_computes_the_equations_of_the_classical_strategy():
    n, d, start = 8, 3, jnp.array([1.0, -2.0, 0.5])
    config = RMAConfig(population_size=n)
    theta = config.build().init(jax.random.key(1))
    init, ask, tell = programs(config)
    state = init(theta, start, 0.7)
    mean, sigma, matrix, path = np.asarray(start, float), 0.7, np.eye(d), np.zeros(d)
    for t in range(8):
        x, state = ask(theta, jax.random.key(t), state)
        z = np.asarray(state[1].inner.noise, float)
        np.testing.assert_allclose(x, mean + sigma * z @ matrix.T, rtol=1e-3, atol=1e-4)
        value = hills(x)
        mean, sigma, matrix, path = classical(z, np.argsort(value), mean, sigma, matrix, path, n, d)
        state = tell(theta, state, x, value)
        inner = state[1].inner
        for ours, theirs in ((inner.mean, mean), (inner.sigma, sigma), (inner.matrix, matrix), (inner.path, path)):
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(8, 3), (16, 10), (50, 40)])
def test_the_constants_are_those_of_the_tutorial(n, d):
    from evosax.algorithms import CMA_ES

    with jax.numpy_rank_promotion("allow"):
        theirs = CMA_ES(population_size=n, solution=jnp.zeros(d)).default_params
    c = Constants.of(n, d)
    assert {"c_std", "d_std", "c_1"} <= set(vars(theirs))
    for ours, name in ((c.c_s, "c_std"), (c.d_s, "d_std"), (c.c_1, "c_1")):
        np.testing.assert_allclose(ours, getattr(theirs, name), rtol=1e-4)
    assert c.c_1 + c.c_w <= 1 and 0 < c.negative <= c.definite


def test_the_samples_of_the_first_generation_are_mirrored():
    config = RMAConfig(population_size=7)
    init, ask, _ = programs(config)
    theta = theta_of(config)
    x, _ = ask(theta, jax.random.key(0), init(theta, jnp.zeros(3), 1.0))
    np.testing.assert_array_equal(x[:3], -x[4:])
    assert np.abs(x[3]).max() > 0


def test_only_the_order_of_values_matters():
    config, start = RMAConfig(population_size=6), jnp.array([1.0, -1.0])
    theta = theta_of(config)
    plain, _ = rounds(config, theta, start, 0.5, hills)
    bent, _ = rounds(config, theta, start, 0.5, lambda x: jnp.arctan(hills(x)) + 3)
    for a, b in zip(plain, bent, strict=True):
        np.testing.assert_array_equal(a, b)


@few
@given(st.sampled_from([2.0**-20, 2.0**-7, 2.0**20]))
def test_the_units_of_x_do_not_matter(c):
    config, start = RMAConfig(population_size=6), jnp.array([1.0, -1.0, 0.25])
    theta = theta_of(config)
    plain, _ = rounds(config, theta, start, 0.5, hills)
    scaled, _ = rounds(config, theta, c * start, c * 0.5, lambda x: hills(x / c))
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(b / c, a, rtol=1e-4, atol=1e-5)


def test_a_quadratic_with_turned_axes_is_followed():
    """What no strategy with a diagonal can do: the matrix learns the inverse of the Hessian's root."""
    d, config = 5, RMAConfig(population_size=12)
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0], jnp.float32)
    curvature = 10.0 ** jnp.linspace(0, 4, d)
    task = Task(
        Problem(Space.free(), jnp.ones(d), 1.0),
        lambda key, x: Evaluation(((x @ turn.T) ** 2 * curvature[None]).sum(1)),
    )
    optimizer = config.build().bind(config.build().init(jax.random.key(0)))
    state = optimizer.init(jax.random.key(1), task.problem)
    state, run = jax.jit(lambda state: unroll(optimizer, task, state, jax.random.key(2), 150))(state)
    assert run.evaluation.value.min() < 1e-8
    shape = turn @ state[1].inner.matrix
    unit = curvature[:, None] ** 0.5 * shape  # all singular values alike, were the matrix exact
    singular = np.linalg.svd(unit, compute_uv=False)
    assert singular.max() / singular.min() < 10


@pytest.mark.parametrize("gain", [0.0, 3.0])
@pytest.mark.parametrize(("n", "d", "full"), [(2, 1, 9), (5, 3, 9), (5, 3, 2)])
def test_no_values_break_it(n, d, full, gain):
    config = RMAConfig(population_size=n, full=full)
    theta = theta_of(config, gain)
    init, ask, tell = programs(config)

    @few
    @given(
        st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=4, max_size=4), st.sampled_from([1e-6, 1.0, 1e6])
    )
    def check(values, scale):
        state = init(theta, jnp.full(d, 0.5), scale)
        for t, row in enumerate(values):
            x, state = ask(theta, jax.random.key(t), state)
            assert np.isfinite(x).all()
            state = tell(theta, state, x, jnp.array(row, jnp.float32))
        assert healthy(state[1].inner)

    check()


@pytest.mark.parametrize("value", [jnp.nan, 0.1])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_many_generations_that_say_nothing_leave_a_state_to_go_on_from(value, scale):
    config = RMAConfig(population_size=4)
    optimizer = config.build().bind(theta_of(config))
    task = Task(Problem(Space.free(), jnp.ones(2), scale), lambda key, x: Evaluation(jnp.full(4, value)))
    state = optimizer.init(jax.random.key(0), task.problem)
    state, run = jax.jit(lambda state: unroll(optimizer, task, state, jax.random.key(1), 300))(state)
    assert np.isfinite(run.x).all()
    assert healthy(state[1].inner)


def test_a_search_that_finds_nothing_better_begins_again_at_the_best_point():
    n, d = 6, 2
    config = RMAConfig(population_size=n)
    init, ask, tell = programs(config)
    theta = config.build().init(jax.random.key(0))
    state = init(theta, jnp.ones(d), 0.5)
    x, state = ask(theta, jax.random.key(0), state)
    state = tell(theta, state, x, jnp.array([3.0, 1.0, 2.0, 3.0, 3.0, 3.0]))
    patience = 10 + 30 * d / n
    for t in range(int(patience)):
        assert state[1].inner.since == t
        later, state = ask(theta, jax.random.key(t + 1), state)
        state = tell(theta, state, later, jnp.full(n, 5.0))
    inner = state[1].inner
    np.testing.assert_array_equal(inner.mean, x[1])
    np.testing.assert_array_equal(inner.matrix, np.eye(d))
    assert inner.sigma == 0.5 and inner.since == 0 and np.isinf(inner.lowest)


def test_one_theta_serves_any_population_and_dimension():
    theta = RMAConfig().build().init(jax.random.key(0))
    for n, d in ((3, 1), (9, 4), (4, 120)):
        config = RMAConfig(population_size=n)
        asked, _ = rounds(config, theta, jnp.ones(d), 1.0, hills, count=2)
        assert asked[-1].shape == (n, d)
