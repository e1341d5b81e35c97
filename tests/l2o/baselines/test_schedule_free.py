"""Schedule-free AdamW: optax's rule, and where a run of it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import schedule_free_adamw, schedule_free_eval_params

import l2o
from l2o import Problem, Space, Task, unroll
from l2o.baselines.schedule_free import average_at_end

CONFIG = l2o.kinds(l2o.BaselineConfig)["schedule_free"]
START = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array(0.7)}


def loss(key, x):
    return jnp.sum(jnp.cosh(x["w"])) + jnp.sum((x["b"] - 2) ** 2)


def points(config, horizon, steps):
    problem = Problem(Space.free(), START, horizon=jnp.asarray(horizon))
    optimizer = config.build()

    @jax.jit
    def play(problem):
        state = optimizer.init(jax.random.key(0), problem)
        return unroll(optimizer, Task.from_loss(loss, problem), state, jax.random.key(1), steps)[1].x

    return jax.tree.map(lambda a: np.asarray(a[:, 0]), play(problem))


def plain(rate, steps):
    """The points of optax's rule at which gradients are taken, and the averages."""
    tx = schedule_free_adamw(rate, b1=0.8, b2=0.9, weight_decay=0.1)
    y, state, out = START, tx.init(START), [(START, START)]
    step = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = step(jax.grad(loss, argnums=1)(None, y), state, y)
        y = optax.apply_updates(y, updates)
        out.append((y, schedule_free_eval_params(state, y)))
    return out


@pytest.mark.parametrize("schedule", ["constant", "warmup"])
def test_a_run_ends_at_the_average_and_stays_there(schedule):
    horizon, warmup = (40, 2) if schedule == "warmup" else (6, 0)
    config = CONFIG(learning_rate=0.1, b1=0.8, b2=0.9, weight_decay=0.1, schedule=schedule)
    found = points(config, horizon, horizon + 3)
    rate = optax.warmup_constant_schedule(0.0, 0.1, warmup) if warmup else 0.1
    expected = plain(rate, horizon)
    for name in START:
        y = np.stack([y[name] for y, _ in expected])
        np.testing.assert_allclose(found[name][:horizon], y[:horizon], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name][horizon], expected[-1][1][name], rtol=1e-4, atol=1e-5)
        assert np.abs(y[horizon] - found[name][horizon]).max() > 1e-3
        np.testing.assert_array_equal(found[name][horizon:], np.stack([found[name][horizon]] * 3))


def test_the_average_is_that_of_the_paper():
    """In double precision: z moves by RMSprop, x is its running mean, and gradients are taken between the two."""
    b1, b2, rate, steps = 0.8, 0.9, 0.1, 7
    x = z = y = np.array([1.0, -2.0])
    v = np.zeros(2)
    with jax.enable_x64(True):
        tx = average_at_end(schedule_free_adamw(rate, b1=b1, b2=b2), steps)
        params = jnp.asarray(y)
        state = tx.init(params)
        for t in range(1, steps + 1):
            g = np.sinh(y)
            updates, state = jax.jit(tx.update)(jnp.sinh(params), state, params)
            params = optax.apply_updates(params, updates)
            v = b2 * v + (1 - b2) * g**2
            z = z - rate * g / (np.sqrt(v / (1 - b2**t)) + 1e-8)
            x = (1 - 1 / t) * x + z / t
            y = (1 - b1) * z + b1 * x
            np.testing.assert_allclose(params, y if t < steps else x, rtol=1e-7)


def test_what_it_refuses():
    tx = average_at_end(schedule_free_adamw(0.1), 3)
    with pytest.raises(ValueError, match="average_at_end needs the parameters"):
        tx.update(START, tx.init(START))
    with pytest.raises(ValueError, match="schedule"):
        CONFIG(schedule="cosine")
    assert CONFIG().label == "schedule_free" and CONFIG(schedule="warmup").label == "schedule_free-warmup"
