"""Searches of mixed spaces do what was published, on every kind of coordinate, with failures, and under vmap."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import l2o
from l2o import Evaluation, Problem, Space, Task, UserError, unroll
from l2o.acquisition import maximise
from l2o.baselines.evosax import OneByOneConfig, SepCMAESConfig
from l2o.baselines.gp import GPUCBConfig
from l2o.baselines.grid import GridConfig, ShuffledGridConfig, draw
from l2o.baselines.mutation import HillClimbingConfig, RegularizedEvolutionConfig, mutate
from l2o.baselines.scatter import ScatterConfig
from l2o.baselines.search import SobolConfig
from l2o.space.domain import LINEAR, LOG, REVERSE_LOG
from l2o.space.moves import other_values
from l2o.wrappers.flat import flat_space


def mixed(*coordinates):
    """A space of coordinates (low, high, levels, scale, ordered)."""
    low, high, levels, scale, ordered = zip(*coordinates, strict=True)
    return Space.mixed(
        jnp.array(low, jnp.float32), jnp.array(high, jnp.float32), jnp.array(levels), jnp.array(scale),
        jnp.array(ordered),
    )  # fmt: skip


REAL, CATEGORY = (-2.0, 3.0, 0, LINEAR, True), (0.0, 2.0, 3, LINEAR, False)
LOGARITHMIC, WHOLE = (1e-4, 1.0, 0, LOG, True), (2.0, 5.0, 4, LINEAR, True)
ONE = (0.0, 0.0, 1, LINEAR, False)
STEEP = (1.0, 64.0, 64, LOG, True)
THREE = mixed(REAL, CATEGORY, LOGARITHMIC)
ALL = mixed(REAL, ONE, CATEGORY, WHOLE, STEEP, (1e-3, 1.0, 0, REVERSE_LOG, True), (1.0, 9.0, 9, LOG, True))
BOX = Space.box({"a": jnp.array([-1.0, 0.0]), "b": jnp.float32(2.0)}, {"a": jnp.ones(2), "b": jnp.float32(7.0)})
SINGLE = [mixed(LOGARITHMIC), mixed(CATEGORY), mixed(ONE)]
KINDS = (
    "random", "grid", "shuffled_grid", "hill_climbing", "regularized_evolution", "eagle", "evolution_strategy",
    "scatter",
)  # fmt: skip
TEACHERS = {kind: l2o.kinds(l2o.BaselineConfig)[kind]() for kind in KINDS}
every_teacher = pytest.mark.parametrize("kind", TEACHERS)


def problem(space, horizon=20):
    centre = jax.tree.map(lambda a: jnp.full_like(a, 0.5), space.low)
    return Problem(space, space.from_unit(centre), 1.0, jnp.asarray(horizon))


def sphere(space):
    """The squared distance from a point of the unit cube; a wrong category costs as much as a third of its width."""
    flat = flat_space(space)
    optimum = jnp.linspace(0.3, 0.7, flat.levels.size)

    def value(x):
        x = jax.flatten_util.ravel_pytree(x)[0]
        u = flat.to_unit(x)
        wrong = x != flat.from_unit(optimum)
        return jnp.sum(jnp.where(flat.ordered, (u - optimum) ** 2, jnp.where(wrong, 0.1, 0.0)))

    return value


def player(optimizer, f=None, steps=20, horizon=None):
    """`(space, key) -> (X[T, ...], values [T])`, a run of an optimizer that asks for one point at a time."""

    def play(space, key):
        value = jax.vmap(f or sphere(space))
        task = Task(problem(space, steps if horizon is None else horizon), lambda key, x: Evaluation(value(x)))
        init_key, run_key = jax.random.split(key)
        trajectory = unroll(optimizer, task, optimizer.init(init_key, task.problem), run_key, steps)[1]
        return jax.tree.map(lambda a: a[:, 0], trajectory.x), trajectory.evaluation.value[:, 0]

    return play


def run(optimizer, space, f=None, steps=20, seed=0, horizon=None):
    """One run, or one for each of several seeds."""
    play = player(optimizer, f, steps, horizon)
    if isinstance(seed, int):
        return jax.jit(play)(space, jax.random.key(seed))
    return jax.jit(jax.vmap(play, (None, 0)))(space, jax.vmap(jax.random.key)(jnp.asarray(seed)))


@every_teacher
@pytest.mark.parametrize("space", [ALL, pytest.param(BOX, marks=pytest.mark.slow)], ids=["mixed", "box"])
def test_proposals_lie_in_the_space_whatever_fails(kind, space):
    def failing(x):
        value = sphere(space)(x)
        return jnp.where(value > 0.3, jnp.nan, jnp.where(value < 0.1, jnp.inf, value))

    x, _ = run(TEACHERS[kind].build(), space, failing, 40)
    assert jax.vmap(space.contains)(x).all()


@pytest.mark.parametrize(
    "kind",
    [k if k in ("eagle", "hill_climbing", "gp_ucb") else pytest.param(k, marks=pytest.mark.slow) for k in TEACHERS],
)
def test_many_runs_at_once_are_the_runs_one_by_one(kind):
    """Of spaces of one coordinate: a real number, a category, and a category that leaves no choice."""
    play = player(TEACHERS[kind].build(), steps=40)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    many, one = jax.jit(jax.vmap(play))(jax.tree.map(lambda *a: jnp.stack(a), *SINGLE), keys), jax.jit(play)
    for i, space in enumerate(SINGLE):
        single = one(space, jax.random.key(i))
        assert jax.vmap(space.contains)(single[0]).all()
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, 1e-4, 1e-4), many, single)


@pytest.mark.parametrize("kind", [kind for kind in TEACHERS if kind != "evolution_strategy"])
def test_no_bounds_are_refused(kind):
    with pytest.raises(UserError, match=f"{kind} needs a space with bounds"):
        TEACHERS[kind].build().init(jax.random.key(0), Problem(Space.free(), jnp.zeros(2)))


# --- grids


def rows(x):
    return [tuple(row) for row in np.asarray(x).tolist()]


@pytest.mark.parametrize(
    ("horizon", "resolution", "reals"),
    [(48, None, 2), (49, None, 3), (12 * 25, None, 5), (5, 3, 3), (10**9, None, 100)],
)
def test_the_grid_is_just_large_enough(horizon, resolution, reals):
    space = mixed(REAL, WHOLE, CATEGORY, LOGARITHMIC, ONE)
    state = GridConfig(resolution=resolution).build().init(jax.random.key(0), problem(space, horizon))
    np.testing.assert_array_equal(state.inner.grid.sizes, [reals, 4, 3, reals, 1])


def test_the_grid_is_visited_in_order_and_again():
    space = mixed(REAL, CATEGORY, LOGARITHMIC, ONE)
    expected = itertools.product([0.0], [1e-4, 1e-2, 1.0], [0.0, 1.0, 2.0], [-2.0, 0.5, 3.0])
    expected = [row[::-1] for row in expected]
    x, _ = run(GridConfig(resolution=3).build(), space, steps=30)
    np.testing.assert_allclose(x, [*expected, *expected[:3]], rtol=1e-5, atol=1e-6)


def test_many_whole_numbers_are_thinned_out():
    space = mixed((1.0, 397.0, 397, LINEAR, True))
    x, _ = run(GridConfig().build(), space, steps=101)
    np.testing.assert_array_equal(x[:, 0], [*range(1, 398, 4), 1])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shuffled_grid_is_a_permutation_of_the_grid_each_time(seed):
    space = mixed(REAL, CATEGORY, WHOLE)
    ordered, _ = run(GridConfig().build(), space, steps=24)
    x, _ = run(ShuffledGridConfig().build(), space, steps=48, seed=seed, horizon=24)
    first, second = rows(x[:24]), rows(x[24:])
    assert sorted(first) == sorted(second) == sorted(rows(ordered))
    assert first != rows(ordered) and first != second


def test_every_order_of_the_shuffled_grid_is_as_likely():
    x, _ = run(ShuffledGridConfig().build(), mixed(CATEGORY), steps=3, seed=range(3000))
    orders = [tuple(row) for row in np.asarray(x)[:, :, 0].tolist()]
    counts = np.array([orders.count(order) for order in itertools.permutations([0.0, 1.0, 2.0])])
    assert counts.sum() == 3000
    assert ((counts - 500) ** 2 / 500).sum() < 20.5  # chi-squared of 5 degrees of freedom: 0.999


def test_a_huge_grid_is_not_repeated():
    space = mixed(*[(0.0, 9.0, 10, LINEAR, True)] * 12)
    x, _ = run(ShuffledGridConfig(max_trials=300).build(), space, steps=300)
    assert len(set(rows(x))) == 300
    assert (np.asarray(x).std(0) > 2).all()  # of all ten values in every coordinate: 2.9


def test_what_the_shuffled_grid_remembers_is_bounded():
    x, _ = run(ShuffledGridConfig(max_trials=4).build(), mixed(WHOLE, WHOLE), steps=40)
    for four in np.asarray(x).reshape(10, 4, 2):
        assert len(set(rows(four))) == 4
    assert len(set(rows(x))) > 8


@settings(deadline=None, max_examples=50)
@given(st.sets(st.integers(0, 9), max_size=9), st.integers(0, 1000))
def test_a_draw_is_new_and_kept_in_order(seen, seed):
    largest = np.iinfo(np.int32).max
    before = jnp.array(sorted(seen) + [largest] * (10 - len(seen)), jnp.int32)
    index, after = draw(jax.random.key(seed), before, jnp.asarray(len(seen)), jnp.asarray(10))
    assert int(index) in set(range(10)) - seen
    np.testing.assert_array_equal(after, sorted([*seen, int(index)]) + [largest] * (9 - len(seen)))


# --- mutations


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_a_mutation_changes_one_coordinate(seed):
    space = ALL
    point_key, key = jax.random.split(jax.random.key(seed))
    x = space.sample(point_key)
    new = mutate(key, space, x)
    changed = np.flatnonzero(np.asarray(new != x))
    assert len(changed) == 1 and changed[0] != 1  # which has one value
    assert space.contains(new)


def test_mutations_choose_coordinates_and_values_uniformly():
    space = mixed(CATEGORY, ONE, STEEP)
    x = jnp.array([1.0, 0.0, 8.0])
    new = np.asarray(jax.vmap(lambda key: mutate(key, space, x))(jax.random.split(jax.random.key(0), 20_000)))
    first, last = new[:, 0] != 1, new[:, 2] != 8
    assert (first ^ last).all() and (new[:, 1] == 0).all()
    assert abs(first.mean() - 0.5) < 0.02
    assert abs((new[first, 0] == 0).mean() - 0.5) < 0.02
    # shares of the unit interval, without that of 8
    u = (
        np.asarray(space.to_unit(jnp.stack([jnp.zeros(3), jnp.full(3, 7.5), jnp.full(3, 8.5)])[1:][0])),
        np.asarray(space.to_unit(jnp.full(3, 8.5))),
    )
    below = u[0][2] / (1 - u[1][2] + u[0][2])
    assert abs((new[last, 2] < 8).mean() - below) < 0.02


def test_other_values_of_the_only_value_and_at_the_ends_are_valid():
    space = ALL
    for seed, x in enumerate((space.low, space.high)):
        keys = jax.random.split(jax.random.key(seed), 500)
        new = jax.vmap(lambda key, x=x: other_values(key, space, x))(keys)
        assert jax.vmap(space.contains)(new).all()
        discrete = np.asarray(space.levels) > 1
        assert (np.asarray(new != x[None])[:, discrete]).all()


def test_hill_climbing_mutates_the_best_and_keeps_it_on_a_tie():
    space = ALL
    for f in (sphere(space), lambda x: jnp.round(sphere(space)(x), 1)):
        x, values = map(np.asarray, run(HillClimbingConfig().build(), space, f, 60))
        best, lowest = x[0], values[0]
        for point, value in zip(x[1:], values[1:], strict=True):
            assert (point != best).sum() == 1
            if value < lowest:
                best, lowest = point, value
        assert lowest < values[0]


def test_hill_climbing_is_random_until_something_succeeds():
    space = mixed(REAL, LOGARITHMIC)
    x, _ = run(HillClimbingConfig().build(), space, lambda x: jnp.where(x[0] > -99, jnp.nan, 0.0), 10)
    assert all(len(np.unique(column)) == 10 for column in np.asarray(x).T)


def test_regularized_evolution_mutates_winners_and_the_oldest_dies():
    space = ALL
    members, entering = 6, 3
    optimizer = RegularizedEvolutionConfig(population_size=members, tournament_size=entering).build()
    x, values = map(np.asarray, run(optimizer, space, steps=200))
    ranks = []
    for t in range(members, 200):
        alive, fitness = x[t - members : t], values[t - members : t]
        parents = np.flatnonzero((x[t][None] != alive).sum(1) == 1)
        assert parents.size  # of one that is alive
        if parents.size == 1:
            ranks.append((fitness < fitness[parents[0]]).sum())
    # the rank of the best of k independent entries
    expected = sum(((members - r) / members) ** entering for r in range(1, members))
    assert abs(np.mean(ranks) - expected) < 0.35
    distinct = [len(np.unique(x[:members, j])) for j in (0, 5)]
    assert distinct == [members, members]  # the first ones are random
    assert values[-50:].mean() < values[:members].mean()


def test_a_failed_member_never_wins():
    space = mixed(REAL, REAL)
    optimizer = RegularizedEvolutionConfig(population_size=4, tournament_size=64).build()
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        x, values = run(optimizer, space, lambda x, bad=bad: jnp.where(x[0] > 0, bad, jnp.sum(x**2)), 80)
        x, values = np.asarray(x), np.asarray(values)
        for t in range(4, 80):
            alive, fitness = x[t - 4 : t], values[t - 4 : t]
            if np.isfinite(fitness).any():
                winner = alive[np.argmin(np.where(np.isfinite(fitness), fitness, np.inf))]
                assert (x[t] != winner).sum() == 1


def test_scattered_points_are_anywhere_near_any_or_near_the_best():
    space, optimizer = mixed(REAL, LOGARITHMIC, CATEGORY), ScatterConfig(max_trials=64).build()
    x, values = map(np.asarray, run(optimizer, space, steps=40, seed=range(512)))
    u = np.asarray(jax.vmap(jax.vmap(space.to_unit))(x))
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed))[0])(jnp.arange(512))
    begun = jax.vmap(lambda key: optimizer.init(key, problem(space)).inner)(keys)
    anywhere, greedy = np.asarray(begun.anywhere), np.asarray(begun.greedy)
    place = np.array([[int(np.argmin(row[: t + 1])) for t in range(39)] for row in values])
    apart = np.abs(u[:, None, :, :2] - u[:, :, None, :2]).max(-1)  # of the numbers, by trial and earlier trial
    near = np.array([[apart[i, t + 1, place[i, t]] < 0.05 for t in range(39)] for i in range(512)]).mean(1)
    any_near = np.array([[apart[i, t + 1, : t + 1].min() < 0.05 for t in range(39)] for i in range(512)]).mean(1)
    assert np.corrcoef(near, (1 - anywhere) * greedy)[0, 1] > 0.8
    assert np.corrcoef(any_near, 1 - anywhere)[0, 1] > 0.7
    assert ((u >= 0) & (u <= 1)).all() and (anywhere.max(), greedy.min()) == pytest.approx((1, 0), abs=0.02)


def test_what_a_scatter_remembers_is_bounded():
    x, _ = run(ScatterConfig(max_trials=2).build(), THREE, steps=12)
    assert jax.vmap(THREE.contains)(x).all()
    optimizer = ScatterConfig(max_trials=2).build()
    state = optimizer.init(jax.random.key(0), problem(THREE))
    points = jax.vmap(THREE.sample)(jax.random.split(jax.random.key(1), 5))
    state = optimizer.tell(jax.random.key(0), state, points, Evaluation(jnp.arange(5.0)))
    assert set(rows(state.inner.x)) == set(rows(points[-2:]))
    np.testing.assert_array_equal(np.sort(state.inner.value), [3.0, 4.0])


def test_evolution_is_told_more_than_its_population_at_once():
    space = mixed(REAL)
    optimizer = RegularizedEvolutionConfig(population_size=3).build()
    state = optimizer.init(jax.random.key(0), problem(space))
    x = jnp.linspace(-2, 3, 8)[:, None]
    state = optimizer.tell(jax.random.key(0), state, x, Evaluation(jnp.arange(8.0))).inner
    np.testing.assert_array_equal(np.sort(state.value), [5, 6, 7])
    assert int(state.born) == 8 and float(state.value[8 % 3]) == 5


# --- evolution strategies, point by point


def test_point_by_point_the_generations_are_those_of_the_strategy():
    space, members, f = THREE, 6, jax.vmap(sphere(THREE))
    population = SepCMAESConfig(population_size=members).build()
    single = OneByOneConfig(population_size=members).build()
    ask_one, tell_one, ask, tell = (jax.jit(g) for g in (single.ask, single.tell, population.ask, population.tell))
    state, one = (optimizer.init(jax.random.key(0), problem(space)) for optimizer in (population, single))
    for generation in range(4):
        ask_keys, tell_keys = (jax.random.split(jax.random.key(10 * generation + i), members) for i in (1, 2))
        x, state = ask(jax.random.clone(ask_keys)[0], state)
        state = tell(jax.random.split(jax.random.clone(tell_keys)[-1], 1)[0], state, x, Evaluation(f(x)))
        for i in range(members):
            point, one = ask_one(ask_keys[i], one)
            np.testing.assert_allclose(point[0], x[i], rtol=1e-5, atol=1e-6)
            one = tell_one(tell_keys[i], one, point, Evaluation(f(point)))


def test_results_out_of_order_and_several_at_once_make_generations():
    asked, told = [], []

    def ask(key, state):
        asked.append(state)
        return state + jnp.arange(3.0), state

    def tell(key, state, x, evaluation):
        told.append((np.asarray(x), np.asarray(evaluation.value)))
        return state + 10

    optimizer = l2o.one_at_a_time(l2o.Optimizer(lambda key, problem: jnp.float32(0.0), ask, tell))
    with jax.disable_jit():
        state, points = optimizer.init(jax.random.key(0), problem(THREE)), []
        for i in range(5):
            x, state = optimizer.ask(jax.random.key(i), state)
            points.append(x)
        np.testing.assert_array_equal(jnp.concatenate(points), [0, 1, 2, 0, 1])  # nothing was told in between
        for i, j in ((4, 1), (0, 3)):
            x = jnp.concatenate([points[i], points[j]])
            state = optimizer.tell(jax.random.key(i), state, x, Evaluation(100 * x))
        ((x, values),) = told
        np.testing.assert_array_equal(x, [1, 1, 0])
        np.testing.assert_array_equal(values, [100, 100, 0])
        for expected in (2, 10):
            x, state = optimizer.ask(jax.random.key(expected), state)
            np.testing.assert_array_equal(x, [expected])


# --- Gaussian processes


@pytest.mark.slow
@pytest.mark.parametrize("spaces", [[ALL], SINGLE], ids=["mixed", "single"])
def test_gp_ucb_proposes_points_of_the_space_whatever_fails(spaces):
    optimizer = GPUCBConfig(max_trials=8, first="centre", initial=1, fit_steps=2, candidates=16, ascent_steps=2).build()
    play = player(optimizer, lambda x: jnp.where(x[0] > 0.5, jnp.nan, x[0]), steps=12)
    stacked, keys = jax.tree.map(lambda *a: jnp.stack(a), *spaces), jax.vmap(jax.random.key)(jnp.arange(len(spaces)))
    x, _ = jax.jit(jax.vmap(play))(stacked, keys)
    for points, space in zip(x, spaces, strict=True):
        assert jax.vmap(space.contains)(points).all()


def test_the_centre_may_come_before_the_design():
    space = mixed(REAL, LOGARITHMIC, WHOLE)
    x, _ = run(GPUCBConfig(max_trials=8, first="centre", initial=3).build(), space, steps=3)
    design, _ = run(SobolConfig(max_trials=3).build(), space, steps=3)
    np.testing.assert_allclose(x[0], [0.5, 1e-2, 4.0], rtol=1e-5)
    np.testing.assert_array_equal(x[1:], design[1:])


def test_the_acquisition_is_that_of_points_that_can_be_evaluated():
    space = mixed((0.0, 1.0, 0, LINEAR, True), (0.0, 3.0, 4, LINEAR, True), (0.0, 2.0, 3, LINEAR, False))
    top, seen = jnp.array([0.123, 0.3, 5 / 6]), []

    def score(u):
        seen.append(u)
        return -jnp.sum((u - top[None]) ** 2, 1)

    found = maximise(jax.random.key(0), score, jnp.full((2, 3), 0.5), candidates=256, steps=40, space=space)
    np.testing.assert_allclose(found, [0.123, 0.375, 5 / 6], atol=1e-2)
    scored = np.concatenate([np.asarray(u) for u in seen if not isinstance(u, jax.core.Tracer)])
    assert len(scored) > 256
    np.testing.assert_allclose(np.abs(scored[:, 1:2] - np.array([1, 3, 5, 7]) / 8).min(1), 0, atol=1e-6)


def test_where_points_can_be_counted_gp_ucb_does_not_repeat_them():
    optimizer = GPUCBConfig(max_trials=12, initial=1, fit_steps=2, candidates=64, ascent_steps=2).build()
    x, _ = run(optimizer, mixed(CATEGORY, WHOLE), steps=12)
    assert len(set(rows(x))) == 12


@pytest.mark.slow
def test_searches_that_look_at_values_beat_random_search():
    best, settings = {}, {"fit_steps": 5, "candidates": 128, "ascent_steps": 10}
    published = GPUCBConfig(max_trials=40, first="centre", initial=1, beta=3.24, **settings)
    for kind in ("random", "hill_climbing", "eagle", "evolution_strategy", "gp_ucb"):
        config = published if kind == "gp_ucb" else TEACHERS[kind]
        x, values = run(config.build(), THREE, steps=40, seed=range(32))
        best[kind] = np.median(np.asarray(values).min(1))
    np.testing.assert_allclose(x[:, 0], np.tile([[0.5, 1.0, 1e-2]], (32, 1)), rtol=1e-5)
    assert len(np.unique(x[:, 1, 0])) > 1  # the model's, from the second one on
    random, gp_ucb = best.pop("random"), best.pop("gp_ucb")
    assert max(best.values()) < 0.5 * random
    assert gp_ucb < 0.1 * min(best.values())
