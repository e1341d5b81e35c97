"""Factors of a step over a run whose horizon may be traced."""

from typing import Any

import jax
import jax.numpy as jnp


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
