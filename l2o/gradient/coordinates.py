"""All floating-point leaves of a pytree as one vector of real coordinates, and back.

One call of a coordinatewise network then serves a whole model, whatever the number, shape and dtype of its leaves.
Complex leaves count as two real coordinates each. Integer and boolean leaves have no coordinates.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def coordinates(leaf: Any) -> int:
    """How many real coordinates a leaf has."""
    return jnp.size(leaf) * (2 if _is_complex(leaf) else 1) if _is_inexact(leaf) else 0


def merge(tree: Any) -> Float[Array, "n"]:
    """The coordinates of a pytree as one float32 vector (float64 where a leaf is float64).

    Narrower leaves are read in float32, also those of eight bits or fewer, which jax does not promote by itself.
    """
    parts = []
    for leaf in filter(_is_inexact, jax.tree.leaves(tree)):
        flat = jnp.ravel(leaf)
        parts += [flat.real, flat.imag] if _is_complex(leaf) else [flat]
    dtype = jnp.result_type(jnp.float32, *(part for part in parts if part.dtype.itemsize > 4))
    return jnp.concatenate([jnp.zeros(0, dtype), *(part.astype(dtype) for part in parts)])


def split(vector: Float[Array, "n"], like: Any) -> Any:
    """Inverse of `merge`: structure, shapes and dtypes as in `like`, zero for leaves without coordinates."""
    leaves, tree = jax.tree.flatten(like)
    out, start = [], 0
    for leaf in leaves:
        part = vector[start : start + coordinates(leaf)]
        start += coordinates(leaf)
        if _is_complex(leaf):
            part = jax.lax.complex(*jnp.split(part, 2))
        if _is_inexact(leaf):
            out.append(part.reshape(jnp.shape(leaf)).astype(jnp.result_type(leaf)))
        else:
            dtype = jnp.result_type(leaf)  # the gradient of an integer leaf is float0, which holds no numbers
            out.append(jnp.zeros(jnp.shape(leaf), jnp.int8 if dtype == jax.dtypes.float0 else dtype))
    return jax.tree.unflatten(tree, out)
