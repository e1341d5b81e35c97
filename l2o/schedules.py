"""Numbers that depend on the time in a run, whose horizon may be traced: schedules, and the weight of an average."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def cosine(count: Any, horizon: Any) -> jax.Array:
    """The factor of a schedule that falls from one to zero over a horizon; both may be traced."""
    return 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(count / horizon, 0, 1))


def warmup_cosine(count: Any, horizon: Any) -> jax.Array:
    """The same after a rise from zero over the first twentieth of the horizon, rounded down."""
    warmup = horizon // 20
    return jnp.where(count < warmup, count / jnp.maximum(warmup, 1), cosine(count - warmup, horizon - warmup))


def planned(count: Any, horizon: Any) -> Any:
    """`warmup_cosine`; without a horizon, a rise over 100 updates and a constant."""
    return jnp.minimum((count + 1) / 100, 1.0) if horizon is None else warmup_cosine(count, horizon)


def weight_of(decay: Any, count: Any) -> jax.Array:
    """`1 - decay^count`, what the numbers in a moving average that began at zero weigh together; to the last digit."""
    return -jnp.expm1(jnp.asarray(count, jnp.float32) * np.log(decay))
