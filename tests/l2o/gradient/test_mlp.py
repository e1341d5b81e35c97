"""The MLP rule: untrained, the classical rule it is built on; with any weights, the symmetries it must have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.gradient.mlp import MLPConfig, orthogonalised
from l2o.unroll import unroll, values_only
from tasks.networks.classifiers import MLPClassifierConfig

NETWORK: Any = MLPConfig(learning_rate=0.05).build()
FRESH = NETWORK.init(jax.random.key(0))
STEPS, HORIZON = 10, 8


def shaken(seed=1, size=0.2):
    """Meta-parameters in which no leaf is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: np.float32(a + size * rng.normal(size=a.shape)), FRESH)


THETA = shaken()
PARAMS = {
    "b": np.zeros(4, np.float32),
    "s": np.float32(0.7),
    "t": np.random.default_rng(2).normal(size=(3, 2, 4)).astype(np.float32) / 10,
    "w": np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32),
}


def gradients(like: Any = PARAMS, seed=4, steps=STEPS):
    """A gradient for each step, stacked."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.normal(size=(steps, *a.shape)).astype(np.float32), like)


def losses(steps=STEPS):
    return np.linspace(3.0, 1.0, steps, dtype=np.float32) ** 2


def run(theta, params, gradients, values, horizon: int | None = HORIZON):
    """The updates of each step, stacked; the parameters move with them."""
    return scanned(theta, params, gradients, values, horizon)


@jax.jit
def scanned(theta, params, gradients, values, horizon):
    tx = NETWORK.native(theta, horizon)

    def body(carry, seen):
        (x, state), (gradient, value) = carry, seen
        updates, state = tx.update(gradient, state, x, value=value)
        return (jax.tree.map(jnp.add, x, updates), state), updates

    return jax.lax.scan(body, (params, tx.init(params)), (gradients, values))[1]


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def assert_close(a, b, rtol=1e-3):
    """Equal up to rounding, relative to the largest number of each leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.max(np.abs(y), initial=0), 1e-30))


# the untrained rule


def newton_schulz(x):
    """The quintic of Jordan et al. (2024) on the singular values, which is what their iteration does."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


def classical(sequence, start, horizon, matrix):
    """Muon's or Adam's direction with root mean square 1, on a cosine schedule, in double precision."""
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(np.asarray(sequence, np.float64), 1):
        m, v = 0.95 * m + 0.05 * g, 0.999 * v + 0.001 * g**2
        corrected = m / (1 - 0.95**t)
        if matrix:
            ahead = 0.95 * corrected + 0.05 * g
            u = newton_schulz(ahead.reshape(-1, g.shape[-1])).reshape(g.shape)
        else:
            u = corrected / np.sqrt(v / (1 - 0.999**t))
        cosine = 0.5 + 0.5 * np.cos(np.pi * min((t - 1) / horizon, 1))
        out.append(-0.05 * start * cosine * u / rms(u))
    return np.array(out)


def test_untrained_it_is_muon_for_matrices_and_adam_for_everything_else():
    matrices, others = [(3, 9), (3, 2, 4)], [(7,), (5, 1), ()]
    rng = np.random.default_rng(5)
    params = {str(shape): np.float32(0.3 * rng.normal(size=shape)) for shape in matrices + others}
    sequence = gradients(params)
    found = run(FRESH, params, sequence, losses())
    for shape in matrices + others:
        name = str(shape)
        expected = classical(sequence[name], rms(params[name]), HORIZON, shape in matrices)
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_untrained_it_goes_where_optaxs_muon_goes():
    """At first and in the long run; in between the two correct the zero start of the momentum differently."""
    w, steps = PARAMS["w"], 200
    sequence = gradients(w, steps=steps)
    found = run(FRESH, w, sequence, losses(steps), None)
    muon = optax.contrib.muon(0.1, beta=0.95)

    def body(state, gradient):
        update, state = muon.update(gradient, state, w)
        return state, update

    expected = jax.jit(lambda g: jax.lax.scan(body, muon.init(w), g)[1])(sequence)
    a, b = (np.asarray(x).reshape(steps, -1) for x in (found, expected))
    alike = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert alike[0] > 0.999 and alike[150:].min() > 0.999


def test_a_bias_that_starts_at_zero_is_measured_by_the_rest():
    found = run(FRESH, PARAMS, gradients(), losses())
    whole = rms(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)]))
    np.testing.assert_allclose(rms(found["b"][0]), 0.05 * whole, rtol=1e-4)
    nothing = jax.tree.map(np.zeros_like, PARAMS)
    for leaf in jax.tree.leaves(run(FRESH, nothing, gradients(), losses())):
        np.testing.assert_allclose(rms(leaf[0]), 0.05, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (30, 7), (8, 64)])
def test_orthogonalised_has_singular_values_of_about_one(shape):
    for size in (1e-3, 1.0, 1e3):
        x = np.float32(size * np.random.default_rng(6).normal(size=shape))
        found = np.asarray(jax.jit(orthogonalised)(x), np.float64)
        s = np.linalg.svd(found, compute_uv=False)
        assert s.min() > 0.6 and s.max() < 1.3
        np.testing.assert_allclose(found, newton_schulz(np.float64(x)), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(orthogonalised(jnp.zeros(shape)), 0)


# any weights


def test_the_weights_matter():
    plain, other = (run(theta, PARAMS, gradients(), losses()) for theta in (FRESH, THETA))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        assert np.linalg.norm(a - b) > 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("size", [0.1, 0.3])
@pytest.mark.parametrize("c", [1e-3, 1e3])
def test_the_unit_of_the_loss_does_not_matter(c, size):
    theta, seen = shaken(7, size), (gradients(), losses())
    found = run(theta, PARAMS, *jax.tree.map(lambda a: np.float32(c * a), seen))
    assert_close(found, run(theta, PARAMS, *seen))


def test_the_unit_of_the_loss_does_not_matter_where_gradients_are_small():
    seen = gradients(), losses()
    assert_close(
        run(THETA, PARAMS, *jax.tree.map(lambda a: np.float32(1e-9 * a), seen)), run(THETA, PARAMS, *seen), rtol=0.02
    )


@pytest.mark.parametrize("c", [1e-3, 1e3])
def test_the_unit_of_the_parameters_scales_the_update(c):
    sequence = gradients()
    params, scaled = {k: np.float32(a / c) for k, a in PARAMS.items()}, {k: c * g for k, g in sequence.items()}
    found = run(THETA, params, scaled, losses())
    assert_close({k: np.multiply(c, u) for k, u in found.items()}, run(THETA, PARAMS, sequence, losses()))


def test_leaves_may_come_in_any_order_and_shape_of_tree():
    names = {"b": "z", "s": "y", "t": "x", "w": "v"}
    sequence = gradients()
    found = run(THETA, {names[k]: v for k, v in PARAMS.items()}, {names[k]: v for k, v in sequence.items()}, losses())
    assert_close({k: found[names[k]] for k in names}, run(THETA, PARAMS, sequence, losses()))


# the horizon


def cosine():
    return 0.5 + 0.5 * np.cos(np.pi * np.minimum(np.arange(STEPS) / HORIZON, 1))


def test_the_step_falls_with_the_cosine_and_ends_at_the_horizon():
    updates = run(FRESH, PARAMS, gradients(), losses())
    for leaf in jax.tree.leaves(updates):
        sizes = np.array([rms(step) for step in leaf])
        np.testing.assert_allclose(sizes / sizes[0], cosine(), atol=1e-5)
        assert sizes[HORIZON:].max() < 1e-6 * sizes[0]
    for leaf in jax.tree.leaves(run(THETA, PARAMS, gradients(), losses())):
        sizes = np.array([rms(step) for step in leaf])
        assert np.isfinite(sizes).all() and sizes[:HORIZON].min() > 0 and sizes[HORIZON:].max() < 1e-5 * sizes[0]


def test_without_a_horizon_the_step_is_constant():
    updates = run(FRESH, PARAMS, gradients(), losses(), None)
    for leaf in jax.tree.leaves(updates):
        sizes = np.array([rms(step) for step in leaf])
        np.testing.assert_allclose(sizes, sizes[0], rtol=1e-4)
    for leaf in jax.tree.leaves(run(THETA, PARAMS, gradients(), losses(), None)):
        assert np.isfinite(leaf).all() and rms(leaf[-1]) > 0.1 * rms(leaf[0])


@pytest.mark.parametrize("horizon", [1, 0])
def test_the_shortest_horizons_are_finite(horizon):
    for leaf in jax.tree.leaves(run(THETA, PARAMS, gradients(), losses(), horizon)):
        assert np.isfinite(leaf).all() and rms(leaf[0]) > 0


# what can go wrong


def test_without_a_value_the_loss_counts_as_constant():
    sequence = gradients()
    zero, none = (run(THETA, PARAMS, sequence, values, None) for values in (np.zeros(STEPS, np.float32), None))
    assert_close(none, zero, rtol=1e-4)
    told = run(THETA, PARAMS, sequence, losses(), None)
    assert rms(none["w"] - told["w"]) > 1e-6
    np.testing.assert_array_equal(none["w"][0], told["w"][0], "the first loss is nothing to compare with")


@pytest.mark.parametrize("first", [[np.nan] * STEPS, [np.inf], [1.0, np.inf, -np.inf, np.nan]], ids=str)
def test_a_loss_that_is_not_finite_keeps_the_update_finite(first):
    for leaf in jax.tree.leaves(
        run(THETA, PARAMS, gradients(), np.array([*first, *losses()[len(first) :]], np.float32))
    ):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_a_loss_that_is_infinite_from_the_start_keeps_the_update_finite(value):
    for leaf in jax.tree.leaves(run(THETA, PARAMS, gradients(), np.full(STEPS, value, np.float32))):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("theta", [FRESH, THETA], ids=["fresh", "shaken"])
def test_zero_gradients_give_finite_updates(theta):
    nothing = jax.tree.map(np.zeros_like, gradients())
    late = jax.tree.map(lambda g: np.append(0 * g[:1], g[1:], axis=0), gradients())
    for sequence in (nothing, late):
        for params in (PARAMS, jax.tree.map(np.zeros_like, PARAMS)):
            updates = run(theta, params, sequence, losses())
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@jax.jit
@jax.grad
def meta_gradient(theta, sequence):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(run(theta, PARAMS, sequence, losses())))


@pytest.mark.parametrize("theta", [FRESH, THETA], ids=["fresh", "shaken"])
def test_the_meta_gradient_is_finite(theta):
    found = meta_gradient(theta, gradients())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)) and found["~"]["log_rate"] != 0


def test_the_meta_gradient_is_finite_where_a_tensor_has_no_gradient():
    sequence = {**gradients(), "b": np.zeros((STEPS, 4), np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(meta_gradient(FRESH, sequence)))


def test_it_needs_the_parameters():
    tx = NETWORK.native(THETA, HORIZON)
    with pytest.raises(ValueError, match="needs the parameters") as error:
        tx.update(PARAMS, tx.init(PARAMS))
    assert "\n" not in str(error.value)


# whole runs


def test_vmap_over_models_and_weights_equals_a_loop():
    thetas, sequences = [FRESH, THETA], [gradients(seed=seed) for seed in (8, 9)]
    stacked = jax.tree.map(lambda *a: np.stack(a), *zip(thetas, sequences, strict=True))
    batched = jax.vmap(lambda theta, sequence: run(theta, PARAMS, sequence, losses()))(*stacked)
    for i, (theta, sequence) in enumerate(zip(thetas, sequences, strict=True)):
        assert_close(jax.tree.map(lambda a, i=i: a[i], batched), run(theta, PARAMS, sequence, losses()))


@pytest.mark.slow
def test_untrained_it_learns_digits():
    family = MLPClassifierConfig(activation="relu", init="lecun", start_scale=1.0, batch_size=64).build("test")
    network = MLPConfig().build()
    optimizer = network.bind(network.init(jax.random.key(10)))

    @jax.jit
    def play(family, keys):
        def one(key):
            sample_key, init_key, run_key = jax.random.split(key, 3)
            task = family.task(family.sample(sample_key)).with_horizon(100)
            state = optimizer.init(init_key, task.problem)
            return unroll(optimizer, task, state, run_key, 100, record=values_only)[1].evaluation.value[:, 0]

        return jax.vmap(one)(keys)

    values = play(family, jax.random.split(jax.random.key(11), 2))
    assert values[:, 0].min() > 2
    assert values[:, -10:].mean() < 0.2
