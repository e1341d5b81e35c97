import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from l2o.blackbox.memory import BEND, DOUBT, NOISE, SPREAD, TYPICAL, Memory, inverse_factor, warp

SCALES = jnp.array([[0.3, 0.3], [0.9, 0.6]])
NEVER = 1000


def data(n, d=2, seed=0):
    x = jax.random.uniform(jax.random.key(seed), (n, d))
    return x, jnp.sin(6 * x[:, 0]) + x.sum(1) ** 2


MOST = 64


@functools.partial(jax.jit, static_argnames="size")
def observed(x, y, count, scales, due, size):
    """The first `count` of the observations; one program for any number of them."""
    memory = Memory.empty(size, x.shape[1], len(scales))._replace(scales=scales, due=due)
    keys = jax.random.split(jax.random.key(7), MOST)
    return jax.lax.fori_loop(0, count, lambda i, m: m.observe(keys[i], x[i], y[i]), memory)


def filled(x, y, size, scales=SCALES, due=NEVER):
    """Observations in order, with length scales that stay as they are unless `due` is small."""
    wide, long = jnp.zeros((MOST, x.shape[1])).at[: len(x)].set(x), jnp.zeros(MOST).at[: len(y)].set(y)
    return observed(wide, long, len(y), jnp.asarray(scales), jnp.asarray(due), size)


observe, predict, log_improvement = (
    jax.jit(method) for method in (Memory.observe, Memory.predict, Memory.log_improvement)
)


def correlation(a, b, scale):
    r = np.sqrt(5) * np.linalg.norm((a[:, None] - b[None]) / np.asarray(scale), axis=-1)
    return (1 + r + r**2 / 3) * np.exp(-r)


def warped(y):
    z = (y - y.min()) / (np.sort(y)[len(y) // 2] - y.min())
    return np.where(z > BEND, BEND + BEND * np.log(np.maximum(z, BEND) / BEND), z)


def textbook(x, y, q, scale):
    """Mean, variance and log-likelihood by generalised least squares (Jones et al. 1998), in float64."""
    x, y, q = (np.asarray(a, np.float64) for a in (x, y, q))
    y = warped(y)
    k = correlation(x, x, scale) + NOISE * np.eye(len(x))
    inverse, one = np.linalg.inv(k), np.ones(len(x))
    mean = one @ inverse @ y / (one @ inverse @ one)
    variance = (y - mean) @ inverse @ (y - mean) * (len(x) + DOUBT) / len(x) ** 2
    c = correlation(x, q, scale)
    means = mean + c.T @ inverse @ (y - mean)
    rest = 1 - np.einsum("nm,nk,km->m", c, inverse, c)
    log = -0.5 * len(x) * np.log(variance) - 0.5 * np.linalg.slogdet(k)[1]
    log += np.sum(-0.5 * (np.log(np.asarray(scale) / TYPICAL) / SPREAD) ** 2)
    return means, variance * (rest - NOISE), log


def test_reading_equals_the_textbook():
    (x, y), (q, _) = data(12), data(5, seed=1)
    memory = filled(x, y, 16)
    means, variances = predict(memory, q)
    logs = []
    for i, scale in enumerate(SCALES):
        mean, variance, log = textbook(x, y, q, scale)
        np.testing.assert_allclose(means[i], mean, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(variances[i], variance, rtol=0.05, atol=1e-4)
        logs.append(log)
    weights = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    np.testing.assert_allclose(memory.fit().weight, weights, rtol=0.02, atol=1e-3)
    best = 0.0
    gains = 0.0
    for weight, scale in zip(weights, SCALES, strict=True):
        mean, variance, _ = textbook(x, y, q, scale)
        s = np.sqrt(variance)
        z = (best - mean) / s
        gains = gains + weight * s * (z * norm.cdf(z) + norm.pdf(z))
    clear = gains > 1e-4
    assert clear.any()
    np.testing.assert_allclose(np.exp(log_improvement(memory, q))[clear], gains[clear], rtol=0.1)


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 1000.0), (1e-6, 0.0), (1e6, -3e6)])
def test_units_do_not_matter(factor, shift):
    (x, y), (q, _) = data(10), data(20, seed=1)
    plain, other = filled(x, y, 16), filled(x, factor * y + shift, 16)
    expected = log_improvement(plain, q)
    near = expected > expected.max() - 8
    found = log_improvement(other, q)
    np.testing.assert_allclose(found[near], expected[near], atol=0.05)


def test_warping_bends_what_is_far_above_the_median_and_keeps_the_order():
    y = jnp.array([3.0, 1.0, 2.0, 50.0, 1e6, 0.0, 0.0])
    z = np.asarray(warp(y, jnp.asarray(5)))
    np.testing.assert_allclose(z[:3], [1.0, 0.0, 0.5])
    np.testing.assert_allclose(z[3], BEND * (1 + np.log(24.5 / BEND)), rtol=1e-5)
    assert (np.argsort(z[:5]) == np.argsort(np.asarray(y[:5]))).all() and z[4] < 50 and not z[5:].any()
    np.testing.assert_allclose(warp(8 * y + 64, jnp.asarray(5)), z, rtol=1e-4)
    assert not np.asarray(warp(jnp.full(4, 2.0), jnp.asarray(4))).any()


def test_an_empty_memory_and_equal_values_are_finite():
    q, _ = data(4)
    assert np.isfinite(log_improvement(Memory.empty(8, 2), q)).all()
    x, y = data(7)
    for n in (1, 7):
        assert np.isfinite(log_improvement(filled(x[:n], jnp.full(n, 3.0), 8, due=6), q)).all()
    same = filled(jnp.tile(x[:1], (7, 1)), y, 8, due=6)
    assert np.isfinite(log_improvement(same, q)).all() and np.isfinite(same.descent(x[0])).all()


def test_nothing_is_expected_where_the_best_point_lies():
    """Else a search that trusts the memory stays there for good."""
    x, y = data(12)
    gains = log_improvement(filled(x, y, 16), jnp.concatenate([x[jnp.argmin(y)][None], data(50, seed=3)[0]]))
    assert gains[0] < gains[1:].max() - 3


def test_descent_is_the_negative_gradient_of_the_mean_in_length_scales():
    x, y = data(12)
    memory = filled(x, y, 16)
    leading = int(jnp.argmax(memory.fit().weight))
    point = jnp.array([0.4, 0.6])
    gradient = jax.grad(lambda p: predict(memory, p[None])[0][leading, 0])(point)
    scales = SCALES[leading]
    expected = -scales * (scales * gradient) / jnp.linalg.norm(scales * gradient)
    np.testing.assert_allclose(memory.descent(point), expected, rtol=1e-3, atol=1e-4)
    assert jnp.linalg.norm(memory.descent(point) / scales) == pytest.approx(1, abs=1e-4)


def test_competition_is_a_change_for_the_better_and_changes_nothing_else():
    x, y = data(12)
    before, after = filled(x, y, 32), filled(x, y, 32, due=12)
    assert not np.array_equal(before.scales, after.scales)
    again = filled(x, y, 32, scales=after.scales)
    for name in ("inverse", "log_det"):
        np.testing.assert_allclose(getattr(after, name), getattr(again, name), rtol=2e-2, atol=2e-2)
    logs = [
        max(textbook(x, y, x[:1], scale)[2] for scale in memory.scales) for memory in (before, after)
    ]  # fmt: skip
    assert logs[1] > logs[0] and after.due == 24


def test_competition_finds_out_which_coordinate_matters():
    x, _ = data(40, d=3)
    y = jnp.sin(8 * x[:, 1])
    memory = filled(x, y, 64, scales=jnp.full((2, 3), 0.5), due=6)
    best = memory.scales[jnp.argmax(memory.fit().weight)]
    assert best[1] < 0.7 * best[0] and best[1] < 0.7 * best[2]


def test_a_full_memory_keeps_the_better_half():
    x, y = data(9)
    memory = filled(x, y, 8, due=8)
    assert memory.used == 5
    kept = np.sort(np.argsort(y[:8])[:4])
    order = jnp.array([*sorted(kept, key=lambda i: float(y[i])), 8])
    expected = filled(x[order], y[order], 8, scales=memory.scales)
    q, _ = data(5, seed=1)
    (means, variances), (other, others) = predict(memory, q), predict(expected, q)
    np.testing.assert_allclose(means, other, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(variances, others, rtol=0.05, atol=1e-3)


def test_a_batch_equals_a_loop_also_when_it_is_due_for_some():
    x, y = data(41)
    memories = [filled(x[:n], y[:n], 40, due=due) for n, due in ((3, 4), (39, 40), (20, NEVER))]
    keys = jax.random.split(jax.random.key(9), 3)
    together = jax.jit(jax.vmap(lambda k, m: m.observe(k, x[40], y[40])))(
        keys, jax.tree.map(lambda *a: jnp.stack(a), *memories)
    )
    assert together.used.tolist() == [4, 20, 21]
    for i, memory in enumerate(memories):
        alone = observe(memory, jax.random.clone(keys)[i], x[40], y[40])
        np.testing.assert_allclose(together.scales[i], alone.scales, rtol=1e-4)
        q, _ = data(5, seed=1)
        one = jax.tree.map(lambda a, i=i: a[i], together)
        for a, b in zip(predict(one, q), predict(alone, q), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("k", [1, 5, 16, 33, 50])
def test_the_inverse_factor_is_one(k):
    x = jax.random.normal(jax.random.key(k), (2, k, k + 3))
    gram = x @ x.mT / k + 0.5 * jnp.eye(k)[None]
    inverse = inverse_factor(gram)
    np.testing.assert_allclose(inverse, np.linalg.inv(np.linalg.cholesky(np.asarray(gram, np.float64))), atol=1e-4)


@pytest.mark.slow
def test_a_batch_of_batches_equals_a_loop():
    x, y = data(9)
    memories = [
        [filled(x[:n], y[:n], 8, due=due) for n, due in row] for row in (((3, 4), (8, 8)), ((5, NEVER), (7, 8)))
    ]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *[jax.tree.map(lambda *a: jnp.stack(a), *row) for row in memories])
    key = jax.random.key(3)
    together = jax.jit(jax.vmap(jax.vmap(lambda m: m.observe(jax.random.clone(key), x[8], y[8]))))(stacked)
    for i in range(2):
        for j in range(2):
            alone = observe(memories[i][j], jax.random.clone(key), x[8], y[8])
            assert together.used[i, j] == alone.used
            np.testing.assert_allclose(together.scales[i, j], alone.scales, rtol=1e-4)
