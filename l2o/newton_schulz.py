"""Orthogonalisation of matrices, as in Muon."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

TINY = 1e-12  # in units of the gradient: below it a coordinate counts as flat


def explicit(x: Any) -> NamedSharding | None:
    """How an array is split over explicit axes of a mesh; None where it is not, or where the compiler decides."""
    sharding: Any = jax.typeof(x).sharding
    return sharding if any(axis is not None for axis in sharding.spec) else None


def orthogonalised(x: Float[Array, "*a b"]) -> Float[Array, "*a b"]:
    """Singular values of about 1, by the quintic Newton-Schulz iteration of Jordan et al. (2024), five steps.

    The last axis of a tensor of more than two is the output. A matrix that is split over explicit axes of a mesh is
    gathered first, and the result is split as it was.
    """
    shape, sharding = x.shape, explicit(x)
    if sharding is not None:
        x = jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))
    x = x.reshape(-1, shape[-1])
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (jnp.linalg.norm(x) + TINY)
    x = jax.lax.fori_loop(0, 5, _iteration, x)
    x = (x.T if tall else x).reshape(shape)
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def _iteration(i: Any, x: Float[Array, "a b"]) -> Float[Array, "a b"]:
    del i
    a = x @ x.T
    return 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
