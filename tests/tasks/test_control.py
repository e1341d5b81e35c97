"""The control task: the physics by hand, values and gradients everywhere, and that there is something to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.control import DURATION, GRAVITY, RepellersConfig, Scene, path, reward


def scene(**fields):
    defaults = {
        "position": jnp.array([0.5, 1.0]), "velocity": jnp.zeros(2),
        "centres": jnp.array([[0.5, 0.5]]), "radii": jnp.array([0.1]),
    }  # fmt: skip
    return Scene(**(defaults | fields))


def test_without_strength_the_particle_falls():
    points = path(scene(velocity=jnp.array([0.2, 0.0])), jnp.array([0.4, 0.5, 0.0]), 1000)
    np.testing.assert_allclose(points[-1], [0.5 + 0.2 * DURATION, 1 - GRAVITY * DURATION**2 / 2], atol=2e-3)


def test_repellers_push_away_by_their_strength():
    def sideways(strength, x):
        return path(scene(), jnp.array([x, 0.5, strength]), 60)[-1, 0] - 0.5

    assert 0 < sideways(0.1, 0.4) < sideways(0.4, 0.4)
    np.testing.assert_allclose(sideways(0.3, 0.4), -sideways(0.3, 0.6), rtol=1e-3)


def test_one_step_by_hand():
    """From rest, at a distance of 0.3 from a repeller of half the strength."""
    point = path(scene(position=jnp.array([0.5, 0.8])), jnp.array([0.2, 0.8, 0.5]), 20)[0]
    dt = DURATION / 20
    force = 0.5 * 0.3 / (0.3**2 + 0.1**2)
    np.testing.assert_allclose(point, [0.5 + dt**2 * force, 0.8 - dt**2 * GRAVITY], rtol=1e-5)


def test_the_reward_is_one_in_a_centre_and_half_at_its_radius():
    two = scene(centres=jnp.array([[0.5, 0.5], [9.0, 9.0]]), radii=jnp.array([0.1, 0.1]))
    values = reward(two, jnp.array([[0.5, 0.5], [0.6, 0.5], [9.0, 9.1], [5.0, 0.0]]))
    np.testing.assert_allclose(values, [1, 0.5, 0.5, 0], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("repellers", [1, 2, 5])
def test_values_and_gradients_are_finite_everywhere(repellers):
    family = RepellersConfig(repellers=repellers).build()
    n = 3 * repellers
    points = np.concatenate([np.random.default_rng(0).random((128, n)), np.zeros((1, n)), np.ones((1, n))])

    def run(key):
        drawn = family.sample(key)
        task = family.task(drawn)
        on_top = jnp.tile(jnp.append(drawn.position, 1.0), repellers)  # the repellers stand where the particle starts
        at = jnp.concatenate([jnp.asarray(points), task.problem.start[None], on_top[None]])
        return task.evaluate(jax.random.key(1), at)

    evaluation = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 16))
    assert np.all((evaluation.value > -1) & (evaluation.value < 0))
    assert np.all(np.isfinite(evaluation.gradient)) and np.abs(evaluation.gradient).max() < 1e3


def test_placing_them_well_pays():
    """The best of 256 random placements collects much more than the median one, on most tasks."""
    family = RepellersConfig().build()
    points = jnp.asarray(np.random.default_rng(0).random((256, 6)))
    keys = jax.random.split(jax.random.key(2), 16)
    values = -jax.jit(jax.vmap(lambda key: family.task(family.sample(key)).evaluate(jax.random.key(3), points).value))(
        keys
    )
    assert np.median(values.max(axis=1) / np.median(values, axis=1)) > 1.5


def test_the_optimum_is_not_known_and_the_start_tells_repellers_apart():
    family = RepellersConfig(repellers=3).build()
    task = family.task(family.sample(jax.random.key(4)))
    assert task.info == {}
    np.testing.assert_allclose(task.problem.start, [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.75, 0.5, 0.5])


@pytest.mark.parametrize("fields", [{"repellers": 0}, {"regions": 0}, {"steps": 5}, {"discount": 0.0}])
def test_a_bad_config_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        RepellersConfig(**fields)
