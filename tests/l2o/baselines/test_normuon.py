"""NorMuon against its equations, in numpy and in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import l2o
from l2o.baselines.normuon import normuon, scale_by_neuron

RNG = np.random.default_rng(0)
TRANSPOSED = MuonDimensionNumbers(reduction_axis=1, output_axis=0)


def gradients(*shape, steps=6):
    return RNG.normal(size=(steps, *shape))


def played(tx, grads, params=None):
    """The updates, in double precision and one jitted step at a time."""
    with jax.enable_x64(True):
        first = jax.tree.map(lambda g: jnp.asarray(g[0]), grads)
        state, step, out = tx.init(first), jax.jit(tx.update), []
        for t in range(len(jax.tree.leaves(grads)[0])):
            updates, state = step(jax.tree.map(lambda g, t=t: jnp.asarray(g[t]), grads), state, params or first)
            out.append(jax.tree.map(np.asarray, updates))
        return jax.tree.map(lambda *u: np.stack(u), *out)


def orthogonalised(x):
    """Five steps of the quintic Newton-Schulz iteration of Jordan et al. (2024)."""
    transposed = x.shape[0] > x.shape[1]
    x = (x.T if transposed else x) / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if transposed else x


def reference(grads, beta1, beta2, eps, rate, decay, start, nesterov):
    """Algorithm 1 of the paper, whose rows are neurons; the updates at parameters that stay at the start."""
    m, v, out = np.zeros_like(grads[0]), np.zeros((grads[0].shape[0], 1)), []
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        # Nesterov's momentum in optax (Dozat 2016); the scale of what is orthogonalised does not matter
        ahead = beta1 * m / (1 - beta1 ** (t + 1)) + (1 - beta1) * g / (1 - beta1**t)
        o = orthogonalised(ahead if nesterov else m)
        v = beta2 * v + (1 - beta2) * np.mean(o * o, 1, keepdims=True)
        normalised = o / (np.sqrt(v) + eps)
        scale = 0.2 * rate * np.sqrt(o.size) / np.linalg.norm(normalised)
        out.append(-rate * decay * start - scale * normalised)
    return np.stack(out)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_algorithm_1(shape, nesterov):
    grads, start = gradients(*shape), RNG.normal(size=shape)
    expected = reference(grads, 0.9, 0.8, 1e-8, 0.1, 0.3, start, nesterov)
    settings = {"beta": 0.9, "b2": 0.8, "weight_decay": 0.3, "nesterov": nesterov}
    rows = normuon(0.1, **settings, muon_weight_dimension_numbers={"w": TRANSPOSED})
    np.testing.assert_allclose(played(rows, {"w": grads}, {"w": start})["w"], expected, rtol=1e-6, atol=1e-9)
    # weights stored as [inputs, outputs]
    columns = played(normuon(0.1, **settings), {"w": grads.swapaxes(1, 2)}, {"w": start.T})["w"]
    np.testing.assert_allclose(columns.swapaxes(1, 2), expected, rtol=1e-6, atol=1e-9)


def test_neurons_move_alike_and_the_matrix_has_its_rms():
    """At the first step exactly, and later in the mean."""
    # correlated inputs: what Muon itself gives has neurons of unequal norm
    grads = {"w": RNG.normal(size=(60, 8, 1)) * np.r_[4.0, 1, 1, 1] + 0.3 * RNG.normal(size=(60, 8, 4))}
    updates = played(normuon(1.0, b2=0.95), grads)["w"]
    rms = np.sqrt(np.mean(updates**2, 1))
    np.testing.assert_allclose(rms[0], 0.2, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(np.mean(updates**2, (1, 2))), 0.2, rtol=1e-6)
    in_the_mean = np.sqrt(np.mean(rms[30:] ** 2, 0))
    muon = played(optax.contrib.muon(1.0), grads)["w"][30:]
    muon = np.sqrt(np.mean(muon**2, (0, 1)))
    assert in_the_mean.max() / in_the_mean.min() < 1.15 < muon.max() / muon.min()


def test_everything_else_is_as_in_muon():
    grads = {"w": gradients(2, 3), "b": gradients(3), "s": gradients(), "t": gradients(2, 1, 2)}
    grads["embed"] = grads["w"]
    settings = {"adam_learning_rate": 0.02, "adam_b1": 0.8, "adam_b2": 0.9, "adam_weight_decay": 0.1}
    found, muon = (
        played(make(0.1, **settings, muon_weight_dimension_numbers=numbers), grads)
        for make, numbers in ((normuon, {**dict.fromkeys(grads), "w": MuonDimensionNumbers()}),
                              (optax.contrib.muon, {**dict.fromkeys(grads), "w": MuonDimensionNumbers()}))
    )  # fmt: skip
    for name in grads:
        assert np.allclose(found[name], muon[name]) == (name != "w")
    named = played(normuon(0.1, **settings), grads)
    jax.tree.map(np.testing.assert_array_equal, named, found)


def test_a_stack_of_matrices_moves_as_its_members_do():
    stack = gradients(2, 3, 2)
    numbers = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    found = played(normuon(0.1, muon_weight_dimension_numbers={"w": numbers}), {"w": stack})["w"]
    for i in range(2):
        np.testing.assert_allclose(found[:, i], played(normuon(0.1), {"w": stack[:, i]})["w"], rtol=1e-9)


def test_one_number_is_kept_for_each_neuron():
    state = scale_by_neuron().init({"w": jnp.zeros((5, 3), jnp.bfloat16)})
    assert state.nu["w"].shape == (1, 3) and state.nu["w"].dtype == jnp.float32


def test_configuration():
    config = l2o.kinds(l2o.BaselineConfig)["normuon"](
        beta=0.8, b2=0.7, nesterov=False, weight_decay=0.1, adam_ratio=0.5, matrices="all"
    )
    grads = {"head": gradients(2, 2), "b": gradients(2)}
    numbers = {"head": MuonDimensionNumbers(), "b": None}
    settings = {"beta": 0.8, "b2": 0.7, "nesterov": False, "weight_decay": 0.1, "adam_learning_rate": 0.05}
    expected = played(normuon(0.1, **settings, muon_weight_dimension_numbers=numbers), grads)
    jax.tree.map(np.testing.assert_array_equal, played(config.transformation(0.1), grads), expected)
    assert config.label == "normuon" and l2o.kinds(l2o.BaselineConfig)["normuon"]().matrices == "hidden"
