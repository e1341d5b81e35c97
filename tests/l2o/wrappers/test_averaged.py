"""The average of the iterates: its weights, and that it changes no update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o

TARGET = {"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(2)}


def run(tx, steps):
    """The parameters after each update, and the last state."""
    params = jax.tree.map(jnp.zeros_like, TARGET)
    state, out = tx.init(params), []
    for _ in range(steps):
        grads = jax.tree.map(jnp.subtract, params, TARGET)
        updates, state = tx.update(grads, state, params, value=0.0)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out, state


def test_without_a_power_it_is_the_mean_and_the_updates_stay():
    found, state = run(l2o.averaged(optax.sgd(0.1), power=0.0), 7)
    plain, _ = run(optax.with_extra_args_support(optax.sgd(0.1)), 7)
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    mean = jax.tree.map(lambda *a: np.mean(a, axis=0), *found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), l2o.average_of(state), mean)


def test_with_a_power_late_iterates_weigh_most():
    """The weights are those of products of (1 - share), in double precision; they rise as t^8."""
    found, state = run(optax.chain(optax.identity(), l2o.averaged(optax.sgd(0.1))), 9)
    mean = jax.tree.map(np.zeros_like, TARGET)
    for t, params in enumerate(found, 1):
        mean = jax.tree.map(lambda m, p, t=t: m + 9 / (t + 8) * (np.asarray(p, np.float64) - m), mean, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), l2o.average_of(state), mean)
    shares = 9 / (np.arange(1, 2001) + 8)
    weights = shares * np.append(np.cumprod((1 - shares)[::-1])[::-1][1:], 1)
    assert weights[1999] / weights[999] == pytest.approx(2**8, rel=0.05)


def test_it_says_what_it_lacks():
    tx = l2o.averaged(optax.sgd(0.1))
    with pytest.raises(ValueError, match="averaged needs the parameters"):
        tx.update(TARGET, tx.init(TARGET))
    with pytest.raises(l2o.UserError, match="holds 0 averages"):
        l2o.average_of(optax.adam(0.1).init(TARGET))
