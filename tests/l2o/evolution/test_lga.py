"""The learned genetic algorithm: its attention is that of evosax, and what its state may become."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.learned_evolution import les_tools, lga_tools
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o import Evaluation, Problem, Space, Task, unroll
from l2o.evolution.lga import LGAConfig, log_variance, sampling_logits, selection_logits
from l2o.evolution.population import features

INF = np.inf
VALUES = st.one_of(st.floats(-1e30, 1e30), st.sampled_from([np.nan, INF, -INF, 0.0, 1.0, 3e38, -3e38]))
few = settings(max_examples=20, deadline=None)


@functools.cache
def theta_of(config, seed=0, gain=0.3):
    """Weights and biases that are large enough to matter, and small enough that nothing explodes in a few steps."""
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

    def tell(theta, key, state, x, value):
        return learned.bind(theta).tell(key, state, x, Evaluation(value))

    return jax.jit(init), jax.jit(ask), jax.jit(tell)


def rounds(config, theta, start, scale, loss, count=6):
    """Populations, and the states after them."""
    init, ask, tell = programs(config)
    state, asked, states = init(theta, start, scale), [], []
    for t in range(count):
        ask_key, tell_key = jax.random.split(jax.random.key(t))
        x, state = ask(theta, ask_key, state)
        state = tell(theta, tell_key, state, x, loss(x))
        asked.append(x)
        states.append(state[1])
    return asked, states


def hills(x):
    return jnp.sum(x**2 + jnp.cos(3 * x), -1)


# --- equal to evosax


@functools.cache
def evosaxs():
    """Its shipped weights, and ours made of them. With three times those of sampling, parents' chances differ more."""
    from evosax.algorithms import LearnedGA

    theirs = dict(LearnedGA(population_size=4, solution=jnp.zeros(2)).lga_params)
    theirs["sampling"] = jax.tree.map(lambda a: 3 * a, theirs["sampling"])

    def ours(layer, inputs=1):
        kernel, bias = layer["kernel"], layer["bias"]
        return {"w": kernel.reshape(np.prod(kernel.shape[:inputs]), -1).T, "b": bias.reshape(-1)}

    def attention(layers):
        return {name: ours(layer, 2 if name == "out" else 1) for name, layer in layers.items()}

    sampling, mutation, selection = (theirs[name]["params"] for name in ("sampling", "mutation", "selection"))
    theta = {
        "sampling": {
            "attention": attention(sampling["MultiHeadSelfAttention_0"]), "logit": ours(sampling["Dense_0"]),
        },
        "mutation": {
            "attention": attention(mutation["MultiHeadSelfAttention_0"]), "change": ours(mutation["Dense_0"]),
        },
        "selection": {
            "attention": attention(selection["MultiHeadCrossAttention_0"]), "query": ours(selection["Dense_0"]),
            "key": ours(selection["Dense_1"]),
        },
    }  # fmt: skip
    return theirs, theta


def shaped(value, best):
    with jax.numpy_rank_promotion("allow"):
        return les_tools.FitnessFeatures(centered_rank=True, z_score=True).apply(None, value, best)


CHILDREN = jnp.array([3.0, 1.0, -2.0, 8.0, 0.5])
PARENTS = jnp.array([0.0, 9.0, 4.0])


def test_features_are_those_of_evosax():
    for best in (2.0, INF):
        np.testing.assert_allclose(features(CHILDREN, jnp.array(best), "z").T, shaped(CHILDREN, best), atol=1e-5)


def test_the_shapes_are_those_of_evosax():
    theirs, theta = evosaxs()
    fresh = jax.eval_shape(LGAConfig().build().init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, theta) == jax.tree.map(jnp.shape, fresh)
    assert sum(a.size for a in jax.tree.leaves(fresh)) == sum(a.size for a in jax.tree.leaves(theirs)) == 1906


def test_sampling_is_that_of_evosax():
    theirs, theta = evosaxs()
    seen = jnp.concatenate([features(CHILDREN, jnp.array(2.0), "z"), jnp.linspace(-0.7, 0, 5)[None]])
    with jax.numpy_rank_promotion("allow"):
        expected = lga_tools.SamplingAttention(2, 16).apply(theirs["sampling"], seen.T)
    np.testing.assert_allclose(jax.nn.softmax(sampling_logits(theta["sampling"], seen, 2)), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_mutation_is_that_of_evosax():
    theirs, theta = evosaxs()
    seen, sigma = features(CHILDREN, jnp.array(2.0), "z"), jnp.array([0.1, 0.3, 0.2, 0.2, 0.5])
    with jax.numpy_rank_promotion("allow"):
        expected = lga_tools.MutationAttention(2, 16).apply(theirs["mutation"], sigma[:, None], seen.T)[:, 0]
    ours = sigma * jnp.exp(0.5 * log_variance(theta["mutation"], seen, sigma, 2))
    np.testing.assert_allclose(ours, expected, rtol=1e-3)
    assert np.ptp(expected / sigma) > 0.01


def test_selection_is_that_of_evosax():
    """Its module returns a sample alone, so compared are many samples of the same keys."""
    theirs, theta = evosaxs()
    seen = features(jnp.concatenate([CHILDREN, PARENTS]), jnp.array(2.0), "z")
    children, parents = seen[:, :5], seen[:, 5:]
    keys = jax.random.split(jax.random.key(0), 500)
    with jax.numpy_rank_promotion("allow"):
        module = lga_tools.SelectionAttention(2, 16)
        expected = jax.vmap(lambda key: module.apply(theirs["selection"], key, children.T, parents.T))(keys)
    logits = selection_logits(theta["selection"], children, parents, 2)
    logits = jnp.concatenate([logits, jnp.ones((3, 1))], axis=1)
    chosen = jax.vmap(lambda key: jax.random.categorical(key, logits))(jax.random.clone(keys))
    assert np.mean(np.asarray(jax.nn.one_hot(chosen, 6)[..., :5] == expected)) > 0.999
    assert (chosen == 5).any() and (chosen < 5).any()


@few
@given(st.permutations(range(5)))
def test_attention_permutes_with_the_members(order):
    _, theta = evosaxs()
    order = jnp.array(order)
    seen, sigma = features(CHILDREN, jnp.array(2.0), "normal"), jnp.array([0.1, 0.3, 0.2, 0.2, 0.5])

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    close(log_variance(theta["mutation"], seen[:, order], sigma[order], 2),
          log_variance(theta["mutation"], seen, sigma, 2)[order])  # fmt: skip
    aged = jnp.concatenate([seen, sigma[None]])
    close(sampling_logits(theta["sampling"], aged[:, order], 2), sampling_logits(theta["sampling"], aged, 2)[order])
    one = selection_logits(theta["selection"], seen[:, order], seen, 2)
    close(one, selection_logits(theta["selection"], seen, seen, 2)[:, order])


# --- the algorithm


def test_the_first_generation_is_normal_around_the_start_and_becomes_the_parents():
    config, start = LGAConfig(population_size=4000), jnp.array([3.0, -2.0])
    init, ask, tell = programs(config)
    theta = theta_of(config)
    x, state = ask(theta, jax.random.key(1), init(theta, start, 0.5))
    np.testing.assert_allclose(x.mean(0), start, atol=0.05)
    np.testing.assert_allclose(x.std(0), 0.5, rtol=0.05)
    value = hills(x).at[7].set(jnp.nan)
    _, run = tell(theta, jax.random.key(2), state, x, value)
    np.testing.assert_array_equal(run.inner.population, x)
    np.testing.assert_array_equal(run.inner.fitness, value.at[7].set(INF))
    np.testing.assert_array_equal(run.inner.sigma, np.full(4000, 0.5))


def test_parents_are_replaced_by_children_or_grow_older():
    config = LGAConfig(population_size=8)
    asked, states = rounds(config, theta_of(config), jnp.ones(3), 1.0, hills, 8)
    replaced = 0
    for x, before, after in zip(asked[1:], states, states[1:], strict=False):
        for i in range(8):
            if after.inner.age[i] > 0:
                who, source, sigma, fitness = i, before.inner.population, before.inner.sigma, before.inner.fitness
                assert after.inner.age[i] == before.inner.age[i] + 1
            else:
                replaced += 1
                source, sigma, fitness = x, after.inner.child_sigma, hills(x)
                who = int(np.flatnonzero((np.asarray(x) == np.asarray(after.inner.population[i])).all(1))[0])
            np.testing.assert_array_equal(after.inner.population[i], source[who])
            np.testing.assert_array_equal(after.inner.sigma[i], sigma[who])
            np.testing.assert_allclose(after.inner.fitness[i], fitness[who], rtol=1e-5)
    assert 5 < replaced < 7 * 8


def test_no_failed_child_becomes_a_parent_and_no_failed_parent_has_children():
    config = LGAConfig(population_size=6)
    init, ask, tell = programs(config)
    theta = theta_of(config)
    x, state = ask(theta, jax.random.key(0), init(theta, jnp.zeros(2), 1.0))
    parents = x.at[3:].add(1e6)  # far off, and failed
    state = tell(theta, jax.random.key(1), state, parents, hills(x).at[3:].set(jnp.nan))
    for t in range(5):
        x, state = ask(theta, jax.random.key(2 + t), state)
        assert (jnp.abs(x) < 1e5).all()
        state = tell(theta, jax.random.key(9 + t), state, x, jnp.full(6, jnp.nan))
    np.testing.assert_array_equal(state[1].inner.population, parents)


def test_crossover_takes_its_share_of_coordinates_from_a_second_parent():
    shares = []
    for rate in (0.0, 0.25):
        config = LGAConfig(population_size=4, crossover=rate)
        init, ask, tell = programs(config)
        theta = theta_of(config, gain=0.0)
        x, state = ask(theta, jax.random.key(0), init(theta, jnp.zeros(1000), 1e-9))
        rows = jnp.broadcast_to(jnp.arange(4.0)[:, None], x.shape)
        x, _ = ask(theta, jax.random.key(2), tell(theta, jax.random.key(1), state, rows, jnp.arange(4.0)))
        origin = np.round(np.asarray(x))
        shares += [max((row == parent).mean() for parent in range(4)) for row in origin]
    assert shares[:4] == [1.0] * 4
    assert all(share == 1.0 or 0.7 < share < 0.8 for share in shares[4:]) and min(shares) < 1


def test_a_child_is_mutated_with_the_standard_deviation_of_its_parent_as_attention_changes_it():
    config, sigma = LGAConfig(population_size=8), 0.01 * jnp.arange(1.0, 9.0)
    init, ask, tell = programs(config)
    theta = theta_of(config, gain=0.1)
    x, (space, run) = ask(theta, jax.random.key(0), init(theta, jnp.zeros(1000), 1.0))
    rows = jnp.broadcast_to(100 * jnp.arange(8.0)[:, None], x.shape)
    space, run = tell(theta, jax.random.key(1), (space, run), rows, jnp.arange(8.0))
    state = space, run._replace(inner=run.inner._replace(sigma=sigma))
    x, (_, after) = ask(theta, jax.random.key(2), state)
    parents = jnp.round(x.mean(1) / 100).astype(int)
    assert len(set(parents.tolist())) > 2
    seen = features(run.inner.fitness[parents], run.best, "normal")
    expected = sigma[parents] * jnp.exp(0.5 * log_variance(theta["mutation"], seen, sigma[parents], 2))
    np.testing.assert_allclose(after.inner.child_sigma, expected, rtol=1e-4)
    np.testing.assert_allclose((x - rows[parents]).std(1), expected, rtol=0.1)


@pytest.mark.parametrize("c", [2.0**-20, 2.0**20])
def test_the_units_of_x_do_not_matter(c):
    """Powers of two, so that no sample is decided otherwise by rounding."""
    config, start = LGAConfig(population_size=6, crossover=0.1), jnp.array([1.0, -2.0])
    plain, _ = rounds(config, theta_of(config), start, 0.5, hills)
    scaled, _ = rounds(config, theta_of(config), c * start, c * 0.5, lambda x: hills(x / c))
    np.testing.assert_array_equal(np.asarray(scaled) / c, plain)


@pytest.mark.parametrize("scores", ["normal", "z"])
def test_only_the_order_of_values_matters_unless_z_scores_are_asked_for(scores):
    config = LGAConfig(population_size=6, scores=scores)
    plain, _ = rounds(config, theta_of(config), jnp.ones(3), 1.0, hills)
    bent, _ = rounds(config, theta_of(config), jnp.ones(3), 1.0, lambda x: jnp.exp(hills(x) / 2) - 100)
    assert np.array_equal(plain, bent) == (scores == "normal")


@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 3)])
def test_no_values_break_it(n, d):
    config = LGAConfig(population_size=n, crossover=0.5, scores="z" if n == 2 else "normal")
    learned = config.build()

    @jax.jit
    def play(theta, start, scale, values):
        optimizer = learned.bind(theta)

        def body(state, now):
            t, value = now
            ask_key, tell_key = jax.random.split(jax.random.key(t))
            x, state = optimizer.ask(ask_key, state)
            return optimizer.tell(tell_key, state, x, Evaluation(value)), x

        state = optimizer.init(jax.random.key(0), Problem(Space.free(), start, scale))
        return jax.lax.scan(body, state, (jnp.arange(8), values))

    @few
    @given(
        st.lists(VALUES, min_size=8 * n, max_size=8 * n), st.floats(-6, 6), st.sampled_from([0.0, 1.0, -1e6]),
        st.integers(0, 9),
    )  # fmt: skip
    def check(values, logarithm, start, seed):
        values = jnp.array(values, jnp.float32).reshape(8, n)
        (_, run), x = play(theta_of(config, seed, gain=3.0), jnp.full(d, start), 10.0**logarithm, values)
        assert jnp.isfinite(x).all() and jnp.isfinite(run.inner.population).all()
        assert (run.inner.sigma > 0).all() and jnp.isfinite(run.inner.sigma).all()
        assert not jnp.isnan(run.inner.fitness).any()
        assert run.best == np.where(np.isfinite(values), values, INF).min()

    check()


def test_one_theta_serves_any_population_and_dimension():
    theta = theta_of(LGAConfig())
    for n, d in ((2, 1), (9, 7)):
        asked, _ = rounds(LGAConfig(population_size=n), theta, jnp.ones(d), 1.0, hills, 2)
        assert asked[1].shape == (n, d)


def test_it_is_meta_trained_by_vmap():
    learned, problem = LGAConfig(population_size=4).build(), Problem(Space.free(), jnp.ones(3), 0.5)
    task = Task(problem, lambda key, x: Evaluation(hills(x)))

    def loss(theta):
        optimizer = learned.bind(theta)
        state = optimizer.init(jax.random.key(0), problem)
        return jnp.mean(unroll(optimizer, task, state, jax.random.key(1), 5)[1].evaluation.value)

    losses = jax.jit(jax.vmap(loss))(jax.vmap(learned.init)(jax.random.split(jax.random.key(2), 3)))
    assert len(set(losses.tolist())) == 3


def test_heads_that_do_not_divide_the_keys_are_refused():
    with pytest.raises(ValueError, match="keys is 16, expected a multiple of heads, which is 3"):
        LGAConfig(heads=3)
