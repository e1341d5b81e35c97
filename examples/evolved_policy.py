"""A policy that is evolved: a small network learns to swing up a pendulum.

The loop is that of evosax, and the strategy is `rma`, a learned one. A generation is one compiled step.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import l2o

MEMBERS, GENERATIONS, STEPS = 32, 80, 200
example = {"w": jnp.zeros((3, 8)), "b": jnp.zeros(8), "v": jnp.zeros(8)}
flat, unravel = ravel_pytree(example)


def cost(weights):
    """Mean distance from the upright position over an episode that begins with the pendulum hanging down."""
    policy = unravel(weights)

    def step(state, _):
        angle, speed = state
        seen = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed / 8])
        torque = 2 * jnp.tanh(policy["v"] @ jnp.tanh(seen @ policy["w"] + policy["b"]))
        speed = jnp.clip(speed + 0.05 * (15 * jnp.sin(angle) + 3 * torque), -8, 8)
        angle = angle + 0.05 * speed
        return (angle, speed), (1 - jnp.cos(angle)) / 2 + 1e-3 * torque**2

    return jnp.mean(jax.lax.scan(step, (jnp.pi, 0.0), length=STEPS)[1])


es = l2o.load("rma").evosax(solution=flat, population_size=MEMBERS)
params = es.default_params.replace(std_init=1.0)


@jax.jit
def generation(state, key):
    ask_key, tell_key = jax.random.split(key)
    population, state = es.ask(ask_key, state, params)
    costs = jax.vmap(cost)(population)
    state, _ = es.tell(tell_key, population, costs, state, params)
    return state, jnp.min(costs)


state = es.init(jax.random.key(0), flat, params)
state, best = jax.lax.scan(generation, state, jax.random.split(jax.random.key(1), GENERATIONS))
print(f"cost of doing nothing: {cost(flat):.3f}, best of the first generation: {best[0]:.3f}, best: {best.min():.3f}")
assert best.min() < 0.5 * cost(flat)
