"""The real coordinates of a leaf of a pytree, in the leaf's own shape, and back.

Complex leaves count as two real coordinates each, on an axis of two in front. Integer and boolean leaves have none. No
two leaves are ever joined, so that each may lie on devices as it likes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def has_coordinates(leaf: Any) -> bool:
    """Whether a leaf is of real or complex numbers, and not empty."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and jnp.size(leaf) > 0


def is_complex(leaf: Any) -> bool:
    """Whether a leaf is of complex numbers."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def real(leaf: Any) -> Float[Array, "*shape"]:
    """The coordinates of a leaf: [*shape], [2, *shape] of a complex one, [0] of integers.

    They are in single precision, or in double where the leaf is. Narrower leaves are read in float32, also those of
    eight bits or fewer, which jax does not promote by itself.
    """
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.zeros(0)
    leaf = jnp.asarray(leaf)
    if is_complex(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag])
    return leaf.astype(leaf.dtype if leaf.dtype.itemsize > 4 else jnp.float32)


def restored(x: Float[Array, "*shape"], like: Any) -> Array:
    """Inverse of `real`: shape and dtype as in `like`, zero for leaves without coordinates."""
    dtype = jnp.result_type(like)
    if not jnp.issubdtype(dtype, jnp.inexact):  # the gradient of an integer leaf is float0, which holds no numbers
        return jnp.zeros(jnp.shape(like), jnp.int8 if dtype == jax.dtypes.float0 else dtype)
    return (jax.lax.complex(x[0], x[1]) if is_complex(like) else x).astype(dtype)


def nothing(leaf: Any, *front: int, dtype: Any = None) -> Float[Array, "..."]:
    """Zeros [*front, *shape] for the coordinates of a leaf, which lie on devices as the leaf does.

    For integers a single zero: checkpoints take no arrays without entries.
    """
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.zeros((), dtype)
    zeros = jnp.zeros_like(real(leaf), dtype)
    return jnp.broadcast_to(zeros, (*front, *zeros.shape))


def leafwise(function: Callable[..., tuple[Any, ...]], updates: Any, *trees: Any) -> tuple[Any, ...]:
    """Apply a function to the coordinates of each leaf on its own.

    Args:
      function: `(coordinates [*shape], *parts) -> (output [*shape], *parts)`.
      updates: a pytree.
      *trees: what the function takes and gives beside the coordinates, as pytrees of the same structure.

    Returns:
      The outputs as leaves of `updates`, and the other trees. Leaves without coordinates get zero and keep their parts.
    """
    leaves, tree = jax.tree.flatten(updates)
    found = []
    for leaf, *parts in zip(leaves, *map(tree.flatten_up_to, trees), strict=True):
        output, *parts = function(real(leaf), *parts) if has_coordinates(leaf) else (real(leaf), *parts)
        found.append((restored(output, leaf), *parts))
    return tuple(tree.unflatten([one[i] for one in found]) for i in range(1 + len(trees)))
