"""Learned strategies as evosax algorithms, evosax's weights as ours, and that its files run nothing."""

import os
import pickle
from functools import cache, partial
from pathlib import Path

import evosax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms import LearnedES
from evosax.core.fitness_shaping import centered_rank_fitness_shaping_fn
from evosax.core.restart import IPOPRestart, RestartParams, SimpleRestart, spread_cond
from jax.flatten_util import ravel_pytree

import l2o
from l2o import Evaluation, Problem, Space, UserError, from_evosax, unroll
from l2o.evolution.les import LESConfig
from l2o.evolution.lga import LGAConfig
from l2o.interop.evosax_weights import les_from_evosax
from l2o.loaded import Loaded

WEIGHTS = Path(evosax.__file__).parent / "algorithms" / "ckpt" / "les"
SOLUTION = {"a": jnp.zeros(2), "b": jnp.zeros((2, 1))}
START = {"a": jnp.array([1.0, -0.5]), "b": jnp.array([[0.3], [2.0]])}


@cache
def loaded(kind):
    """An optimizer with weights that matter, as `l2o.load` returns them."""
    if kind == "evosax":
        return Loaded(*les_from_evosax(), {}, [], "")
    config = l2o.kinds(l2o.OptimizerConfig)[kind]()
    shapes, random = jax.eval_shape(config.build().init, jax.random.key(0)), np.random.default_rng(0)
    theta = jax.tree.map(lambda a: jnp.asarray(0.3 * random.normal(size=a.shape), jnp.float32), shapes)
    return Loaded(config, theta, {}, [], "")


@cache
def algorithm(kind, size=6):
    return loaded(kind).evosax(population_size=size, solution=SOLUTION)


def value_of(x):
    return sum(jnp.sum((leaf - 0.7) ** 2 + 0.3 * jnp.cos(5 * leaf), tuple(range(1, leaf.ndim))) for leaf in x.values())


def begin(es, key, params, value_of=value_of):
    """As each family of evosax begins."""
    if hasattr(es, "get_mean"):
        return es.init(key, START, params)
    draw_key, init_key = jax.random.split(key)
    flat, unravel = ravel_pytree(START)
    x = jax.vmap(unravel)(flat[None] + jax.random.normal(draw_key, (es.population_size, flat.size)))
    return es.init(init_key, x, value_of(x), params)


def play(es, params, key, count, value_of=value_of):
    """evosax's loop as a scan; the last state, and the values and the best of each generation."""

    def body(state, key):
        ask_key, tell_key = jax.random.split(key)
        x, state = es.ask(ask_key, state, params)
        value = value_of(x)
        state, metrics = es.tell(tell_key, x, value, state, params)
        return state, (value, metrics["best_fitness"])

    first, rest = jax.random.split(key)
    return jax.lax.scan(body, begin(es, first, params, value_of), jax.random.split(rest, count))


FORMS = pytest.mark.parametrize("kind", ["evosax", "les", "lga"])


# --- the form


@pytest.mark.slow
@FORMS
def test_it_has_what_evosaxs_users_use(kind):
    es = algorithm(kind)
    assert es.population_size == 6 and es.num_dims == 4 and es.solution is SOLUTION
    params = es.default_params.replace(std_init=0.2)
    state = begin(es, jax.random.key(0), params)
    np.testing.assert_allclose(state.std, np.full_like(state.std, 0.2), rtol=1e-6)
    x, state = es.ask(jax.random.key(1), state, params)
    assert jax.tree.map(jnp.shape, x) == {"a": (6, 2), "b": (6, 2, 1)}
    told, metrics = es.tell(jax.random.key(2), x, value_of(x), state, params)
    assert metrics["best_fitness"] == told.best_fitness == min(state.best_fitness, value_of(x).min())
    assert told.generation_counter == 1 and told.best_solution.shape == (4,)
    if hasattr(es, "get_mean"):
        assert jax.tree.map(jnp.shape, es.get_mean(told)) == jax.tree.map(jnp.shape, START)
        assert state.std.shape == (4,) and "mean" in metrics
    else:
        best = jax.tree.map(lambda a: a[None], es.get_best_solution(told))
        assert float(value_of(best)[0]) == pytest.approx(float(told.fitness.min()), rel=1e-5)
        assert jax.tree.map(jnp.shape, es.get_population(told)) == jax.tree.map(jnp.shape, x)


@FORMS
def test_a_plain_loop_equals_a_scan_under_jit_and_vmap(kind):
    es = algorithm(kind)
    params = es.default_params
    with jax.debug_key_reuse(False):  # it takes keys that are scanned under vmap for reused ones
        batch, _ = jax.jit(jax.vmap(lambda seed: play(es, params, jax.random.key(seed), 4)))(jnp.arange(2))
    first, rest = jax.random.split(jax.random.key(1))
    state = begin(es, first, params)
    for key in jax.random.split(rest, 4):
        ask_key, tell_key = jax.random.split(key)
        x, state = es.ask(ask_key, state, params)
        state, _ = es.tell(tell_key, x, value_of(x), state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-4), batch, state)


def test_theta_is_a_parameter_so_one_vmaps_over_it():
    es = algorithm("les")
    theta = loaded("les").theta
    thetas = jax.tree.map(lambda a: jnp.stack([a, -a]), theta)
    batch = es.default_params.replace(std_init=jnp.ones(2), params=thetas)
    values = jax.jit(jax.vmap(lambda params: play(es, params, jax.random.key(0), 5)[1][0]))(batch)
    assert not np.allclose(values[0], values[1], rtol=1e-2)


def test_it_is_the_optimizer_when_it_is_lifted_again():
    """Ours through evosax's form and back: the same queries to the same keys."""
    problem = Problem(Space.free(), START, 0.5)
    task = l2o.Task(problem, lambda key, x: Evaluation(value_of(x)))

    def queries(optimizer):
        state = optimizer.init(jax.random.key(0), problem)
        return unroll(optimizer, task, state, jax.random.key(1), 4)[1].x

    ours = jax.jit(lambda: queries(loaded("les").optimizer))()
    again = jax.jit(lambda: queries(from_evosax(lambda solution: loaded("les").evosax(solution))))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, again)


def test_what_is_replaced_in_the_state_counts():
    es = algorithm("les")
    params = es.default_params
    state = begin(es, jax.random.key(0), params).replace(mean=jnp.full(4, 7.0), std=jnp.full(4, 1e-3))
    x, _ = es.ask(jax.random.key(1), state, params)
    jax.tree.map(lambda a: np.testing.assert_allclose(a, 7.0, atol=0.01), x)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["les", "lga"])
def test_failures_and_shaped_fitness(kind):
    def failing(x):
        return jnp.where(x["a"][:, 0] > 1, jnp.nan, value_of(x))

    shaped = loaded(kind).evosax(SOLUTION, 6, fitness_shaping_fn=centered_rank_fitness_shaping_fn)
    for es in (algorithm(kind), shaped):
        run = jax.jit(lambda es=es: play(es, es.default_params, jax.random.key(0), 8, failing))
        state, (values, best) = run()
        assert np.isnan(values).any() and best[-1] <= np.nanmin(values) and jnp.isfinite(state.std).all()


def test_evosaxs_restarts_work():
    es = algorithm("evosax")
    params = es.default_params
    restart = SimpleRestart((spread_cond,), RestartParams(min_fitness_spread=1e9))
    state = begin(es, jax.random.key(0), params)
    x, state = es.ask(jax.random.key(1), state, params)
    state, _ = es.tell(jax.random.key(2), x, value_of(x), state, params)
    assert restart.should_restart(x, value_of(x), state, params, restart.init())
    again, _ = restart.restart(jax.random.key(3), es, state, params, restart.init())
    assert again.generation_counter == 0 and again.best_fitness == state.best_fitness
    np.testing.assert_array_equal(again.std, np.ones(4))

    growing = IPOPRestart(lambda size: algorithm("evosax", size), 6)
    larger, larger_params, state, _ = growing.restart(jax.random.key(4), es, state, params, growing.init(es))
    x, _ = larger.ask(jax.random.key(5), state, larger_params)
    assert x["a"].shape == (12, 2)


def test_an_optimizer_that_asks_point_by_point_is_refused():
    with pytest.raises(TypeError, match="'rnn' optimizer does not ask for a population"):
        loaded("rnn").evosax(SOLUTION)
    with pytest.raises(UserError, match="population_size is 1, expected at least 2"):
        loaded("les").evosax(SOLUTION, 1)


# --- evosax's weights


@pytest.mark.parametrize(
    ("version", "std"), [("2023_03_les_v1", 1.0), ("2023_10_les_v2", 1.0), ("2023_10_les_v2", 0.05)]
)
def test_our_les_with_evosaxs_weights_is_evosaxs(version, std):
    file = WEIGHTS / f"{version}.pkl"
    config, theta = les_from_evosax(file)
    ours = Loaded(config, theta, {}, [], "").evosax(SOLUTION, 8)
    with jax.numpy_rank_promotion("allow"):
        theirs = LearnedES(population_size=8, solution=SOLUTION, params_path=str(file))
        pairs = [(es, es.default_params.replace(std_init=std)) for es in (ours, theirs)]
        states = [begin(es, jax.random.key(0), params) for es, params in pairs]
        for t in range(10):
            told = []
            for (es, params), state in zip(pairs, states, strict=True):
                ask_key, tell_key = jax.random.split(jax.random.key(t))
                x, state = es.ask(ask_key, state, params)
                state, _ = es.tell(tell_key, x, value_of(x), state, params)
                told.append((x, state))
            states = [state for _, state in told]
            # 1e-5 with optimization: without it rounding is not that of evosax, and points are of size 1
            close = partial(np.testing.assert_allclose, rtol=1e-5, atol=5e-5)
            found, expected = ((p, s.mean, s.std, s.best_fitness) for p, s in told)
            jax.tree.map(close, found, expected)


def test_evosaxs_weights_become_an_artifact_that_minimizes(tmp_path):
    config, theta = les_from_evosax()
    optimizer = l2o.load(l2o.save(tmp_path, config, theta)).optimizer
    problem = Problem(Space.free(), jnp.full(5, 2.0), 1.0)
    task = l2o.Task(problem, lambda key, x: Evaluation(jnp.sum(x**2, -1)))
    state, _ = jax.jit(
        lambda: unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 200)
    )()
    assert state[1].best < 1e-5


def tree(array=np.asarray):
    """LES weights as evosax nests them."""
    random = np.random.default_rng(0)

    def layer(inputs, units):
        return {"kernel": array(random.normal(size=(inputs, units)).astype("f4")), "bias": array(np.ones(units, "f4"))}

    attention = {"Dense_0": layer(3, 4), "Dense_1": layer(3, 4), "Dense_2": layer(3, 1)}
    rates = {"Dense_0": layer(19, 5), "Dense_1": layer(5, 1), "Dense_2": layer(5, 1)}
    return {"recomb_weights": {"params": attention}, "lrate_modulation": {"params": rates}}


@pytest.mark.parametrize("array", [np.asarray, np.asfortranarray, jnp.asarray])
@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_numpy_and_of_jax_are_read(array, protocol, tmp_path):
    (tmp_path / "les.pkl").write_bytes(pickle.dumps(tree(array), protocol=protocol))
    config, theta = les_from_evosax(tmp_path / "les.pkl")
    assert (config.keys, config.hidden) == (4, 5)
    expected = tree()["lrate_modulation"]["params"]
    np.testing.assert_array_equal(theta["hidden"]["w"].T, expected["Dense_0"]["kernel"])
    np.testing.assert_array_equal(theta["rates"]["w"][1], expected["Dense_2"]["kernel"][:, 0])
    assert jax.tree.map(jnp.shape, theta) == jax.tree.map(
        jnp.shape, jax.eval_shape(config.build().init, jax.random.key(0))
    )


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ((os.system, "touch ran"), "posix.system"),
        ((eval, "open('ran', 'w')"), "builtins.eval"),
        ((getattr, "text", "upper"), "builtins.getattr"),
        ((np.load, "ran", None, True), "numpy.load"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(call, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = tree() | {"more": Evil(*call)}
    Path("les.pkl").write_bytes(pickle.dumps(whole, protocol=4))
    with pytest.raises(UserError, match=rf"les\.pkl was not read: it names {named}, "):
        les_from_evosax("les.pkl")
    assert not Path("ran").exists()


def broken(change):
    weights = tree()
    change(weights)
    return pickle.dumps(weights, protocol=4)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "damaged or no pickle"),
        (b"not a pickle", "damaged or no pickle"),
        (pickle.dumps(tree(), protocol=4)[:-40], "damaged or no pickle"),
        (pickle.dumps([1, 2]), "there is no recomb_weights.params.Dense_0"),
        (broken(lambda w: w.pop("lrate_modulation")), "there is no lrate_modulation.params.Dense_0"),
        (broken(lambda w: w["recomb_weights"]["params"]["Dense_0"].update(bias="x")), "is no layer of numbers"),
        (broken(lambda w: w["recomb_weights"]["params"].update(w["lrate_modulation"]["params"])), "layer key is"),
    ],
)
def test_a_file_of_something_else_is_refused_in_a_sentence(blob, message, tmp_path):
    (tmp_path / "les.pkl").write_bytes(blob)
    with pytest.raises(UserError, match=message):
        les_from_evosax(tmp_path / "les.pkl")


def test_a_missing_file_and_a_missing_evosax_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        les_from_evosax(tmp_path / "none.pkl")
    monkeypatch.setattr("l2o.interop.evosax_weights.find_spec", lambda name: None)
    with pytest.raises(UserError, match="evosax is not installed"):
        les_from_evosax()


def test_configs_of_both_families_are_registered():
    assert l2o.kinds(l2o.OptimizerConfig)["les"] is LESConfig and l2o.kinds(l2o.OptimizerConfig)["lga"] is LGAConfig
