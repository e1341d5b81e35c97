"""Shampoo against its equations, in numpy and in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.baselines.shampoo import scale_by_shampoo, shampoo

RNG = np.random.default_rng(0)


def gradients(*shape, steps=6):
    return RNG.normal(size=(steps, *shape))


def played(tx, grads, params=None):
    """The updates, in double precision and one jitted step at a time."""
    with jax.enable_x64(True):
        first = jax.tree.map(lambda g: jnp.asarray(g[0]), grads)
        state, step, out = tx.init(first), jax.jit(tx.update), []
        for t in range(len(jax.tree.leaves(grads)[0])):
            updates, state = step(jax.tree.map(lambda g, t=t: jnp.asarray(g[t]), grads), state, params)
            out.append(jax.tree.map(np.asarray, updates))
        return jax.tree.map(lambda *u: np.stack(u), *out)


def reference(grads, b1, b2, eps, ridge, grafting, frequency):
    """Algorithm 2 of the paper with means in place of sums, and Adam's norm (Anil et al. 2020)."""
    shape, out = grads[0].shape, []
    m, v, sums, roots = np.zeros(shape), np.zeros(shape), [0.0] * len(shape), [None] * len(shape)
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        momentum = m / (1 - b1**t)
        adam, step = momentum / (np.sqrt(v / (1 - b2**t)) + eps), momentum
        for axis, size in enumerate(shape):
            rows = np.moveaxis(g, axis, 0).reshape(size, -1)
            sums[axis] = b2 * sums[axis] + (1 - b2) * rows @ rows.T
            if (t - 1) % frequency == 0:
                mean = sums[axis] / (1 - b2**t)
                values, vectors = np.linalg.eigh(mean + ridge * np.linalg.norm(mean, 2) * np.eye(size))
                roots[axis] = vectors @ np.diag(values ** (-0.5 / len(shape))) @ vectors.T
            step = np.moveaxis(np.tensordot(roots[axis], step, ((1,), (axis,))), 0, axis)
        out.append(step * np.linalg.norm(adam) / np.linalg.norm(step) if grafting == "adam" else step)
    return np.stack(out)


@pytest.mark.parametrize(("shape", "grafting", "frequency"), [
    ((3, 3), "none", 1), ((2, 4), "none", 1), ((2, 4), "adam", 3), ((2, 3, 2), "none", 2), ((2, 3, 2), "adam", 1),
])  # fmt: skip
def test_it_is_algorithm_2(shape, grafting, frequency):
    grads = gradients(*shape)
    tx = scale_by_shampoo(0.9, 0.8, 1e-8, ridge=1e-3, grafting=grafting, precondition_frequency=frequency)
    expected = reference(grads, 0.9, 0.8, 1e-8, 1e-3, grafting, frequency)
    np.testing.assert_allclose(played(tx, grads), expected, rtol=1e-8, atol=1e-10)


def test_without_factors_it_is_adam():
    grads = {"w": gradients(2, 3), "b": gradients(4), "s": gradients()}
    zeros = jax.tree.map(lambda g: np.zeros(g.shape[1:]), grads)
    found = played(shampoo(0.1, 0.9, 0.99, max_precondition_dim=1), grads, zeros)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, played(optax.adam(0.1, 0.9, 0.99), grads)
    )


def test_of_diagonal_gradients_it_divides_by_the_root_of_the_mean_square():
    g = RNG.normal(size=(5, 3)) + 2
    found = played(scale_by_shampoo(0.0, 0.9, ridge=1e-12, grafting="none"), np.stack([np.diag(row) for row in g]))
    adam = played(optax.scale_by_adam(0.0, 0.9), g)
    np.testing.assert_allclose(found, np.stack([np.diag(row) for row in adam]), rtol=1e-5, atol=1e-8)


def test_a_single_gradient_gives_its_orthogonal_factor():
    """As Muon without momentum does."""
    grads = gradients(3, 3, steps=1)
    u, _, v = np.linalg.svd(grads[0])
    np.testing.assert_allclose(played(scale_by_shampoo(ridge=1e-14, grafting="none"), grads)[0], u @ v, atol=1e-6)


def test_a_rotation_of_the_gradients_rotates_the_updates_and_their_units_do_not_matter():
    grads = gradients(3, 2)
    u, v = (np.linalg.qr(RNG.normal(size=(n, n)))[0] for n in (3, 2))
    tx = scale_by_shampoo(grafting="none")
    np.testing.assert_allclose(played(tx, u @ grads @ v), u @ played(tx, grads) @ v, atol=1e-8)
    np.testing.assert_allclose(played(tx, 1e-6 * grads), played(tx, grads), atol=1e-8)


def test_grafting_keeps_the_direction_and_takes_adams_norm():
    grads = gradients(3, 2)
    grafted, plain = (played(scale_by_shampoo(grafting=grafting), grads) for grafting in ("adam", "none"))
    norms = [np.linalg.norm(u, axis=(1, 2)) for u in (grafted, plain, played(optax.scale_by_adam(0.9, 0.99), grads))]
    np.testing.assert_allclose(norms[0], norms[2], rtol=1e-6)
    np.testing.assert_allclose(grafted / norms[0][:, None, None], plain / norms[1][:, None, None], atol=1e-9)
    with pytest.raises(Exception, match="'sgd'"):  # under pytest, the types are checked first
        shampoo(0.1, grafting="sgd")  # pyright: ignore[reportArgumentType]


def test_complex_gradients_are_turned_by_unitary_matrices():
    grads = gradients(2, 2) + 1j * gradients(2, 2)
    u, v = (np.linalg.qr(RNG.normal(size=(2, 2)) + 1j * RNG.normal(size=(2, 2)))[0] for _ in range(2))
    tx = scale_by_shampoo(grafting="none")
    np.testing.assert_allclose(played(tx, u @ grads @ v), u @ played(tx, grads) @ v, atol=1e-8)


def test_singular_and_zero_gradients_give_finite_updates():
    params = {
        "rank one": jnp.outer(jnp.arange(1.0, 4), jnp.ones(5)),
        "zero": jnp.zeros((2, 3)),
        "tiny": jnp.full((2, 2), 1e-18),
    }
    tx = scale_by_shampoo()
    updates, state = jax.jit(tx.update)(params, tx.init(params))
    updates, _ = jax.jit(tx.update)(params, state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))
    assert not np.any(updates["zero"]) and np.all(updates["rank one"] > 0.4)


def test_weight_decay_and_configuration():
    grads, params = gradients(2, 2), np.ones((2, 2))
    plain, decayed = (played(shampoo(0.1, weight_decay=decay), grads, params) for decay in (0.0, 0.5))
    np.testing.assert_allclose(plain - decayed, np.full_like(plain, 0.05), atol=1e-12)
    settings = {"b2": 0.9, "grafting": "none", "precondition_frequency": 2, "weight_decay": 0.5}
    config = l2o.kinds(l2o.BaselineConfig)["shampoo"](**settings)
    expected = played(shampoo(0.1, **settings), grads, params)
    np.testing.assert_array_equal(played(config.transformation(0.1), grads, params), expected)
