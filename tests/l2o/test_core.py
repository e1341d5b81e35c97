"""The contract: tasks built from losses, and optimizers that think in the unit cube."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o import Evaluation, Optimizer, Problem, Space, Task, from_optax, in_unit_cube, unroll
from l2o.core import population_size
from l2o.gradient.lstm import LSTMConfig

START = {"w": jnp.array([[0.5, -1.0], [2.0, 0.25]]), "b": jnp.array(0.75)}


def loss(key, x):
    """Not convex, and noisy as a minibatch would be."""
    noise = jax.random.normal(key, x["w"].shape)
    return jnp.sum(jnp.sin(x["w"] + 0.1 * noise) * x["w"]) + x["b"] ** 4 * jnp.sum(x["w"] ** 2)


def stack(*points):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-6, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def test_one_query_is_evaluated_as_a_plain_gradient_to_the_bit():
    task = Task.from_loss(loss, Problem(Space.free(), START))
    evaluation = jax.jit(lambda x: task.evaluate(jax.random.key(1), x))(stack(START))
    value, gradient = jax.jit(lambda x: jax.value_and_grad(loss, argnums=1)(jax.random.key(1), x))(START)
    assert_equal(evaluation, Evaluation(value[None], stack(gradient)))


def test_each_of_many_queries_has_its_own_gradient_and_randomness():
    task = Task.from_loss(loss, Problem(Space.free(), START))
    points = [START, START, jax.tree.map(lambda a: -2 * a, START)]
    evaluation = task.evaluate(jax.random.key(2), stack(*points))
    keys = jax.random.split(jax.random.key(2), 3)
    for i, point in enumerate(points):
        expected = jax.value_and_grad(loss, argnums=1)(keys[i], point)
        assert_close((evaluation.value[i], jax.tree.map(lambda a, i=i: a[i], evaluation.gradient)), expected)
    assert evaluation.value[0] != evaluation.value[1]


def test_with_horizon_changes_the_horizon_alone():
    task = Task.from_loss(loss, Problem(Space.free(), START, scale=0.3, horizon=7))
    longer = task.with_horizon(50)
    assert longer.problem.horizon == 50 and isinstance(longer.problem.horizon, jax.Array)
    assert longer.problem._replace(horizon=7) == task.problem
    assert longer.evaluate is task.evaluate and longer.measure is task.measure


def test_population_size():
    assert population_size({"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}) == 3
    assert population_size({}) == 1


@pytest.mark.parametrize("room", [l2o.OptimizerConfig, l2o.BaselineConfig])
def test_a_config_without_build_says_so(room):
    class Unbuilt(room):
        kind: str = "unbuilt"

    with pytest.raises(TypeError, match=r"Unbuilt does not define build\(\)"):
        Unbuilt().build()


# in_unit_cube

BOX = Space.box(
    {"w": jnp.array([[-5.0, 0.0], [1.0, 2.0]]), "b": jnp.array(-1.0)},
    {"w": jnp.array([[10.0, 0.5], [1.5, 200.0]]), "b": jnp.array(7.0)},
)


def bowl(key, x):
    del key
    return jnp.sum((x["w"] - 1.3) ** 2) + jnp.cos(x["b"])


def boxed_task(start=0.4):
    return Task.from_loss(bowl, Problem(BOX, BOX.from_unit(jax.tree.map(lambda a: jnp.full_like(a, start), BOX.low))))


def told(n):
    """An optimizer that walks through the cube and past its walls, and remembers all it was shown and told."""

    def init(key, problem):
        return problem, (), ()

    def ask(key, state):
        problem, *_ = state
        offsets = jnp.linspace(-0.7, 0.9, n)
        return jax.tree.map(lambda a: jnp.stack([a + offset for offset in offsets]), problem.start), state

    def tell(key, state, x, evaluation):
        return state[0], x, evaluation

    return Optimizer(init, ask, tell)


@pytest.mark.parametrize("n", [1, 4])
def test_the_inner_optimizer_lives_in_the_unit_cube(n):
    task, wrapped = boxed_task(), in_unit_cube(told(n))
    key = jax.random.split(jax.random.key(0), 4)
    state = wrapped.init(key[0], task.problem)
    x, state = wrapped.ask(key[1], state)
    assert jax.vmap(BOX.contains)(x).all()
    evaluation = task.evaluate(key[2], x)
    _, (problem, u, seen) = wrapped.tell(key[3], state, x, evaluation)

    assert_equal(problem.space, Space(jax.tree.map(jnp.zeros_like, BOX.low), jax.tree.map(jnp.ones_like, BOX.low)))
    assert_close(problem.start, jax.tree.map(lambda a: jnp.full_like(a, 0.4), BOX.low))
    assert_close(jax.vmap(BOX.from_unit)(u), x, rtol=1e-5)
    assert all(((a >= 0) & (a <= 1)).all() for a in jax.tree.leaves(u))
    assert_equal(seen.value, evaluation.value)
    for i in range(n):
        row = jax.tree.map(lambda a, i=i: a[i], u)
        # written without Space, and without its projection, whose derivative on a wall is not the chain rule's
        in_cube = jax.grad(
            lambda v: bowl(None, jax.tree.map(lambda s, lo, hi: lo + s * (hi - lo), v, BOX.low, BOX.high))
        )(row)
        assert_close(jax.tree.map(lambda a, i=i: a[i], seen.gradient), in_cube, rtol=1e-4, atol=1e-4)


def test_values_alone_reach_the_inner_optimizer():
    wrapped = in_unit_cube(told(3))
    key = jax.random.split(jax.random.key(0), 3)
    x, state = wrapped.ask(key[1], wrapped.init(key[0], boxed_task().problem))
    _, (_, _, seen) = wrapped.tell(key[2], state, x, Evaluation(jnp.array([1.0, jnp.nan, jnp.inf])))
    assert seen.gradient is None
    np.testing.assert_array_equal(seen.value, [1.0, jnp.nan, jnp.inf])


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 100.0])
def test_descent_in_the_cube_equals_descent_by_hand_and_stays_in_the_box(rate):
    task, wrapped = boxed_task(), in_unit_cube(from_optax(optax.sgd(rate)))
    state = wrapped.init(jax.random.key(0), task.problem)
    _, trajectory = jax.jit(lambda s: unroll(wrapped, task, s, jax.random.key(1), 6))(state)
    assert jax.vmap(jax.vmap(BOX.contains))(trajectory.x).all()

    low, high = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)]).astype(float) for tree in BOX[:2])
    u = np.full(5, 0.4)
    for t in range(6):
        x = low + u * (high - low)
        found = np.concatenate([np.ravel(a[t, 0]) for a in jax.tree.leaves(trajectory.x)])
        np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)
        gradient = np.append(-np.sin(x[0]), 2 * (x[1:] - 1.3))  # leaves are sorted by name: b before w
        u = np.clip(u - rate * gradient * (high - low), 0, 1)


def test_on_a_free_space_the_wrapper_changes_nothing():
    task = Task.from_loss(loss, Problem(Space.free(), START))
    plain = from_optax(optax.adam(0.05))

    def run(optimizer):
        state = optimizer.init(jax.random.key(0), task.problem)
        return jax.jit(lambda s: unroll(optimizer, task, s, jax.random.key(1), 8)[1])(state)

    assert_equal(run(in_unit_cube(plain)), run(plain))


def test_many_boxes_are_one_vmap():
    optimizer = in_unit_cube(from_optax(optax.sgd(0.01)))
    low = jnp.array([[-1.0, 0.0], [5.0, -9.0], [0.0, 0.5]])
    high = low + jnp.array([[1.0, 2.0], [3.0, 20.0], [0.5, 0.25]])

    def run(low, high):
        task = Task.from_loss(lambda key, x: jnp.sum((x - 0.2) ** 2), Problem(Space.box(low, high), (low + high) / 2))
        state = optimizer.init(jax.random.key(0), task.problem)
        return unroll(optimizer, task, state, jax.random.key(1), 5)[1].x

    batched = jax.vmap(run)(low, high)
    for i in range(3):
        np.testing.assert_allclose(batched[i], run(low[i], high[i]), rtol=1e-5, atol=1e-6)


def test_state_bytes_counts_what_is_kept_for_each_parameter():
    def lstm(**fields):
        network = LSTMConfig(**fields).build()
        return network.bind(network.init(jax.random.key(0)))

    expected = {
        "sgd": (from_optax(optax.sgd(0.1)), 0),
        "momentum": (from_optax(optax.sgd(0.1, momentum=0.9)), 4),
        "adam": (from_optax(optax.adam(0.1)), 8),
        "lstm": (lstm(), 2 * 20 * 2 * 4),
        "half": (lstm(state_dtype="bfloat16"), 2 * 20 * 2 * 2),
        "small": (lstm(layers=1, hidden=3), 3 * 2 * 4),
        "schedule": (from_optax(optax.adam(optax.linear_schedule(0.1, 0.0, 10))), 8),
    }
    assert {name: l2o.state_bytes(optimizer) for name, (optimizer, _) in expected.items()} == {
        name: size for name, (_, size) in expected.items()
    }
