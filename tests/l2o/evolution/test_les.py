"""Features of fitness, and the learned evolution strategy: its equations, what it ignores, what it survives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

import l2o
from l2o import Evaluation, Problem, Space, Task, unroll
from l2o.evolution.les import CLIP, EPSILON, PATHS, SUCCESSES, TIMES, LESConfig
from l2o.evolution.population import bounded, centred_ranks, features, improved, normal_scores, unit_range, z_scores

INF = np.inf
PUBLISHED = {"scaling": "members", "paths": "absolute", "scores": "z", "overall": False, "restarts": False}
VALUES = st.one_of(st.floats(-1e30, 1e30), st.sampled_from([np.nan, INF, -INF, 0.0, 1.0, 3e38, -3e38]))
few = settings(max_examples=20, deadline=None)


@functools.cache
def theta_of(config, seed=0, gain=1.0):
    """Weights and biases that are large enough to matter."""
    shapes, random = jax.eval_shape(config.build().init, jax.random.key(0)), np.random.default_rng(seed)
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
    return jnp.sum(x**2 + jnp.cos(3 * x), -1)


def finite(tree):
    """But for the lowest value where there was none."""
    tree = tree._replace(lowest=0.0) if hasattr(tree, "lowest") else tree
    return all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(tree))


def test_a_search_that_is_stuck_begins_again_at_the_best_point():
    n, d, start = 6, 2, jnp.ones(2)
    config = LESConfig(population_size=n)
    init, ask, tell = programs(config)
    theta = theta_of(config)
    x, state = ask(theta, jax.random.key(0), init(theta, start, 0.5))
    state = tell(theta, state, x, jnp.array([3.0, 1.0, 2.0, 3.0, 3.0, 3.0]))
    for t in range(10 + 30 * d // n):
        assert state[1].inner.since == t and state[1].inner.age == t + 1
        later, state = ask(theta, jax.random.key(t + 1), state)
        state = tell(theta, state, later, jnp.full(n, 5.0))
    inner = state[1].inner
    np.testing.assert_array_equal(inner.mean, x[1])
    np.testing.assert_array_equal(inner.sigma, [0.5, 0.5])
    assert inner.age == 0 and np.isinf(inner.lowest) and not inner.path.any()


# --- features of fitness


@few
@given(st.lists(st.sampled_from([1.0, 2.0, -3.0, 1e30, INF]), min_size=5, max_size=5))
def test_ranks_are_those_of_scipy(values):
    np.testing.assert_allclose(centred_ranks(jnp.array(values)), (rankdata(values) - 1) / 4 - 0.5, atol=1e-7)


@few
@given(st.permutations(range(6)))
def test_ranks_and_normal_scores_permute_with_the_members_and_read_nothing_but_their_order(order):
    value = jnp.array([3.0, -1.0, 3.0, 0.5, INF, 0.25])
    for feature in (centred_ranks, normal_scores):
        np.testing.assert_array_equal(feature(value[jnp.array(order)]), feature(value)[jnp.array(order)])
        np.testing.assert_array_equal(feature(value**3), feature(value))


def test_normal_scores_are_quantiles_of_unit_variance():
    scores = np.asarray(normal_scores(jnp.array([5.0, 1.0, 2.0, 9.0])))
    assert scores.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(scores[[2, 0]] / scores[[1, 3]], 0.31864 / 1.15035 * np.array([1.0, 1.0]), rtol=1e-4)
    np.testing.assert_array_equal(normal_scores(jnp.full(7, 0.1)), np.zeros(7))


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_z_scores_are_those_of_numpy(size):
    value = size * np.array([0.3, 7.0, -2.0, 0.3, 1.0], np.float32)
    np.testing.assert_allclose(z_scores(jnp.asarray(value)), (value - value.mean()) / value.std(), rtol=1e-4)


def test_epsilon_is_in_the_units_of_the_values():
    value = np.array([1e-10, 3e-10, 5e-10], np.float32)
    expected = (value - value.mean()) / (value.std() + 1e-10)
    np.testing.assert_allclose(z_scores(jnp.asarray(value), 1e-10), expected, rtol=1e-4)


def test_a_failed_member_is_worse_than_the_worst_by_the_spread():
    unit, spread = unit_range(jnp.array([1.0, INF, 3.0, 2.0]))
    np.testing.assert_array_equal(unit, [0.0, 2.0, 1.0, 0.5])
    assert spread == 2
    seen = features(jnp.array([1.0, INF, 3.0, INF]), jnp.array(2.0), "z")
    np.testing.assert_array_equal(seen[0], [1, 0, 0, 0])
    np.testing.assert_allclose(seen[1], [-0.5, 1 / 3, -1 / 6, 1 / 3], atol=1e-6)
    assert seen[2, 1] == seen[2, 3] > seen[2, 2]


@pytest.mark.parametrize("value", [0.1, 0.0, -7e30, INF])
def test_equal_members_are_equal(value):
    assert not features(jnp.full(7, value, jnp.float32), jnp.array(-INF), "z").any()
    assert not features(jnp.full(7, value, jnp.float32), jnp.array(-INF), "normal").any()


def test_nothing_improves_on_what_is_as_good_and_no_failure_is_an_improvement():
    np.testing.assert_array_equal(improved(jnp.array([1.0, 2.0, INF]), jnp.array(2.0)), [1, 0, 0])
    np.testing.assert_array_equal(improved(jnp.array([1.0, INF]), jnp.array(INF)), [1, 0])


def test_a_standard_deviation_is_kept_above_rounding():
    sigma = bounded(jnp.array([0.0, 1e-12, 1.0, INF]), jnp.array([0.0, 1.0, 1.0, 1.0]))
    assert (sigma > 0).all() and (1 + sigma[1] > 1) and sigma[2] == 1 and np.isfinite(sigma[3] ** 2)


# --- the strategy


def reference(theta, mean, sigma, path, path_sigma, success, x, value, best, t, scores, relative, scale):
    """One generation in numpy, member by member and dimension by dimension, in double precision."""
    theta = jax.tree.map(lambda a: np.asarray(a, float), theta)
    fitness = np.stack([value < best, rankdata(value) - 1, scores]).astype(float)
    fitness[1] = fitness[1] / (value.size - 1) - 0.5

    def apply(name, a):
        return theta[name]["w"] @ a + theta[name]["b"]

    def softmax(a):
        return np.exp(a - a.max()) / np.exp(a - a.max()).sum()

    keys, mixed = [apply("key", f) for f in fitness.T], []
    for f in fitness.T:
        attention = softmax(np.array([apply("query", f) @ k for k in keys]) / np.sqrt(scale))
        mixed.append(sum(a * apply("value", other)[0] for a, other in zip(attention, fitness.T, strict=True)))
    w = softmax(np.array(mixed))
    step = w @ (x - mean)
    path = path + PATHS[:, None] * (step - path)
    path_sigma = path_sigma + PATHS[:, None] * (step / sigma - path_sigma)
    success = success + SUCCESSES * (np.mean(value < best) - success)
    time = [np.tanh(t / g - 1) for g in TIMES]
    if relative:
        lengths = [np.mean(p**2) * value.size * (2 - a) / a for p, a in zip(path_sigma, PATHS, strict=True)]
        time = [*time, *(np.log(np.sqrt(np.array(lengths) + 1e-3))), *(2 * success - 1)]
    new_mean, new_sigma = [], []
    for j in range(mean.size):
        seen = np.clip(path[:, j] / sigma[j], -CLIP, CLIP) if relative else path[:, j]
        hidden = np.maximum(apply("hidden", np.concatenate([seen, path_sigma[:, j], time])), 0)
        rate, rate_sigma = 1 / (1 + np.exp(-apply("rates", hidden)))
        variance = w @ (x[:, j] - mean[j]) ** 2 + EPSILON * (sigma[j] ** 2 if relative else 1)
        new_mean.append(mean[j] + rate * (w @ x[:, j] - mean[j]))
        new_sigma.append(sigma[j] + rate_sigma * (np.sqrt(variance) - sigma[j]))
    return np.array(new_mean), np.array(new_sigma), path, path_sigma, success


@pytest.mark.parametrize("published", [False, True])
def test_it_computes_the_equations(published):
    config = LESConfig(population_size=5, keys=4, hidden=3, **(PUBLISHED if published else {}))
    theta, start = theta_of(config), jnp.array([0.5, -1.0, 3.0])
    init, ask, tell = programs(config)
    state, best, expected = init(theta, start, 0.3), INF, None
    for t in range(4):
        x, state = ask(theta, jax.random.key(t), state)
        value = hills(x)
        scores = z_scores(value) if published else normal_scores(value)
        expected = reference(
            theta, *(np.asarray(a, float) for a in (*state[1].inner[:5], x, value)), best, t, np.asarray(scores),
            not published, 5 if published else 4,
        )  # fmt: skip
        state, best = tell(theta, state, x, value), min(best, float(value.min()))
        for ours, theirs in zip(state[1].inner[:5], expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)
        assert state[1].best == best
    assert np.abs(expected[0] - start).max() > 0.01


@pytest.mark.parametrize("scores", ["normal", "z"])
def test_the_order_of_the_members_does_not_matter(scores):
    config = LESConfig(population_size=6, scores=scores)
    theta = theta_of(config)
    init, ask, tell = programs(config)
    state = init(theta, jnp.zeros(3), 1.0)
    x, state = ask(theta, jax.random.key(0), state)
    value = hills(x).at[2].set(jnp.nan)
    order = jnp.array([3, 1, 5, 0, 2, 4])
    one, other = tell(theta, state, x, value), tell(theta, state, x[order], value[order])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)
    assert not np.allclose(one[1].inner.mean, tell(theta, state, x, value[order])[1].inner.mean, atol=1e-3)


def test_only_the_order_of_values_matters_unless_z_scores_are_asked_for():
    for scores in ("normal", "z"):
        config = LESConfig(population_size=6, scores=scores)
        theta = theta_of(config)
        plain, _ = rounds(config, theta, jnp.ones(3), 1.0, hills)
        bent, _ = rounds(config, theta, jnp.ones(3), 1.0, lambda x: jnp.exp(2 * hills(x)) - 100)
        same = all(np.array_equal(a, b) for a, b in zip(plain, bent, strict=True))
        assert same == (scores == "normal")


@few
@given(st.sampled_from([1e-6, 1e-3, 1e6]), st.integers(0, 99))
def test_the_units_of_x_do_not_matter(c, seed):
    config = LESConfig(population_size=6)
    theta, start = theta_of(config, seed), jnp.array([1.0, -2.0])
    plain, _ = rounds(config, theta, start, 0.5, lambda x: jnp.sum(jnp.abs(x - 3), -1))
    scaled, _ = rounds(config, theta, c * start, c * 0.5, lambda x: jnp.sum(jnp.abs(x / c - 3), -1))
    np.testing.assert_allclose(np.asarray(scaled) / c, plain, rtol=1e-3, atol=1e-3)


def test_the_units_of_x_matter_to_the_published_strategy():
    config = LESConfig(population_size=6, **PUBLISHED)
    theta = theta_of(config)
    plain, _ = rounds(config, theta, jnp.ones(2), 0.5, hills)
    scaled, _ = rounds(config, theta, jnp.full(2, 1e-6), 0.5e-6, lambda x: hills(x / 1e-6))
    assert not np.allclose(np.asarray(scaled) / 1e-6, plain, atol=0.1)


@pytest.mark.parametrize("options", [{}, PUBLISHED])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 3)])
def test_no_values_break_it(n, d, options):
    config = LESConfig(population_size=n, **options)
    init, ask, tell = programs(config)

    @jax.jit
    def play(theta, start, scale, values):
        def body(state, now):
            t, value = now
            x, state = ask(theta, jax.random.key(t), state)
            return tell(theta, state, x, value), x

        return jax.lax.scan(body, init(theta, start, scale), (jnp.arange(8), values))

    @few
    @given(
        st.lists(VALUES, min_size=8 * n, max_size=8 * n), st.floats(-6, 6), st.sampled_from([0.0, 1.0, -1e6]),
        st.integers(0, 9),
    )  # fmt: skip
    def check(values, logarithm, start, seed):
        theta = theta_of(config, seed, gain=3.0)
        values = jnp.array(values, jnp.float32).reshape(8, n)
        state, x = play(theta, jnp.full(d, start), 10.0**logarithm, values)
        assert finite((state[1].inner, x)) and (state[1].inner.sigma > 0).all()
        ok = np.where(np.isfinite(values), values, INF)
        assert state[1].best == ok.min() and state[1].generation == 8

    check()


@pytest.mark.parametrize("value", [jnp.nan, INF, 0.1])
def test_generations_that_say_nothing_leave_a_state_to_go_on_from(value):
    """Every member failed, or all are equal: 300 generations of it."""
    config = LESConfig(population_size=4)
    optimizer = config.build().bind(theta_of(config, gain=3.0))
    problem = Problem(Space.free(), jnp.ones(3), 1.0)
    task = Task(problem, lambda key, x: Evaluation(jnp.full(4, value)))
    (_, run), _ = jax.jit(
        lambda: unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 300)
    )()
    assert finite(run.inner)
    np.testing.assert_array_equal(run.best_x if np.isinf(run.best) else np.ones(3), np.ones(3))


def test_one_theta_serves_any_population_and_dimension():
    theta = theta_of(LESConfig())
    for n, d in ((2, 1), (32, 7)):
        asked, run = rounds(LESConfig(population_size=n), theta, jnp.ones(d), 1.0, hills, 2)
        assert asked[0].shape == (n, d) and run.inner.sigma.shape == (d,) and finite(run.inner)


def test_on_a_box_it_works_in_the_unit_cube_and_is_told_what_was_evaluated():
    space = Space.box(jnp.array([-5.0, 0.0]), jnp.array([5.0, 1000.0]))
    problem = Problem(space, jnp.array([0.0, 500.0]), 1e9)
    optimizer = LESConfig(population_size=4000, sigma=0.05).build().bind(theta_of(LESConfig()))
    x, _ = optimizer.ask(jax.random.key(1), optimizer.init(jax.random.key(0), problem))
    np.testing.assert_allclose(x.std(0), [0.5, 50.0], rtol=0.05)

    config = LESConfig(population_size=5, sigma=2.0)
    optimizer = config.build().bind(theta_of(config))
    task = Task(problem, lambda key, x: Evaluation(-x.sum(-1)))
    (_, run), trajectory = jax.jit(
        lambda: unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 5)
    )()
    assert jax.vmap(jax.vmap(space.contains))(trajectory.x).all()
    np.testing.assert_allclose(space.from_unit(run.best_x), [5.0, 1000.0], rtol=1e-5)


def types_of(start):
    """Of a state at first and after a round, and of the points."""
    config = LESConfig(population_size=4)
    optimizer = config.build().bind(theta_of(config))

    def play():
        state = optimizer.init(jax.random.key(0), Problem(Space.free(), start, 0.1))
        x, asked = optimizer.ask(jax.random.key(1), state)
        return state, optimizer.tell(jax.random.key(2), asked, x, Evaluation(hills(x["a"]))), x

    return jax.tree.map(lambda a: a.dtype, jax.eval_shape(play))


def test_points_may_be_of_half_precision():
    first, told, x = types_of({"a": jnp.ones(3, jnp.bfloat16)})
    assert first == told
    assert x["a"] == told[1].best_x["a"] == jnp.bfloat16
    assert {*told[1].inner, told[1].best} == {jnp.dtype(jnp.float32)}


def test_in_double_precision_the_state_is():
    with jax.enable_x64(True):
        first, told, _ = types_of({"a": jnp.ones(3)})
    assert first == told
    assert {*told[1].inner, told[1].best} == {jnp.dtype(jnp.float64)}


@pytest.mark.slow
def test_it_is_meta_trained_by_vmap_and_by_backprop():
    config = LESConfig(population_size=4)
    learned, problem = config.build(), Problem(Space.free(), jnp.ones(3), 0.5)
    task = Task(problem, lambda key, x: Evaluation(hills(x)))

    def loss(theta):
        optimizer = learned.bind(theta)
        state = optimizer.init(jax.random.key(0), problem)
        return jnp.mean(unroll(optimizer, task, state, jax.random.key(1), 5)[1].evaluation.value)

    thetas = jax.vmap(learned.init)(jax.random.split(jax.random.key(2), 3))
    losses = jax.jit(jax.vmap(loss))(thetas)
    assert losses.shape == (3,) and len(set(losses.tolist())) == 3
    gradient = jax.jit(jax.grad(loss))(jax.tree.map(lambda a: a[0], thetas))
    assert finite(gradient) and any(bool(jnp.any(a != 0)) for a in jax.tree.leaves(gradient))


def test_an_artifact_of_it_is_loaded_again(tmp_path):
    config = LESConfig(hidden=3)
    loaded = l2o.load(l2o.save(tmp_path, config, theta_of(config)))
    assert loaded.config == config and None not in loaded.check
