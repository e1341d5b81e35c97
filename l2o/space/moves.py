"""Steps from a point of a mixed space to another: to one near it, or to other values of its coordinates."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from l2o.space.domain import Space

NEAREST, FARTHEST = 0.01, 0.5  # standard deviations of steps in the unit cube


def near(key: PRNGKeyArray, space: Space, x: Float[Array, "d"]) -> Float[Array, "d"]:
    """A point near another; the logarithm of the step's standard deviation is uniform.

    Numbers are moved by a normal step and stay within their bounds; a category becomes another one with the probability
    that is the standard deviation of the step.
    """
    assert space.ordered is not None
    scale_key, step_key, change_key, other_key = jax.random.split(key, 4)
    scale = jnp.exp(jax.random.uniform(scale_key, minval=jnp.log(NEAREST), maxval=jnp.log(FARTHEST)))
    moved = space.from_unit(jnp.clip(space.to_unit(x) + scale * jax.random.normal(step_key, x.shape), 0.0, 1.0))
    changed = jax.random.bernoulli(change_key, scale, x.shape)
    return jnp.where(space.ordered, moved, jnp.where(changed, other_values(other_key, space, x), x))


def other_values(key: PRNGKeyArray, space: Space, x: Float[Array, "d"]) -> Float[Array, "d"]:
    """For each coordinate a value that is uniform in the unit interval without the share of the value it has.

    A coordinate with one value keeps it.
    """
    assert space.levels is not None
    half = jnp.where(space.levels > 0, 0.5, 0.0)
    low, high = space.to_unit(x - half), space.to_unit(x + half)
    new = space.from_unit((high + jax.random.uniform(key, x.shape) * (1 - high + low)) % 1.0)
    # at the very edge of the share rounding may lead back into it
    back = (space.levels > 1) & (new == x)
    return jnp.where(back, jnp.where(x < space.high, x + 1, x - 1), new)
