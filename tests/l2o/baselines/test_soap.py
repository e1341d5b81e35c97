"""SOAP against its equations, in numpy and in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.baselines.soap import scale_by_soap, soap

RNG = np.random.default_rng(0)


def gradients(*shape, steps=7):
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


def along(tensor, matrices):
    """Each axis turned by the transpose of its matrix."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            tensor = np.moveaxis(np.tensordot(tensor, matrix, ((axis,), (0,))), -1, axis)
    return tensor


def reference(grads, b1, b2, eps, frequency, longest=100):
    """Algorithm 3 of the paper, with Adam's moments; the first gradient sets the basis and moves nothing."""
    shape, out = grads[0].shape, [np.zeros_like(grads[0])]
    m, v, covariances, bases = np.zeros(shape), np.zeros(shape), [], []
    for t, g in enumerate(grads):
        if t:
            m, turned = b1 * m + (1 - b1) * g, along(g, bases)
            v = b2 * v + (1 - b2) * turned**2
            n = along(m / (1 - b1**t), bases) / (np.sqrt(v / (1 - b2**t)) + eps)
            out.append(along(n, [None if q is None else q.T for q in bases]))
        for axis, size in enumerate(shape):
            rows = np.moveaxis(g, axis, 0).reshape(size, -1)
            if t == 0:
                covariances.append((1 - b2) * rows @ rows.T)
                bases.append(np.linalg.eigh(covariances[axis])[1][:, ::-1] if size <= longest else None)
                continue
            covariances[axis] = b2 * covariances[axis] + (1 - b2) * rows @ rows.T
            q = bases[axis]
            if t % frequency == 0 and q is not None:
                order = np.argsort(-np.diag(q.T @ covariances[axis] @ q))
                v = np.take(v, order, axis)
                bases[axis] = np.linalg.qr(covariances[axis] @ q[:, order])[0]
    return np.stack(out)


# shapes whose first factors have full rank: else the basis of the first steps is arbitrary in the null space
@pytest.mark.parametrize(("shape", "longest"), [((3, 3), 100), ((2, 3, 2), 100), ((2, 4), 2)])
@pytest.mark.parametrize("frequency", [1, 3])
def test_it_is_algorithm_3(shape, longest, frequency):
    grads = gradients(*shape)
    found = played(scale_by_soap(0.9, 0.8, 1e-8, precondition_frequency=frequency, max_precondition_dim=longest), grads)
    np.testing.assert_allclose(found, reference(grads, 0.9, 0.8, 1e-8, frequency, longest), rtol=1e-8, atol=1e-9)


def test_without_a_basis_it_is_adam_from_the_second_gradient_on():
    grads = {"w": gradients(2, 3), "b": gradients(4), "s": gradients()}
    zeros = jax.tree.map(lambda g: np.zeros(g.shape[1:]), grads)
    found = played(soap(0.1, 0.9, 0.99, max_precondition_dim=1), grads, zeros)
    adam = played(optax.adam(0.1, 0.9, 0.99), jax.tree.map(lambda g: g[1:], grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:], b, rtol=1e-12), found, adam)
    assert all(not leaf[0].any() for leaf in jax.tree.leaves(found))
    with_basis = played(soap(0.1, 0.9, 0.99), grads, zeros)
    np.testing.assert_array_equal(with_basis["b"], found["b"])
    np.testing.assert_array_equal(with_basis["s"], found["s"])
    assert np.abs(with_basis["w"][1:] - found["w"][1:]).max() > 0.01


def test_a_rotation_of_the_gradients_rotates_the_updates():
    grads = gradients(3, 3)
    u, v = (np.linalg.qr(RNG.normal(size=(3, 3)))[0] for _ in range(2))
    tx = scale_by_soap(precondition_frequency=2)
    np.testing.assert_allclose(played(tx, u @ grads @ v), u @ played(tx, grads) @ v, atol=1e-8)
    # which Adam's do not
    tx = optax.scale_by_adam()
    assert np.abs(played(tx, u @ grads @ v) - u @ played(tx, grads) @ v).max() > 0.1


def test_diagonal_gradients_leave_adam():
    """Whose eigenbasis is the identity up to the order of its columns."""
    grads = np.stack([np.diag(g) for g in RNG.normal(size=(5, 3))])
    found = played(scale_by_soap(0.9, 0.9, precondition_frequency=1), grads)
    np.testing.assert_allclose(found[1:], played(optax.scale_by_adam(0.9, 0.9), grads[1:]), atol=1e-7)


@pytest.mark.parametrize("frequency", [1, 2])
def test_complex_gradients_are_turned_by_unitary_matrices(frequency):
    grads = gradients(2, 2) + 1j * gradients(2, 2)
    u, v = (np.linalg.qr(RNG.normal(size=(2, 2)) + 1j * RNG.normal(size=(2, 2)))[0] for _ in range(2))
    tx = scale_by_soap(precondition_frequency=frequency)
    np.testing.assert_allclose(played(tx, u @ grads @ v), u @ played(tx, grads) @ v, atol=1e-8)


def test_bases_stay_orthogonal_also_of_long_matrices():
    tx = scale_by_soap(precondition_frequency=1)
    params = {"long": jnp.zeros((2, 5)), "zero": jnp.zeros((2, 2))}
    state = tx.init(params)
    for g in gradients(2, 5).astype(np.float32):
        updates, state = jax.jit(tx.update)({"long": g, "zero": params["zero"]}, state)
    q = np.asarray(state.q["long"][4:]).reshape(5, 5)
    np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-5)
    assert np.isfinite(updates["long"]).all() and not np.any(updates["zero"])


def test_weight_decay_with_a_mask_and_a_schedule():
    grads, params = {"w": gradients(2, 2), "b": gradients(2)}, {"w": np.ones((2, 2)), "b": np.ones(2)}
    rate = optax.linear_schedule(0.1, 0.0, 7)
    plain = played(soap(rate), grads, params)
    decayed = played(soap(rate, weight_decay=0.5, mask={"w": True, "b": False}), grads, params)
    np.testing.assert_allclose(
        plain["w"] - decayed["w"], np.stack([0.5 * rate(t) * np.ones((2, 2)) for t in range(7)]), atol=1e-7
    )
    np.testing.assert_array_equal(plain["b"], decayed["b"])


def test_configuration():
    config = l2o.kinds(l2o.BaselineConfig)["soap"](
        learning_rate=0.1, b1=0.9, precondition_frequency=2, weight_decay=0.1
    )
    grads, params = gradients(2, 2), np.ones((2, 2))
    expected = played(soap(0.1, 0.9, weight_decay=0.1, precondition_frequency=2), grads, params)
    np.testing.assert_array_equal(played(config.transformation(0.1), grads, params), expected)
    assert config.label == "soap"


def test_matrices_of_one_size_are_one_decomposition():
    params = {str(i): jnp.ones((3, 3)) for i in range(6)}
    tx = scale_by_soap()
    text = str(jax.make_jaxpr(tx.update)(params, tx.init(params)))
    assert text.count(" eigh[") == text.count(" qr[") == 1


@pytest.mark.slow
def test_a_compiled_run_with_matrices_of_many_sizes_ends():
    """On a CPU, calls of LAPACK at one time wait for each other's threads for ever."""
    start = {str(n): jnp.asarray(RNG.normal(size=(n, 2 * n)), jnp.float32) for n in (48, 64, 88, 96, 128)}
    tx = soap(1e-3)

    @jax.jit
    @jax.vmap
    def run(scale):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.tree.map(lambda a: scale * a, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (start, tx.init(start)), length=60)[0][0]

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(jnp.ones(2))))
