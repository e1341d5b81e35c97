"""The coordinatewise LSTM: against the paper's formulas and haiku's own LSTM, and the symmetries it must have."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2o.gradient.lstm import LSTMConfig, log_and_sign

CONFIG = LSTMConfig(layers=2, hidden=5)
NETWORK = CONFIG.build()


def fresh(seed=0, network=NETWORK):
    """Meta-parameters with biases that are not zero, so that a bias in the wrong place shows."""
    theta = network.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        tree, [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


THETA = fresh()
TX = NETWORK.native(THETA, None)
UPDATE = jax.jit(TX.update)


def gradients(steps, shape, seed=5):
    """Gradients over many magnitudes."""
    sign_key, size_key = jax.random.split(jax.random.key(seed))
    size = 10.0 ** jax.random.uniform(size_key, (steps, *shape), minval=-7.0, maxval=3.0)
    return size * jax.random.rademacher(sign_key, (steps, *shape), float)


def run(sequence, update=UPDATE, init=TX.init):
    """Updates for a sequence of gradient trees, starting from the initial state."""
    state, out = init(sequence[0]), []
    for gradient in sequence:
        step, state = update(gradient, state)
        out.append(step)
    return out, state


# the paper's appendix A


def appendix_a(gradient, p):
    """Andrychowicz et al. (2016), appendix A, coordinate by coordinate in double precision."""
    if abs(gradient) >= np.exp(-p):
        return np.log(abs(gradient)) / p, np.sign(gradient)
    return -1.0, np.exp(p) * gradient


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=8, max_size=8))
def test_preprocessing_equals_the_paper(values):
    found = log_and_sign(jnp.array(values, jnp.float32), 10.0)
    expected = np.array([appendix_a(float(np.float32(value)), 10.0) for value in values]).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 10.0, 80.0])
def test_preprocessing_over_all_magnitudes(p):
    # a gradient that is equal to the threshold up to rounding may fall on either side
    exponents = [e for e in np.linspace(-37, 37, 149) if abs(e * np.log(10) + p) > 1e-3]
    size = (10.0 ** np.array(exponents)).astype(np.float32)
    values = np.concatenate([-size, [0.0], size]).astype(np.float32)
    expected = np.array([appendix_a(float(value), p) for value in values]).T
    np.testing.assert_allclose(log_and_sign(jnp.array(values), p), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 10.0, 80.0])
def test_preprocessing_has_a_finite_derivative_everywhere(p):
    size = np.concatenate([np.logspace(-37, 38, 200), [np.exp(-p), np.finfo(np.float32).max]]).astype(np.float32)
    values = jnp.array(np.concatenate([-size, [0.0, -0.0], size]), jnp.float32)
    slope = jax.jit(jax.vmap(jax.jacrev(lambda g: log_and_sign(g[None], p)[:, 0])))
    assert np.isfinite(slope(values)).all()
    # d log|g| / p = 1 / (g p) above the threshold, and the linear part has slope e^p
    np.testing.assert_allclose(slope(jnp.array([-0.5, 0.0])), [[-2 / p, 0], [0, np.exp(p)]], rtol=1e-5)


def test_preprocessing_is_continuous_in_its_second_feature_and_odd():
    edge = np.exp(-10.0) * np.array([0.999, 1.001])
    features = log_and_sign(jnp.array(edge, jnp.float32), 10.0)
    np.testing.assert_allclose(features[:, 0], features[:, 1], atol=2e-3)
    g = gradients(1, (20,))[0]
    plus, minus = log_and_sign(g, 10.0), log_and_sign(-g, 10.0)
    np.testing.assert_array_equal(plus[0], minus[0])
    np.testing.assert_array_equal(plus[1], -minus[1])


# haiku's own LSTM


@pytest.mark.parametrize("preprocessing", ["log", "none"])
@pytest.mark.parametrize("layers", [1, 3])
def test_equals_haikus_lstm_with_the_same_weights(layers, preprocessing):
    config = LSTMConfig(layers=layers, hidden=6, preprocessing=preprocessing, p=8.0, output_scale=0.25)
    network = config.build()
    theta = fresh(3, network)

    def core():
        return hk.DeepRNN([*(hk.LSTM(6) for _ in range(layers)), hk.Linear(1)])

    step = jax.jit(hk.without_apply_rng(hk.transform(lambda x, state: core()(x, state))).apply)
    start = hk.without_apply_rng(hk.transform(lambda n: core().initial_state(n)))

    sequence = gradients(5, (7,)) if preprocessing == "log" else 1e-2 * gradients(5, (7,)).clip(-100, 100)
    # haiku: row-major [n, features] @ [features, 4 * hidden], gates in the order i, g, f, o
    names = ["lstm", *(f"lstm_{i}" for i in range(1, layers))]
    ours = {f"{name}/linear": theta[f"lstm_{i}"] for i, name in enumerate(names)} | {"linear": theta["output"]}
    params = {name: {"w": layer["w"].T, "b": layer["b"]} for name, layer in ours.items()}
    state = start.apply({}, 7)

    updates, end = run(list(sequence), jax.jit(network.native(theta, None).update), network.native(theta, None).init)
    for gradient, update in zip(sequence, updates, strict=True):
        features = np.asarray(gradient)[:, None]
        if preprocessing == "log":
            features = np.array([appendix_a(float(g), 8.0) for g in gradient], np.float32)
        output, state = step(params, features, state)
        np.testing.assert_allclose(update, 0.25 * output[:, 0], rtol=1e-5, atol=1e-6)
    for (h, c), theirs in zip(end, state, strict=True):
        np.testing.assert_allclose(h, theirs.hidden.T, atol=1e-6)
        np.testing.assert_allclose(c, theirs.cell.T, atol=1e-6)


def test_fresh_meta_parameters():
    theta = jax.tree.map(np.asarray, NETWORK.init(jax.random.key(0)))
    assert jax.tree.map(np.shape, theta) == {
        "lstm_0": {"w": (20, 2 + 5), "b": (20,)},
        "lstm_1": {"w": (20, 5 + 5), "b": (20,)},
        "output": {"w": (1, 5), "b": (1,)},
    }
    for layer in theta.values():
        np.testing.assert_array_equal(layer["b"], 0)
        assert np.std(layer["w"]) > 0
    other = NETWORK.init(jax.random.key(1))
    assert not np.array_equal(theta["lstm_0"]["w"], other["lstm_0"]["w"])
    big = np.asarray(LSTMConfig(layers=1, hidden=64).build().init(jax.random.key(0))["lstm_0"]["w"])
    # a normal of standard deviation 1 / sqrt(66), truncated at two of them
    np.testing.assert_allclose(np.std(big) * np.sqrt(66), 0.88, atol=0.02)
    assert np.abs(big).max() <= 2.001 / np.sqrt(66)


# symmetries


def test_permuting_the_coordinates_permutes_the_update():
    order = jax.random.permutation(jax.random.key(9), 30)
    sequence = gradients(4, (30,))
    plain, state = run(list(sequence))
    permuted, permuted_state = run(list(sequence[:, order]))
    for a, b in zip(plain, permuted, strict=True):
        np.testing.assert_allclose(a[order], b, rtol=1e-5, atol=1e-7)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(permuted_state), strict=True):
        np.testing.assert_allclose(a[:, order], b, rtol=1e-5, atol=1e-6)
    assert np.unique(np.asarray(plain[-1])).size == 30


def test_leaves_of_one_tree_equal_separate_trees():
    sequence = gradients(3, (13,))

    def tree(row):
        return {"m": row[:6].reshape(2, 3), "s": row[6], "deep": [row[7:9], (row[9:].reshape(2, 1, 2),)]}

    together, _ = run([tree(row) for row in sequence])
    treedef = jax.tree.structure(together[0])
    separate = [run([jax.tree.leaves(tree(row))[i] for row in sequence])[0] for i in range(treedef.num_leaves)]
    for t in range(3):
        expected = jax.tree.unflatten(treedef, [leaf[t] for leaf in separate])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), together[t], expected)


def test_reshaping_a_leaf_reshapes_its_update():
    sequence = gradients(3, (12,))
    flat, _ = run(list(sequence))
    shaped, _ = run(list(sequence.reshape(3, 2, 3, 2)))
    np.testing.assert_allclose(np.stack(shaped).reshape(3, 12), np.stack(flat), rtol=1e-5, atol=1e-7)


def test_history_matters_and_coordinates_do_not_mix():
    sequence = gradients(3, (4,))
    updates, _ = run(list(sequence))
    changed, _ = run(list(sequence.at[0, 2].multiply(-100.0)))
    difference = np.abs(np.stack(updates) - np.stack(changed)) > 1e-7
    np.testing.assert_array_equal(difference.any(0), [False, False, True, False])
    assert difference[:, 2].all()


def test_the_output_scale_scales_the_update():
    doubled = LSTMConfig(layers=2, hidden=5, output_scale=0.2).build().native(THETA, None)
    sequence = list(gradients(2, (4,)))
    np.testing.assert_allclose(run(sequence, doubled.update)[0][1], 2 * run(sequence)[0][1], rtol=1e-5)


# leaves of every kind

LEAVES = {
    "scalar": jnp.array(0.3),
    "empty": jnp.zeros((0, 3)),
    "integer": jnp.array([3, -4], jnp.int32),
    "boolean": jnp.array([True, False]),
    "bfloat16": jnp.array([[0.5, -2.0]], jnp.bfloat16),
    "float16": jnp.array([0.5, -2.0, 0.0], jnp.float16),
    "complex64": jnp.array([1 + 2j, -0.5j], jnp.complex64),
    "float32": jnp.ones((2, 1, 2)),
}


def test_a_complex_leaf_is_two_real_ones():
    parts = gradients(3, (2, 4))
    both, _ = run([{"re": row[0], "im": row[1]} for row in parts])
    merged, _ = run([jax.lax.complex(row[0], row[1]) for row in parts])
    for a, b in zip(both, merged, strict=True):
        np.testing.assert_allclose(jax.lax.complex(a["re"], a["im"]), b, rtol=1e-5, atol=1e-7)


def test_zero_gradients_give_finite_updates_and_meta_gradients():
    def meta_loss(theta):
        tx = NETWORK.native(theta, None)
        updates, _ = run([jnp.zeros(3), jnp.array([0.0, 1e-30, 1e30])], tx.update, tx.init)
        return sum(jnp.sum(u**2) for u in updates)

    value, gradient = jax.jit(jax.value_and_grad(meta_loss))(THETA)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradient))


def test_the_horizon_is_ignored():
    sequence = list(gradients(2, (4,)))
    expected, _ = run(sequence)
    for horizon in (3, jnp.array(1000)):
        other = NETWORK.native(THETA, horizon)
        np.testing.assert_array_equal(run(sequence, jax.jit(other.update))[0][1], expected[1])


def test_the_state_is_h_and_c_of_every_layer_in_the_shape_of_each_leaf():
    state = TX.init(LEAVES)
    shapes = {name: (5, *leaf.shape) for name, leaf in LEAVES.items()}
    shapes |= {"integer": (), "boolean": (), "complex64": (5, 2, 2)}
    assert jax.tree.map(jnp.shape, state) == ((shapes, shapes),) * 2
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(state))


def test_half_the_state_changes_the_updates_by_its_rounding_alone():
    half = LSTMConfig(layers=2, hidden=5, state_dtype="bfloat16").build().native(THETA, None)
    sequence = list(gradients(20, (2, 6)))
    full, _ = run(sequence)
    found, state = run(sequence, jax.jit(half.update), half.init)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves((half.init(sequence[0]), state)))
    assert [update.dtype for update in found] == [jnp.float32] * 20
    assert not np.array_equal(found[-1], found[-1].astype(jnp.bfloat16)), "only the state is rounded"
    np.testing.assert_array_equal(found[0], full[0], "the first update has seen no state yet")
    error = np.linalg.norm(np.stack(found) - np.stack(full), axis=(1, 2)) / np.linalg.norm(np.stack(full), axis=(1, 2))
    assert error[1:].min() > 0 and error.max() < 2e-2
