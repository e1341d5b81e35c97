"""Which leaves of a tree of parameters are matrices for the rules that treat matrices apart, and who moves the rest.

Muon and its relatives are meant for the hidden matrices of a network; embeddings, output layers, vectors and scalars
are moved by Adam (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from l2o.tensors import is_embedding, is_output

Rate = optax.ScalarOrSchedule
Dimensions = Any  # a tree as the parameters, or a prefix of it, of `MuonDimensionNumbers` and None; or params -> tree


def all_matrices(params: Any) -> Any:
    """Every leaf of two axes that is not empty and not of integers, as a tree of `MuonDimensionNumbers` and None."""

    def of_leaf(leaf):
        numbers = jnp.size(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        return MuonDimensionNumbers() if jnp.ndim(leaf) == 2 and numbers else None

    return jax.tree.map(of_leaf, params)


def hidden_matrices(params: Any) -> Any:
    """The leaves of `all_matrices` whose names do not tell of an embedding or of an output layer.

    A leaf is an embedding if a word of its path is `embed`, `embedding`, `unembed`, `positions`, `wte` and the like.
    It belongs to an output layer if its own name or that of its module ends with `head`, `logits`, `classifier` or
    `readout`, or is `output`. Paths are those of haiku, flax and equinox. Where names tell nothing, every matrix is
    hidden.

    >>> hidden_matrices({"embed": {"w": jnp.ones((9, 2))}, "linear": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}})
    {'embed': {'w': None}, 'linear': {'b': None, 'w': MuonDimensionNumbers(reduction_axis=0, output_axis=1)}}
    """

    def of_leaf(path, dimensions):
        return None if is_embedding(path) or is_output(path) else dimensions

    dimensions = all_matrices(params)
    return jax.tree_util.tree_map_with_path(of_leaf, dimensions, is_leaf=_is_dimensions)


MATRICES = {"all": all_matrices, "hidden": hidden_matrices}  # as a configuration names them


def times(rate: Rate, ratio: jax.typing.ArrayLike) -> Rate:
    """A learning rate, or a schedule of it, times a number."""
    factor: Any = ratio
    return (lambda count: factor * rate(count)) if callable(rate) else factor * rate


def beside_adam(
    make: Callable[[Callable[[Any], Any]], optax.GradientTransformation],
    adam: optax.GradientTransformation,
    dimensions: Dimensions,
    label: str,
) -> optax.GradientTransformationExtraArgs:
    """A rule for matrices beside Adam for everything else, as in `optax.contrib.muon`.

    Args:
      make: from a function to the rule; the function gives the dimension numbers of the leaves that the rule sees.
      adam: what moves the leaves whose dimension numbers are None.
      dimensions: a tree of dimension numbers and None, or a function of the parameters that gives one.
      label: name of the rule in the state.
    """

    def spread(tree, of_leaf):
        chosen = dimensions(tree) if callable(dimensions) else dimensions
        return jax.tree.map(
            lambda d, sub: jax.tree.map(lambda _: of_leaf(d), sub), chosen, tree, is_leaf=_is_dimensions
        )

    return optax.partition(
        {label: make(lambda tree: spread(tree, lambda d: d)), "adam": adam},
        lambda params: spread(params, lambda d: "adam" if d is None else label),
    )


def axes(leaf: Any, dimensions: MuonDimensionNumbers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a leaf that are reduced, and those that are its outputs, none of them negative."""

    def positive(axis):
        return tuple(a % leaf.ndim for a in ((axis,) if isinstance(axis, int) else axis))

    return positive(dimensions.reduction_axis), positive(dimensions.output_axis)


def map_matrices(function: Callable[..., Any], dimensions: Any, tree: Any, *rest: Any) -> Any:
    """`function(leaf, *leaves of rest, dimensions of the leaf)` over a tree, whose dimensions mirror it."""
    return jax.tree.map(lambda leaf, d, *others: function(leaf, *others, d), tree, dimensions, *rest)


def _is_dimensions(node: Any) -> bool:
    return node is None or isinstance(node, MuonDimensionNumbers)
