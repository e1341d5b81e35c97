import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import l2o
from l2o import Evaluation, Problem, Space, Task, unroll
from l2o.acquisition import quasi_random
from l2o.blackbox.rnn import RNNConfig, into_box

SMALL = {"hidden": 8, "pooled": 4, "max_trials": 16, "candidates": 6}
VARIANTS = {
    "shared": RNNConfig(**SMALL),
    "paper": RNNConfig(**SMALL | {"candidates": 0}),
    "joint": RNNConfig(weights="joint", layers=2, **SMALL),
    "parallel": RNNConfig(parallel=True, **SMALL),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)


@functools.cache
@functools.partial(jax.jit, static_argnums=0)
def theta_of(config):
    """Weights that differ from zero everywhere, biases too."""
    theta = config.build().init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


def bowl(x):
    return jnp.sum((x - 0.3) ** 2)


def play(config, d, f=bowl, steps=20, low=0.0, high=1.0, seed=0, theta=None):
    """The queries [steps, d] of a run."""
    space = Space.box(jnp.full(d, low), jnp.full(d, high))
    problem = Problem(space, jnp.full(d, (low + high) / 2), horizon=jnp.asarray(steps))
    task = Task(problem, lambda key, x: Evaluation(jax.vmap(f)(x)))
    optimizer = config.build().bind(theta_of(config) if theta is None else theta)

    @jax.jit
    def go(key):
        init_key, run_key = jax.random.split(key)
        return unroll(optimizer, task, optimizer.init(init_key, problem), run_key, steps)

    if isinstance(seed, int):
        state, trajectory = go(jax.random.key(seed))
        return state, np.asarray(trajectory.x[:, 0])
    return [np.asarray(go(jax.random.key(s))[1].x[:, 0]) for s in seed]


@functools.cache
def in_units(name, d=2, steps=12):
    """`(factor, shift, low, width) -> queries` of a run on a bowl in these units, one program for all of them."""
    theta = theta_of(VARIANTS[name])

    @jax.jit
    def go(factor, shift, low, width):
        space = Space.box(jnp.full(d, low), jnp.full(d, low + width))
        problem = Problem(space, jnp.full(d, low + width / 2), horizon=jnp.asarray(steps))
        task = Task(problem, lambda key, x: Evaluation(factor * jax.vmap(bowl)((x - low) / width) + shift))
        optimizer = VARIANTS[name].build().bind(theta)
        init_key, run_key = jax.random.split(jax.random.key(0))
        return unroll(optimizer, task, optimizer.init(init_key, problem), run_key, steps)[1].x[:, 0]

    def queries(factor=1.0, shift=0.0, low=0.0, width=1.0):
        return np.asarray(go(*map(jnp.float32, (factor, shift, low, width))))

    return queries


@pytest.mark.parametrize(("name", "d"), [*((name, 3) for name in VARIANTS), ("shared", 1), ("shared", 6)])
def test_one_theta_serves_every_dimension_and_stays_in_the_box(name, d):
    _, x = play(VARIANTS[name], d, lambda x: bowl(x / 100), low=-2.0, high=50.0)
    assert x.shape == (20, d) and (x >= -2).all() and (x <= 50).all()
    assert len(np.unique(x, axis=0)) > 10


@every_variant
def test_more_dimensions_than_it_knows_are_refused_in_a_sentence(name):
    with pytest.raises(l2o.UserError, match=r"takes up to 6 dimensions .* the space has 7"):
        play(VARIANTS[name], 7)


def test_a_free_space_is_refused():
    config = VARIANTS["shared"]
    with pytest.raises(l2o.UserError, match="needs a space with bounds"):
        config.build().bind(theta_of(config)).init(jax.random.key(0), Problem(Space.free(), jnp.zeros(2)))


@every_variant
@pytest.mark.parametrize(("factor", "shift"), [(1024.0, 0.0), (2.0**-20, 0.0), (4.0, 64.0)])
def test_the_units_of_the_values_do_not_matter(name, factor, shift):
    """Powers of two, so that hardly anything is rounded differently and no near tie is decided otherwise."""
    plain, scaled = in_units(name)(), in_units(name)(factor=factor, shift=shift)
    np.testing.assert_allclose(scaled, plain, atol=1e-3)


@every_variant
def test_the_box_does_not_matter(name):
    unit, other = in_units(name)(), in_units(name)(low=-8.0, width=32.0)
    np.testing.assert_allclose((other + 8) / 32, unit, atol=1e-4)


def test_shared_weights_do_not_see_the_order_of_coordinates():
    config, order = VARIANTS["shared"], jnp.array([2, 0, 1])
    optimizer = config.build().bind(theta_of(config))
    problem = Problem(Space.box(jnp.zeros(3), jnp.ones(3)), jnp.full(3, 0.5), horizon=jnp.asarray(9))
    space, state = optimizer.init(jax.random.key(0), problem)
    turned = state._replace(shift=state.shift[order], seen=state.seen._replace(best_x=state.seen.best_x[order]))
    states, tell = [(space, state), (space, turned)], jax.jit(optimizer.tell)
    points = jax.random.uniform(jax.random.key(1), (5, 3))
    for i, x in enumerate(points):
        for j, query in enumerate((x, x[order])):
            value = Evaluation(jnp.array([float(i % 3) - 0.1 * i]))
            states[j] = tell(jax.random.key(2), states[j], query[None], value)
    (h, c), (h_turned, c_turned) = states[0][1].hidden[0], states[1][1].hidden[0]
    np.testing.assert_allclose(h[:, order], h_turned, atol=1e-5)
    np.testing.assert_allclose(c[:, order], c_turned, atol=1e-5)
    assert not np.allclose(h, h_turned, atol=1e-2)


@every_variant
def test_failed_evaluations_are_lived_with(name):
    """Everything on the right half fails: no failure becomes the best point, and the state stays finite."""
    state, x = play(VARIANTS[name], 2, lambda x: jnp.where(x[0] > 0.5, jnp.nan, bowl(x)))
    seen = state[1].seen
    finite = x[:, 0] <= 0.5
    assert finite.any() and (~finite).any()
    values = ((x[finite] - 0.3) ** 2).sum(1)
    np.testing.assert_allclose(seen.best, values.min(), rtol=1e-5)
    assert seen.total == finite.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32)


def test_a_failure_counts_as_the_worst_value_once_there_is_one():
    config = VARIANTS["shared"]
    optimizer = config.build().bind(theta_of(config))
    state = optimizer.init(jax.random.key(0), Problem(Space.box(jnp.zeros(1), jnp.ones(1)), jnp.full(1, 0.5)))
    tell = jax.jit(optimizer.tell)
    for i, value in enumerate([jnp.nan, 1e6, 2e6, jnp.inf]):
        x = jnp.full((1, 1), 0.2 * i)
        state = tell(jax.random.key(i), state, x, Evaluation(jnp.array([value])))
    memory = state[1].memory
    assert memory.used == 3
    np.testing.assert_allclose(memory.y[:3] + memory.offset, [1e6, 2e6, 2e6])


@every_variant
def test_only_failures(name):
    state, x = play(VARIANTS[name], 2, lambda x: jnp.nan * x[0])
    assert np.isfinite(x).all() and np.isinf(state[1].seen.best) and state[1].seen.total == 0


def test_equal_values_are_lived_with():
    _, x = play(VARIANTS["shared"], 2, lambda x: 0.0 * x[0] + 7)
    assert np.isfinite(x).all()


def test_only_the_parallel_variant_reads_what_it_proposes():
    for name, changes in (("shared", False), ("parallel", True)):
        optimizer = VARIANTS[name].build().bind(theta_of(VARIANTS[name]))
        problem = Problem(Space.box(jnp.zeros(2), jnp.ones(2)), jnp.full(2, 0.5))
        before = optimizer.init(jax.random.key(0), problem)
        ask = jax.jit(optimizer.ask)
        first, after = ask(jax.random.key(1), before)
        second, _ = ask(jax.random.key(2), after)
        assert (not np.array_equal(before[1].hidden[0][0], after[1].hidden[0][0])) == changes
        assert not np.allclose(first, second), "a second proposal before the first result is another one"


@pytest.mark.parametrize("name", ["shared", "paper", "joint"])
def test_fresh_proposals_do_not_crowd_the_centre(name):
    """First points of many runs are uniform, the borders included, as far as a test of 300 can tell."""
    config = VARIANTS[name]
    optimizer, theta = config.build(), config.build().init(jax.random.key(0))
    problem = Problem(Space.box(jnp.zeros(2), jnp.ones(2)), jnp.full(2, 0.5))

    def first(key):
        init_key, ask_key = jax.random.split(key)
        bound = optimizer.bind(theta)
        return bound.ask(ask_key, bound.init(init_key, problem))[0][0]

    x = np.asarray(jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(3), 300)))
    for column in x.T:
        assert stats.kstest(column, "uniform").statistic < 0.12
    assert (x < 0.1).mean() > 0.05 and (x > 0.9).mean() > 0.05


# what "paper" has, "shared" has, too, and "joint" has no other way to a proposal
@pytest.mark.parametrize(
    "name", [n if n in ("shared", "parallel") else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]
)
def test_backprop_equals_finite_differences_along_a_run(name):
    """In float64; the choice among candidates is a constant, and no proposal sits where the box cuts it off."""
    config = VARIANTS[name]
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda a: 0.1 * a.astype(jnp.float64), theta_of(config))
        problem = Problem(
            Space.box(jnp.zeros(2, jnp.float64), jnp.ones(2, jnp.float64)), jnp.full(2, 0.5, jnp.float64),
            horizon=jnp.asarray(5),
        )  # fmt: skip
        task = Task(problem, lambda key, x: Evaluation(jax.vmap(bowl)(x)))

        def loss(theta):
            optimizer = config.build().bind(theta)
            state = optimizer.init(jax.random.key(4), problem)
            _, run = unroll(optimizer, task, state, jax.random.key(5), 5)
            return jnp.sum(run.evaluation.value), run.x

        (_, x), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(theta)
        if np.asarray(x).min() <= 0 or np.asarray(x).max() >= 1:
            pytest.skip("a proposal lies on the border")
        leaves, tree = jax.tree.flatten(theta)
        keys = jax.random.split(jax.random.key(6), len(leaves))
        direction = [jax.random.normal(k, a.shape, jnp.float64) for k, a in zip(keys, leaves, strict=True)]
        slope = sum(jnp.vdot(g, u) for g, u in zip(jax.tree.leaves(gradient), direction, strict=True))
        step, loss = 1e-6, jax.jit(loss)
        up, down = (
            loss(tree.unflatten([a + s * step * u for a, u in zip(leaves, direction, strict=True)]))[0] for s in (1, -1)
        )
        assert abs(slope) > 1e-4
        np.testing.assert_allclose((up - down) / (2 * step), slope, rtol=1e-4)


def test_the_derivative_at_the_border_vanishes_only_outwards():
    z = jnp.array([-0.5, -0.5, 0.5, 1.5, 1.5])
    pull = jnp.array([1.0, -1.0, 1.0, 1.0, -1.0])  # gradients of a loss: it would move the other way
    found = jax.grad(lambda z: jnp.sum(pull * into_box(z)))(z)
    assert found.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]
    assert into_box(z).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_the_quasi_random_points_cover_the_cube_better_than_random_ones():
    points = jax.jit(jax.vmap(lambda i: quasi_random(jnp.array([0.2, 0.7]), i)))(jnp.arange(256))
    ours = stats.qmc.discrepancy(np.asarray(points, np.float64))
    random = np.mean([stats.qmc.discrepancy(np.random.default_rng(i).random((256, 2))) for i in range(5)])
    assert ours < random / 4


def test_the_memory_helps_even_before_training():
    """Random weights, a bowl: choosing among candidates by expected improvement comes closer."""
    theta = {n: VARIANTS[n].build().init(jax.random.key(0)) for n in ("shared", "paper")}
    best = {
        name: np.mean([((x - 0.3) ** 2).sum(1).min() for x in play(VARIANTS[name], 3, seed=range(3), theta=t)])
        for name, t in theta.items()
    }
    assert best["shared"] < 0.5 * best["paper"]
