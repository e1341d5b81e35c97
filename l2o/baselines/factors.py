"""Second moments of a tensor's gradient axis by axis, which Shampoo and SOAP precondition with.

Of a gradient :math:`G` with axes of sizes :math:`d_1, \\dots, d_k`, the factor of axis :math:`i` is the
:math:`d_i \\times d_i` matrix :math:`G_{(i)} G_{(i)}^*`, with :math:`G_{(i)}` the matrix whose rows are the slices
along that axis: :math:`G G^\\top` and :math:`G^\\top G` of a matrix. In a state, the factors of one leaf are one
vector, so that a tree of them mirrors the parameters.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from l2o.tensors import zeros

Factors = list[jax.Array | None]  # one for each axis; None is the identity


def preconditioned(leaf: Any, max_precondition_dim: int) -> list[bool]:
    """Which axes have a factor: those not too long, of leaves that have two axes or more and are not empty."""
    shape = jnp.shape(leaf)
    return [len(shape) > 1 and 0 not in shape and size <= max_precondition_dim for size in shape]


def packed_size(leaf: Any, chosen: list[bool]) -> int:
    """Length of the vector of a leaf's factors."""
    return sum(size**2 for size, has in zip(jnp.shape(leaf), chosen, strict=True) if has)


def pack(factors: Factors, vector: jax.Array) -> jax.Array:
    """The factors as one vector, of the dtype of the one that they replace."""
    flat = [factor.ravel() for factor in factors if factor is not None]
    return jnp.concatenate(flat).astype(vector.dtype) if flat else vector


def unpack(vector: jax.Array, leaf: Any, chosen: list[bool]) -> Factors:
    """The factors that a vector holds."""
    shape = jnp.shape(leaf)
    sizes = [size if has else 0 for size, has in zip(shape, chosen, strict=True)]
    ends = list(accumulate(size**2 for size in sizes))
    parts = [vector[end - size**2 : end] for end, size in zip(ends, sizes, strict=True)]
    return [part.reshape(size, size) if size else None for part, size in zip(parts, sizes, strict=True)]


def start(params: Any, axes_of: Callable[[Any], list[bool]]) -> tuple[Any, ...]:
    """The first state of a rule: count, two moments, and two trees of factors, all of them zero."""

    def vector(leaf):
        return zeros(leaf, (packed_size(leaf, axes_of(leaf)),))

    return (
        jnp.zeros((), jnp.int32),
        jax.tree.map(zeros, params),
        jax.tree.map(lambda leaf: zeros(leaf, real=True), params),
        jax.tree.map(vector, params),
        jax.tree.map(vector, params),
    )


def second_moments(g: jax.Array, chosen: list[bool]) -> Factors:
    """The factors of one gradient."""

    def of_axis(axis):
        rows = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
        return rows @ rows.conj().T

    return [of_axis(axis) if has else None for axis, has in enumerate(chosen)]


def multiply(g: jax.Array, factors: Factors, adjoint: bool = False) -> jax.Array:
    """Each axis of a tensor multiplied by its factor, or by the factor's adjoint."""
    for axis, factor in enumerate(factors):
        if factor is not None:
            matrix = factor.conj().T if adjoint else factor
            g = jnp.moveaxis(jnp.tensordot(matrix, g, 1 if axis == 0 else ((1,), (axis,))), 0, axis)
    return g


def in_stacks(function: Callable[..., Any], *lists: list[Factors]) -> Any:
    """Apply a function to many factors with one call for each size.

    Args:
      function: from stacks [n, d, d], one for each list, to an array or a tuple of arrays with a leading axis n.
      *lists: for each leaf its factors; all lists alike.

    Returns:
      What the function gives: for each leaf a list like its factors.
    """
    groups: dict[Any, list[tuple[int, int]]] = {}
    for i, factors in enumerate(lists[0]):
        for axis, factor in enumerate(factors):
            if factor is not None:
                groups.setdefault((factor.shape, factor.dtype), []).append((i, axis))
    out: list[list[Any]] = [[None] * len(factors) for factors in lists[0]]
    zero: Any = 0
    for places in groups.values():
        stacks = [jnp.stack([jnp.asarray(one[i][axis]) for i, axis in places]) for one in lists]
        result = function(stacks[0] + jnp.asarray(zero, stacks[0].dtype), *stacks[1:])
        # one call after the other: on a CPU, calls of LAPACK at one time can wait for each other's threads for ever
        number = jnp.real(jax.tree.leaves(result)[0].ravel()[0])
        zero = jnp.where(jnp.isfinite(number), 0 * number, 0)
        for n, (i, axis) in enumerate(places):
            out[i][axis] = jax.tree.map(lambda a, n=n: a[n], result)
    return out
