"""Swing-up: conserved quantities, periods and forces of the systems, the policy by hand, and who shares what."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from l2o.baselines.evosax import CMAESConfig
from l2o.unroll import unroll, values_only
from tasks import swingup
from tasks.swingup import CartPole, CartPoleSwingUpConfig, Pendulum, PendulumConfig, policy, step, weights

CONFIGS: Any = {"cartpole": CartPoleSwingUpConfig, "pendulum": PendulumConfig}
SYSTEMS: Any = {"cartpole": CartPole(0.7, 0.4, 0.9, 0.3), "pendulum": Pendulum(0.7, 0.9, 0.3)}


def energy(system, q, v):
    """Kinetic and potential energy, from the speed of every piece of the rod: `integral of dm |velocity|^2 / 2`."""
    angle, turn = q[-1], v[-1]
    if isinstance(system, Pendulum):
        speed, height = system.length * turn, system.length * jnp.cos(angle)
        return system.mass * (speed**2 / 2 + swingup.GRAVITY * height)
    nodes, shares = np.polynomial.legendre.leggauss(2)  # exact for the squares of linear functions
    at, mass = system.length * (nodes + 1) / 2, system.pole * shares / 2
    across, up = v[0] + at * turn * jnp.cos(angle), -at * turn * jnp.sin(angle)
    rod = jnp.sum(mass * ((across**2 + up**2) / 2 + swingup.GRAVITY * at * jnp.cos(angle)))
    return system.cart * v[0] ** 2 / 2 + rod


def momentum(system, q, v):
    """Of cart and rod along the track."""
    return (system.cart + system.pole) * v[0] + system.pole * system.length / 2 * v[1] * jnp.cos(q[1])


def constant(system, output, width=1):
    """The policy that always does `output`, between -1 and 1."""
    return jnp.zeros(weights(system, width)).at[-1].set(jnp.arctanh(output))


def path(system, x, q, v, steps):
    """Coordinates and speeds after each step."""

    def body(state, _):
        state = step(system, x, *state)
        return state, state

    return jax.lax.scan(body, (q, v), length=steps)[1]


def derivative(function, system, q, v, force):
    """Along the motion, and in exact arithmetic but for rounding."""
    return jax.jvp(lambda q, v: function(system, q, v), (q, v), (v, system.acceleration(q, v, force)))[1]


@pytest.mark.parametrize("name", SYSTEMS)
def test_energy_and_momentum_change_by_the_forces_alone(name):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        for _ in range(5):
            q, v = (jnp.asarray(rng.normal(size=system.coordinates) * 3) for _ in range(2))
            force = jnp.asarray(rng.normal() * 4)
            total = force - system.friction * v[0]
            np.testing.assert_allclose(derivative(energy, system, q, v, force), total * v[0], rtol=1e-9)
            if isinstance(system, CartPole):
                np.testing.assert_allclose(derivative(momentum, system, q, v, force), total, rtol=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_undisturbed_system_keeps_its_energy(name):
    system = SYSTEMS[name]._replace(friction=0.0)
    q, v = jnp.full(system.coordinates, 1.0), jnp.zeros(system.coordinates)
    energies = jax.vmap(lambda q, v: energy(system, q, v))(*path(system, constant(system, 0.0), q, v, 500))
    swing = energy(system, q, v) - energy(system, q.at[-1].set(jnp.pi), v)  # what a fall to the bottom sets free
    assert jnp.abs(energies - energy(system, q, v)).max() < 0.01 * swing


@pytest.mark.parametrize("name", SYSTEMS)
def test_small_swings_have_the_period_of_the_textbook(name):
    system = SYSTEMS[name]._replace(friction=0.0)
    square = swingup.GRAVITY / system.length
    if isinstance(system, CartPole):  # a rod on a cart that swings against it
        mass = system.cart + system.pole
        square *= 1.5 * 4 * mass / (4 * mass - 3 * system.pole)
    q, v = jnp.zeros(system.coordinates).at[-1].set(jnp.pi + 0.02), jnp.zeros(system.coordinates)
    angle = np.asarray(path(system, constant(system, 0.0), q, v, 1000)[0][:, -1]) - np.pi
    crossings = np.flatnonzero((angle[:-1] > 0) & (angle[1:] <= 0))
    at = crossings + angle[crossings] / (angle[crossings] - angle[crossings + 1])
    np.testing.assert_allclose(np.diff(at).mean() * swingup.INTERVAL, 2 * np.pi / np.sqrt(square), rtol=2e-3)


def test_a_constant_force_moves_a_cart_whose_rod_weighs_nothing():
    system = CartPole(cart=2.0, pole=0.0, friction=0.0)
    places, speeds = path(system, constant(system, 0.6), jnp.array([0.0, 1.0]), jnp.zeros(2), 100)
    n = np.arange(1, 101)
    np.testing.assert_allclose(speeds[:, 0], 0.6 * 10 / 2 * swingup.INTERVAL * n, rtol=1e-4)
    np.testing.assert_allclose(places[:, 0], 0.6 * 10 / 2 * (swingup.INTERVAL * n) ** 2 / 2, rtol=1e-4)


def test_a_constant_torque_holds_the_pendulum_where_it_balances_the_weight():
    system = Pendulum()
    q = jnp.array([np.pi + np.arcsin(0.8 * 5 / swingup.GRAVITY)])
    places, _ = path(system, constant(system, 0.8), q, jnp.zeros(1), 500)
    np.testing.assert_allclose(places[:, 0], q[0], atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_linear_controller_keeps_the_system_up_and_nothing_lets_it_fall(name):
    """Gains from a Riccati equation, as one hidden unit that stays in the linear part of its tanh."""
    system = CONFIGS[name].system
    k = system.coordinates

    def rates(state, force):
        return jnp.concatenate([state[k:], system.acceleration(state[:k], state[k:], force)])

    a, b = (np.asarray(m, np.float64) for m in jax.jacobian(rates, argnums=(0, 1))(jnp.zeros(2 * k), jnp.zeros(())))
    gains = b @ scipy.linalg.solve_continuous_are(a, b[:, None], np.eye(2 * k), np.eye(1))
    small = 1e-3
    unit = -small * np.concatenate([gains[:k], [0], gains[k:] * swingup.SPEED, [0]])
    x = jnp.asarray(np.concatenate([unit, [1 / (small * system.limit)], [0]]), jnp.float32)
    q, v = jnp.full(k, 0.1), jnp.zeros(k)
    rewards = jax.vmap(system.reward)(path(system, x, q, v, 500)[0])
    assert rewards[-1] > 0.999 and rewards.min() > 0.9
    assert jax.vmap(system.reward)(path(system, jnp.zeros_like(x), q, v, 500)[0]).min() < 0.2


def test_the_policy_is_a_network_of_one_hidden_layer():
    rng = np.random.default_rng(1)
    x, q, v = rng.normal(size=7 * 3 + 1), rng.normal(size=2), rng.normal(size=2)
    assert weights(CartPole(), 3) == x.size
    seen = np.array([q[0], np.sin(q[1]), np.cos(q[1]), v[0] / swingup.SPEED, v[1] / swingup.SPEED, 1.0])
    expected = np.tanh(x[18:21] @ np.tanh(x[:18].reshape(3, 6) @ seen) + x[21])
    np.testing.assert_allclose(policy(*(jnp.asarray(a, jnp.float32) for a in (x, q, v))), expected, rtol=1e-5)


def test_rewards_are_one_upright_and_known_elsewhere():
    cart = CartPole()
    at = [[0.0, 0.0], [0.6, 0.0], [0.0, np.pi], [-0.6, np.pi / 2]]  # above, beside, below, and level with its tip at 0
    found = jax.vmap(cart.reward)(jnp.asarray(at, jnp.float32))
    np.testing.assert_allclose(found, np.exp([0.0, -0.5, -2.0, -0.5]), rtol=1e-5)
    found = jax.vmap(Pendulum().reward)(jnp.array([[0.0], [np.pi / 2], [np.pi]]))
    np.testing.assert_allclose(found, [1, 0.5, 0], atol=1e-6)


def short(name, **fields):
    return CONFIGS[name](**({"steps": 40, "episodes": 3, "width": 4} | fields)).build()


def population(start, n=4, scale=1.0):
    return start[None] + scale * jax.random.normal(jax.random.key(9), (n, start.size))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_generation_shares_its_episodes_and_the_next_has_others(name):
    family = short(name)
    task = family.task(family.sample(jax.random.key(0)))
    x = population(task.problem.start)
    evaluate: Any = jax.jit(task.evaluate)
    first, other = evaluate(jax.random.key(1), x), evaluate(jax.random.key(2), x)
    assert first.gradient is None and first.judged is None and first.value.shape == (4,)
    assert np.all((first.value >= -1) & (first.value < 0)) and np.all(first.value != other.value)
    same = evaluate(jax.random.key(1), jnp.tile(x[:1], (4, 1))).value
    assert len(set(np.asarray(same).tolist())) == 1
    np.testing.assert_allclose(same[0], first.value[0], rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_value_is_minus_the_mean_reward_of_episodes_and_the_return_that_of_32(name):
    family = short(name, episodes=swingup.MEASURED, start_scale=1.0, randomize=0.2)
    params = family.sample(jax.random.key(3))
    task = family.task(params)
    system, x = params
    starts = [system.start(key) for key in jax.random.split(jax.random.key(4), swingup.MEASURED)]
    run = jax.jit(lambda q, v: jax.vmap(system.reward)(path(system, x, q, v, 40)[0]).mean())
    expected = np.mean([run(*state) for state in starts])
    np.testing.assert_allclose(task.evaluate(jax.random.key(4), x[None]).value, [-expected], rtol=1e-4)
    measured = task.measure(jax.random.key(4), x)
    assert set(measured) == {"return"}
    np.testing.assert_allclose(measured["return"], expected, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_that_are_not_numbers_fail_alone_and_large_ones_do_not(name):
    family = short(name, steps=250)
    task = family.task(family.sample(jax.random.key(5)))
    x = jnp.concatenate(
        [population(task.problem.start, 3).at[1, 0].set(jnp.nan), population(task.problem.start, 8, 1e6)]
    )
    value = jax.jit(task.evaluate)(jax.random.key(6), x).value
    np.testing.assert_array_equal(np.isnan(value), np.arange(11) == 1)
    assert np.all((np.delete(value, 1) >= -1) & (np.delete(value, 1) <= 0))


@pytest.mark.parametrize("name", CONFIGS)
def test_constants_and_starts_are_drawn_as_the_config_says(name):
    family = short(name, randomize=0.3, start_scale=0.2)
    systems, starts = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(7), 300))
    for drawn, constant_ in zip(systems, CONFIGS[name].system, strict=True):
        factors = np.asarray(drawn) / constant_
        assert 0.7 <= factors.min() + 1e-6 < 0.73 and 1.27 < factors.max() <= 1.3 + 1e-6
    np.testing.assert_allclose(np.std(starts), 0.2, rtol=0.1)
    plain, start = short(name).sample(jax.random.key(8))
    np.testing.assert_allclose(plain, CONFIGS[name].system, rtol=1e-6)
    assert not np.any(start)
    problem = short(name, sigma=0.7).task((plain, start)).problem
    assert problem.space.is_free and problem.scale == 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gain"), [("cartpole", 0.3), ("pendulum", 0.15)])
def test_a_classical_strategy_learns(name, gain):
    """The policy that does nothing, where it starts, returns 0.12 on the cart-pole and 0.3 on the pendulum."""
    family, optimizer = short(name, steps=250), CMAESConfig(population_size=32).build()

    @jax.jit
    def run(key):
        sample_key, init_key, run_key, ask_key, measure_key = jax.random.split(key, 5)
        task = family.task(family.sample(sample_key))
        state = optimizer.init(init_key, task.problem)
        state, _ = unroll(optimizer, task, state, run_key, 100, record=values_only)
        x, _ = optimizer.ask(ask_key, state)
        ends = jnp.stack([task.problem.start, x[0]])
        return jax.vmap(lambda x: task.measure(jax.random.clone(measure_key), x)["return"])(ends)

    before, after = run(jax.random.key(10))
    assert after > before + gain


@pytest.mark.parametrize("fields", [{"width": 0}, {"episodes": 0}, {"steps": 5}, {"sigma": 0.0}, {"randomize": 1.0}])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_config_is_refused(name, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        CONFIGS[name](**fields)
