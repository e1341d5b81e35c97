"""Backpropagation through time against finite differences and a loop written by hand, on quadratics in float64."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.gradient.lstm import LSTMConfig
from meta.curriculum import FixedConfig
from meta.estimator.backprop import BackpropConfig
from meta.objective import BestConfig, FinalConfig, SumConfig
from tasks.quadratic import QuadraticConfig

HORIZON = 4
LEARNED = LSTMConfig(layers=1, hidden=2, output_scale=0.5).build()
# the objective and what it makes of the values after 1, 2, ... updates
OBJECTIVES = {
    "sum": (SumConfig(), jnp.mean),
    "log": (SumConfig(log=True), lambda values: jnp.mean(jnp.log(values))),
    "final": (FinalConfig(), lambda values: values[-1] / len(values)),
    "best": (BestConfig(), None),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def meta_parameters(seed=0):
    theta = LEARNED.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten([jax.random.normal(k, a.shape, jnp.float64) for k, a in zip(keys, leaves, strict=True)])


def quadratics(horizon=HORIZON):
    return FixedConfig(length=horizon).family(QuadraticConfig(dimension=2, start_scale=1.0).build())


def estimator(tasks=1, horizon=HORIZON, objective=SumConfig(), **fields):
    fields = {"unroll_length": horizon, "second_derivative": True, "stagger": False, **fields}
    return BackpropConfig(**fields).build(LEARNED, objective.build(), horizon, tasks)


def all_due(runs, horizon=HORIZON):
    """Runs that have reached the horizon: the next estimate starts new ones inside the derivative."""
    return runs._replace(step=jnp.full_like(runs.step, horizon))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def loop(theta, params, steps, second_derivative, cut=0):
    """The values after 0, 1, ..., steps updates; theta is a constant of the first `cut` updates."""
    (w, y, x), _ = params
    frozen = jax.lax.stop_gradient(theta)
    state, values = LEARNED.native(theta, steps).init(x), []
    for t in range(steps + 1):
        residual = w @ x - y
        values.append(jnp.sum(residual**2))
        gradient = 2 * w.T @ residual
        if not second_derivative:
            gradient = jax.lax.stop_gradient(gradient)
        updates, state = LEARNED.native(frozen if t < cut else theta, steps).update(gradient, state, x)
        x = x + updates
    return jnp.stack(values)


def of(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


def close(found, expected, rtol=1e-8):
    scale = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(expected))
    assert scale > 1e-4, "a gradient of zero shows nothing"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale), found, expected)


def distance(a, b):
    return max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def central_differences(function, theta, step=1e-5):
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    offsets = step * jnp.eye(flat.size)
    values = jax.jit(jax.vmap(lambda offset: function(unravel(flat + offset))))
    return unravel((values(offsets) - values(-offsets)) / (2 * step))


def restarted(chosen, seed=7):
    """theta, runs that are all due, and the estimate that restarts them; they improve first, then worsen (`best`)."""
    theta, family = meta_parameters(), quadratics()
    runs = all_due(chosen.init(jax.random.key(seed), theta, family))
    return theta, runs, jax.jit(chosen.estimate)(theta, runs, family)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_full_unroll_equals_central_finite_differences(kind):
    config, reduce = OBJECTIVES[kind]
    chosen = estimator(objective=config)
    theta, _, (gradient, after, loss) = restarted(chosen)
    params = of(after.params, 0)

    def meta_loss(theta):
        values = loop(theta, params, HORIZON, True)
        if kind == "best":
            return jnp.mean(jax.lax.cummin(values)[1:])
        return reduce(values[1:])

    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(loss, meta_loss(theta), rtol=1e-10)
    close(gradient, central_differences(meta_loss, theta), rtol=1e-6)


def test_without_the_second_derivative_the_inner_gradient_is_a_constant():
    theta, _, (gradient, after, loss) = restarted(estimator(second_derivative=False))
    params = of(after.params, 0)
    expected, exact = (jax.grad(lambda t, s=s: loop(t, params, HORIZON, s)[1:].mean())(theta) for s in (False, True))
    close(gradient, expected)
    assert distance(gradient, exact) > 1e-3, "the two cannot be told apart on this task"
    np.testing.assert_allclose(loss, loop(theta, params, HORIZON, True)[1:].mean(), rtol=1e-10)


@pytest.mark.parametrize("length", [1, 3])
def test_windows_report_the_losses_of_the_run_in_order(length):
    """Window by window, the last one cut at the horizon; then every run restarts on another task."""
    chosen, family, theta = estimator(tasks=2, unroll_length=length), quadratics(), meta_parameters()
    runs = chosen.init(jax.random.key(4), theta, family)
    first_tasks = runs.params
    values = [loop(theta, of(first_tasks, i), HORIZON, True) for i in range(2)]
    estimate = jax.jit(chosen.estimate)
    for start in range(0, HORIZON, length):
        _, runs, loss = estimate(theta, runs, family)
        window = np.mean([np.mean(v[1 + start : 1 + min(start + length, HORIZON)]) for v in values])
        np.testing.assert_allclose(loss, window, rtol=1e-8)
        jax.tree.map(np.testing.assert_array_equal, runs.params, first_tasks)
    assert np.all(runs.step >= HORIZON)

    _, runs, loss = estimate(theta, runs, family)
    assert np.all(runs.step == length)
    for old, new in zip(first_tasks[0], runs.params[0], strict=True):
        assert all(not np.array_equal(old[i], new[j]) for i in range(2) for j in range(2))
    expected = np.mean([loop(theta, of(runs.params, i), HORIZON, True)[1 : 1 + length].mean() for i in range(2)])
    np.testing.assert_allclose(loss, expected, rtol=1e-8)


@pytest.mark.parametrize("length", [1, 2])
def test_a_window_is_differentiated_through_all_its_updates(length):
    """The second window holds updates length + 1 to 2 length; what was before it is a constant."""
    chosen, family, theta = estimator(unroll_length=length), quadratics(), meta_parameters()
    runs = chosen.init(jax.random.key(5), theta, family)
    estimate = jax.jit(chosen.estimate)
    _, runs, _ = estimate(theta, runs, family)
    gradient, _, _ = estimate(theta, runs, family)
    params = of(runs.params, 0)
    close(gradient, jax.grad(lambda t: loop(t, params, 2 * length, True, cut=length)[1 + length :].mean())(theta))


def test_the_gradient_is_the_mean_over_tasks():
    theta, _, (gradient, after, loss) = restarted(estimator(tasks=2))
    runs = [of(after.params, i) for i in range(2)]
    losses, gradients = zip(
        *(jax.value_and_grad(lambda t, p=p: loop(t, p, HORIZON, True)[1:].mean())(theta) for p in runs), strict=True
    )
    np.testing.assert_allclose(loss, sum(losses) / 2, rtol=1e-10)
    close(gradient, jax.tree.map(lambda a, b: (a + b) / 2, *gradients))
    assert distance(*gradients) > 1e-3


def test_two_tasks_are_the_mean_of_the_two_single_ones():
    """The same two runs, together and each alone."""
    theta, family = meta_parameters(), quadratics()
    together, single = estimator(tasks=2), estimator(tasks=1)
    runs = together.init(jax.random.key(6), theta, family)
    gradient, _, _ = jax.jit(together.estimate)(theta, runs, family)
    alone = jax.jit(single.estimate)
    parts = [alone(theta, jax.tree.map(lambda a, i=i: a[i : i + 1], runs), family)[0] for i in range(2)]
    close(gradient, jax.tree.map(lambda a, b: (a + b) / 2, *parts))


@pytest.mark.parametrize(("tasks", "horizon", "length"), [(4, 8, 2), (2, 8, 2), (3, 7, 2), (6, 4, 2), (1, 8, 2)])
def test_staggered_runs_cover_the_horizon(tasks, horizon, length):
    chosen = estimator(tasks=tasks, horizon=horizon, unroll_length=length, stagger=True)
    runs = chosen.init(jax.random.key(7), meta_parameters(), quadratics(horizon))
    windows = -(-horizon // length)
    steps = np.asarray(runs.step)
    assert np.all(steps % length == 0) and np.all(steps < horizon) and steps[0] == 0
    counts = np.bincount(steps // length, minlength=windows)
    if tasks >= windows:
        assert counts.min() >= tasks // windows, "every part of the horizon is present in each batch"
    else:
        assert counts.max() == 1 and np.diff(steps).min(initial=horizon) >= horizon // tasks // length * length


def test_staggered_runs_keep_their_distance():
    chosen, family, theta = estimator(tasks=2, unroll_length=2, stagger=True), quadratics(), meta_parameters()
    runs = chosen.init(jax.random.key(8), theta, family)
    estimate = jax.jit(chosen.estimate)
    seen = []
    for _ in range(4):
        _, runs, _ = estimate(theta, runs, family)
        seen.append(sorted(runs.step.tolist()))
    assert seen == [[2, 4]] * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_run_that_left_the_finite_numbers_is_restarted_alone(bad):
    chosen, family, theta = estimator(tasks=3, unroll_length=1), quadratics(), meta_parameters()
    runs = chosen.init(jax.random.key(9), theta, family)
    estimate = jax.jit(chosen.estimate)
    _, runs, _ = estimate(theta, runs, family)
    broken = runs._replace(state=jax.tree.map(lambda a: a, runs.state))
    (point, space) = broken.state
    broken = broken._replace(state=(point._replace(x=point.x.at[1, 0].set(bad)), space))
    gradient, after, loss = estimate(theta, broken, family)
    assert after.step.tolist() == [2, 1, 2]
    for old, new in zip(runs.params[0], after.params[0], strict=True):
        assert [bool(np.array_equal(old[i], new[i])) for i in range(3)] == [True, False, True]
    finite = jax.tree.map(lambda a: bool(jnp.all(jnp.isfinite(a))), (gradient, loss, after.state))
    assert all(jax.tree.leaves(finite))


def test_runs_differ_and_the_key_decides_them():
    chosen, family, theta = estimator(tasks=3), quadratics(), meta_parameters()
    first, second, other = (chosen.init(jax.random.key(seed), theta, family) for seed in (10, 10, 11))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    starts = np.concatenate([np.asarray(first.params[0][2]), np.asarray(other.params[0][2])])
    assert len({start.tobytes() for start in starts}) == 6


def test_the_window_is_no_longer_than_the_horizon():
    short, long = (estimator(unroll_length=length) for length in (HORIZON, 1000))
    (_, _, first), (_, _, second) = restarted(short), restarted(long)
    jax.tree.map(np.testing.assert_array_equal, first, second)
