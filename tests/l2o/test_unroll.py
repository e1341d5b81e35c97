"""The one scan: its pieces add up, its derivatives are those it promises, and it records what it is told to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o import Optimizer, Problem, Space, Task, from_optax, unroll
from l2o.gradient.lstm import LSTMConfig
from l2o.unroll import values_only

START = {"w": jnp.array([[0.5, -1.0, 0.3], [1.2, 0.25, -0.6]]), "b": jnp.array(0.75), "v": jnp.array([0.1, -0.4])}
DATA = jax.random.normal(jax.random.key(7), (32, 3))
CURVATURE = jnp.array([0.3, 1.0, 2.5])


def loss(key, x):
    """A small network on a minibatch drawn from the key."""
    batch = DATA[jax.random.randint(key, (4,), 0, 32)]
    hidden = jnp.tanh(batch @ x["w"].T + x["v"][None])
    return jnp.mean((hidden.sum(-1) - x["b"] - batch.prod(-1)) ** 2)


def task(horizon=100):
    return Task.from_loss(loss, Problem(Space.free(), START, horizon=jnp.asarray(horizon)))


def bowl(start=(1.0, -2.0, 0.5)):
    problem = Problem(Space.free(), jnp.array(start))
    return Task.from_loss(lambda key, x: 0.5 * jnp.sum(CURVATURE * x**2), problem)


def optimizers():
    network = LSTMConfig(layers=1, hidden=4).build()
    theta = network.init(jax.random.key(3))
    return {"adam": from_optax(optax.adam(0.05)), "lstm": network.bind(theta), "search": random_search(3)}


def random_search(n):
    """Keys matter in every one of the three functions, and the population has more than one member."""

    def init(key, problem):
        return problem.start, jax.random.normal(key)

    def ask(key, state):
        best, _ = state
        leaves, tree = jax.tree.flatten(best)
        keys = jax.random.split(key, len(leaves))
        noise = [0.1 * jax.random.normal(k, (n, *a.shape)) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, [a[None] + e for a, e in zip(leaves, noise, strict=True)]), state

    def tell(key, state, x, evaluation):
        del state
        noisy = evaluation.value + 0.01 * jax.random.normal(key, (n,))
        return jax.tree.map(lambda a: a[jnp.argmin(noisy)], x), noisy[0]

    return Optimizer(init, ask, tell)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-5, atol=1e-7):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


@pytest.mark.parametrize("name", ["adam", "lstm", "search"])
def test_two_halves_equal_the_whole_to_the_bit(name):
    optimizer, problem = optimizers()[name], bowl() if name == "search" else task(30)
    start = optimizer.init(jax.random.key(0), problem.problem)

    def run(steps):
        return jax.jit(lambda state, offset: unroll(optimizer, problem, state, jax.random.key(1), steps, offset))

    half = run(20)
    middle, first = half(start, 0)
    end, second = half(middle, 20)
    whole_end, whole = run(40)(start, 0)
    assert_equal(end, whole_end)
    assert_equal(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second), whole)
    # the second half sees other randomness than the first
    assert not np.array_equal(half(middle, 0)[1].evaluation.value, second.evaluation.value)


def test_the_mask_ends_after_the_horizon():
    optimizer = from_optax(optax.sgd(0.1))
    for horizon, offset in ((3, 0), (0, 0), (10, 0), (7, 5)):
        problem = task(horizon)
        state = optimizer.init(jax.random.key(0), problem.problem)
        _, trajectory = unroll(optimizer, problem, state, jax.random.key(1), 6, offset)
        # query t is made after t updates, so a run of `horizon` updates has horizon + 1 values
        np.testing.assert_array_equal(trajectory.mask, np.arange(6) + offset <= horizon)


def test_query_t_is_made_after_t_updates():
    optimizer, problem = from_optax(optax.sgd(0.1)), bowl()
    end, trajectory = unroll(
        optimizer, problem, optimizer.init(jax.random.key(0), problem.problem), jax.random.key(1), 4
    )
    start = problem.problem.start
    for t in range(4):
        np.testing.assert_allclose(trajectory.x[t, 0], start * (1 - 0.1 * CURVATURE) ** t, rtol=1e-5)
    np.testing.assert_allclose(
        optimizer.ask(jax.random.key(2), end)[0][0], start * (1 - 0.1 * CURVATURE) ** 4, rtol=1e-5
    )


def test_ask_evaluate_and_tell_draw_apart_in_every_round():
    """None of them may have the key of another: what is drawn would be tied to what it is judged by."""

    def ask(key, state):
        return jax.random.uniform(key, (1,)), state

    def tell(key, state, x, evaluation):
        return jnp.append(state[1:], jax.random.uniform(key))

    optimizer = Optimizer(lambda key, problem: jnp.zeros(4), ask, tell)
    drawn = Task.from_loss(lambda key, x: jax.random.uniform(key), Problem(Space.free(), jnp.zeros(())))
    told, run = unroll(optimizer, drawn, jnp.zeros(4), jax.random.key(1), 4)
    draws = np.concatenate([told, run.x[:, 0], run.evaluation.value[:, 0]])
    assert np.unique(draws).size == 12


def test_leading_axes_are_steps_and_population():
    optimizer, problem = random_search(3), bowl()
    state = optimizer.init(jax.random.key(0), problem.problem)
    _, trajectory = unroll(optimizer, problem, state, jax.random.key(1), 5)
    assert trajectory.x.shape == (5, 3, 3)
    assert trajectory.evaluation.value.shape == (5, 3)
    assert trajectory.evaluation.gradient.shape == (5, 3, 3)


def test_values_only_keeps_the_same_values_and_nothing_else():
    optimizer, problem = optimizers()["lstm"], task()
    state = optimizer.init(jax.random.key(0), problem.problem)
    end, full = jax.jit(lambda s: unroll(optimizer, problem, s, jax.random.key(1), 6))(state)
    thin_end, thin = jax.jit(lambda s: unroll(optimizer, problem, s, jax.random.key(1), 6, record=values_only))(state)
    assert thin.x is None and thin.evaluation.gradient is None
    assert_equal(thin.evaluation.value, full.evaluation.value)
    assert_equal(thin.mask, full.mask)
    assert_equal(thin_end, end)


def total(make, problem, steps=6, **options):
    """The meta-loss as a function of whatever `make` turns into an optimizer."""

    def meta_loss(argument):
        optimizer = make(argument)
        state = optimizer.init(jax.random.key(0), problem.problem)
        return unroll(optimizer, problem, state, jax.random.key(1), steps, **options)[1].evaluation.value.sum()

    return jax.jit(jax.value_and_grad(meta_loss))


def test_meta_gradients_of_a_learning_rate_by_hand():
    """On a bowl both derivatives are short recursions: dx/dr <- dx/dr - g [- r A dx/dr, if g is differentiated]."""
    rate, steps = 0.2, 6
    expected = {}
    for stop in (True, False):
        a, x, slope, value, gradient = np.asarray(CURVATURE, float), np.array([1.0, -2.0, 0.5]), np.zeros(3), 0.0, 0.0
        for _ in range(steps):
            value += 0.5 * np.sum(a * x**2)
            gradient += np.sum(a * x * slope)
            slope = slope - a * x - (0 if stop else rate * a * slope)
            x = x - rate * a * x
        expected[stop] = gradient
        found = total(lambda r: from_optax(optax.sgd(r)), bowl(), steps, stop_gradient=stop)(rate)
        np.testing.assert_allclose(found[0], value, rtol=1e-5)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-5)
    assert abs(expected[True] - expected[False]) > 0.1


@pytest.mark.parametrize("stop", [True, False])
def test_meta_gradients_of_the_lstm_equal_a_python_loop(stop):
    # raw gradients and large steps, so that the second derivative matters
    network = LSTMConfig(layers=1, hidden=4, preprocessing="none", output_scale=1.0).build()
    theta = network.init(jax.random.key(3))

    def by_hand(theta):
        tx, x, total_value = network.native(theta, None), START, 0.0
        state = tx.init(x)
        for t in range(3):
            key = jax.random.split(jax.random.fold_in(jax.random.key(1), t), 3)[1]
            value, gradient = jax.value_and_grad(loss, argnums=1)(key, x)
            total_value += value
            if stop:
                gradient = jax.lax.stop_gradient(gradient)
            updates, state = tx.update(gradient, state, x)
            x = optax.apply_updates(x, updates)
        return total_value

    value, gradient = jax.jit(jax.value_and_grad(by_hand))(theta)
    found_value, found = total(network.bind, task(), 3, **({} if stop else {"stop_gradient": False}))(
        theta
    )  # dropped by default
    np.testing.assert_allclose(found_value, value, rtol=1e-5)
    assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    other = total(network.bind, task(), 3, stop_gradient=not stop)(theta)[1]
    assert any(not np.allclose(a, b, 1e-2) for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(found), strict=True))


@pytest.mark.parametrize("remat", ["step", "segment"])
@pytest.mark.parametrize("steps", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_remat_changes_neither_values_nor_meta_gradients(remat, steps):
    network = LSTMConfig(layers=1, hidden=4).build()
    theta = network.init(jax.random.key(3))
    stored = total(network.bind, task(), steps, stop_gradient=False)(theta)
    recomputed = total(network.bind, task(), steps, stop_gradient=False, remat=remat)(theta)
    assert_close(recomputed, stored, rtol=1e-4, atol=1e-6)


def test_a_black_box_task_unrolls_and_refuses_optimizers_that_need_gradients():
    free = task()
    blind = free._replace(evaluate=lambda key, x: free.evaluate(key, x)._replace(gradient=None))
    optimizer = random_search(3)
    _, trajectory = unroll(optimizer, blind, optimizer.init(jax.random.key(0), blind.problem), jax.random.key(1), 4)
    assert trajectory.evaluation.gradient is None and trajectory.evaluation.value.shape == (4, 3)
    adam = from_optax(optax.adam(0.1))
    with pytest.raises(TypeError, match="needs gradients"):
        unroll(adam, blind, adam.init(jax.random.key(0), blind.problem), jax.random.key(1), 4)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_what_is_judged_is_recorded_and_never_told(n):
    judged = Task.from_loss(loss, task().problem, judge=lambda key, x, value: value + jnp.sum(x["v"]) + 7)
    search = random_search(n)

    def tell(key, state, x, evaluation):
        assert evaluation.judged is None
        return search.tell(key, state, x, evaluation)

    optimizer = Optimizer(search.init, search.ask, tell)
    runs = []
    for one in (judged, task()):
        state = optimizer.init(jax.random.key(0), one.problem)
        runs.append(unroll(optimizer, one, state, jax.random.key(1), 4)[1])
    (x, found, _), (_, plain, _) = runs
    np.testing.assert_array_equal(found.value, plain.value)
    assert plain.judged is None and values_only(x, found)[1].judged is found.judged
    np.testing.assert_allclose(found.judged, found.value + x["v"].sum(-1) + 7, rtol=1e-6)
