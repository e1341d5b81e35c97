"""Orthogonalisation of matrices, as in Muon."""

import jax.numpy as jnp
from jaxtyping import Array, Float

TINY = 1e-12  # in units of the gradient: below it a coordinate counts as flat


def orthogonalised(x: Float[Array, "a b"]) -> Float[Array, "a b"]:
    """Singular values of about 1, by the quintic Newton-Schulz iteration of Jordan et al. (2024), five steps."""
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (jnp.linalg.norm(x) + TINY)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x
