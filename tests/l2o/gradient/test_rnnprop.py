"""RNNprop: against haiku's own layers on Adam's features in double precision, and what its features promise."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o.gradient.rnnprop import RNNpropConfig

CONFIG = RNNpropConfig(layers=2, hidden=5)
NETWORK: Any = CONFIG.build()


def fresh(seed=0, network=NETWORK):
    """Meta-parameters with biases that are not zero."""
    rng = np.random.default_rng(seed)
    theta = jax.jit(network.init)(jax.random.key(seed))
    return jax.tree.map(lambda a: np.float32(a + 0.3 * rng.normal(size=a.shape)), theta)


THETA = fresh()
TX = NETWORK.native(THETA, None)
UPDATE = jax.jit(lambda gradient, state, theta=THETA: NETWORK.native(theta, None).update(gradient, state))
N = 30


def gradients(steps, shape, seed=5, low=-0.3, high=0.3):
    """Gradients with magnitudes between 10^low and 10^high."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(low, high, (steps, *shape))
    return (size * rng.choice([-1.0, 1.0], size.shape)).astype(np.float32)


def run(sequence, update: Any = UPDATE, init: Any = TX.init):
    """Updates for a sequence of gradient trees, starting from the initial state."""
    state, out = init(sequence[0]), []
    for gradient in sequence:
        step, state = update(gradient, state)
        out.append(step)
    return out, state


def features(sequence, decay):
    """What Adam and RMSprop would do, in double precision: [steps, n, 2]."""
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(np.asarray(sequence, np.float64), 1):
        m, v = decay * m + (1 - decay) * g, decay * v + (1 - decay) * g**2
        root = np.sqrt(v / (1 - decay**t)) + 1e-8
        out.append(np.stack([g / root, m / (1 - decay**t) / root], axis=-1))
    return np.array(out, np.float32)


@pytest.mark.parametrize(("layers", "decay"), [(1, 0.0), (2, 0.95)])
def test_equals_haikus_layers_with_the_same_weights(layers, decay):
    config = RNNpropConfig(layers=layers, hidden=6, decay=decay, output_scale=0.25)
    network: Any = config.build()
    theta = fresh(3, network)

    def core():
        return hk.DeepRNN([hk.Linear(6), jax.nn.elu, *(hk.LSTM(6) for _ in range(layers)), hk.Linear(1)])

    step = jax.jit(hk.without_apply_rng(hk.transform(lambda x, state: core()(x, state))).apply)
    state = hk.without_apply_rng(hk.transform(lambda n: core().initial_state(n))).apply({}, 7)
    lstms = ["lstm", *(f"lstm_{i}" for i in range(1, layers))]
    ours = {"linear": theta["input"], "linear_1": theta["output"]}
    ours |= {f"{name}/linear": theta[f"lstm_{i}"] for i, name in enumerate(lstms)}
    params = {name: {"w": layer["w"].T, "b": layer["b"]} for name, layer in ours.items()}

    sequence = gradients(5, (7,), low=-4, high=3)
    tx = network.native(theta, None)
    updates, end = run(list(sequence), jax.jit(tx.update), tx.init)
    for inputs, update in zip(features(sequence, decay), updates, strict=True):
        output, state = step(params, inputs, state)
        np.testing.assert_allclose(update, 0.25 * np.tanh(output[:, 0]), rtol=1e-4, atol=1e-6)
    for (h, c), theirs in zip(end.layers, state, strict=True):
        np.testing.assert_allclose(h, theirs.hidden.T, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(c, theirs.cell.T, rtol=1e-4, atol=1e-5)
    assert int(end.age) == 5


def test_no_step_is_larger_than_the_output_scale():
    huge = jax.tree.map(lambda a: 30 * a, THETA)
    sequence = [*gradients(4, (N,), low=-30, high=30), *gradients(4, (N,), seed=6)]
    updates = np.stack(run(sequence, lambda gradient, state: UPDATE(gradient, state, huge))[0])
    assert np.isfinite(updates).all()
    np.testing.assert_array_less(np.abs(updates), 0.1 * (1 + 1e-6))
    assert np.abs(updates).max() > 0.099


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1e2, 1e4])
def test_the_scale_of_the_loss_does_not_matter(scale):
    sequence = gradients(5, (N,))
    plain, scaled = (np.stack(run(list((c * sequence).astype(np.float32)))[0]) for c in (1.0, scale))
    np.testing.assert_allclose(scaled, plain, rtol=1e-3, atol=3e-6)
    assert np.std(plain) > 1e-3


def test_zero_gradients_give_finite_updates_and_meta_gradients():
    def meta_loss(theta):
        tx = NETWORK.native(theta, None)
        updates, _ = run([jnp.zeros(3), jnp.zeros(3), jnp.array([0.0, 1e-30, 1.0])], tx.update, tx.init)
        return sum(jnp.sum(u**2) for u in updates)

    value, gradient = jax.jit(jax.value_and_grad(meta_loss))(THETA)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradient))


def test_permuting_the_coordinates_permutes_the_update():
    order = np.random.default_rng(9).permutation(N)
    sequence = gradients(4, (N,))
    plain, permuted = run(list(sequence))[0], run(list(sequence[:, order]))[0]
    for a, b in zip(plain, permuted, strict=True):
        np.testing.assert_allclose(a[order], b, rtol=1e-5, atol=1e-7)
    assert np.unique(np.asarray(plain[-1])).size == N


def test_leaves_of_one_tree_equal_one_vector():
    sequence = gradients(3, (13,))
    trees = [
        {"deep": [row[7:9], row[9:].reshape(2, 1, 2)], "m": row[:6].reshape(2, 3), "s": row[6]} for row in sequence
    ]
    order = np.r_[7:13, 0:7]  # leaves are flattened in the order of their names
    for tree, vector in zip(run(trees)[0], run(list(sequence[:, order]))[0], strict=True):
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        np.testing.assert_allclose(flat, vector, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("layers", "hidden"), [(1, 3), (2, 20)])
def test_bytes_of_state(layers, hidden):
    optimizer = RNNpropConfig(layers=layers, hidden=hidden).build().bind({})  # the state does not depend on theta
    assert l2o.state_bytes(optimizer) == 8 * layers * hidden + 8
