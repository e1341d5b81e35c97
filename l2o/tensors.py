"""What rules for tensors share: what a name tells of a leaf, dtypes, and leaves of equal shape as one stack."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2o.errors import UserError
from l2o.newton_schulz import TINY, explicit

ROLES = ("matrix", "head", "embedding", "vector")
MATRICES = ROLES[:2]

_EMBEDDING = {"embed", "embeds", "embedder", "embedding", "embeddings", "unembed", "unembedding"}
_EMBEDDING |= {"positions", "wte", "wpe"}
_HEAD = {"head", "logit", "logits", "classifier", "readout"}
_OUTPUT = {"output", "outputs", "output_layer"}
_NOT_HEAD = {"multi_head", "multihead", "attention_head"}


def is_embedding(path: Any) -> bool:
    """Whether a word on the way to a leaf tells of an embedding, see `l2o.hidden_matrices`."""
    return any(_EMBEDDING & set(component.split("_")) for component in _components(path))


def is_table(path: Any, leaf: Any) -> bool:
    """Whether a leaf is a table of embeddings: of two axes or more, by its name, and no weight of a linear layer."""
    own = _components(path)[-1:]
    return jnp.ndim(leaf) > 1 and is_embedding(path) and own not in (["w"], ["kernel"])


def is_output(path: Any) -> bool:
    """Whether the last two names on the way to a leaf tell of an output layer, see `l2o.hidden_matrices`."""
    components = _components(path)
    return any(name in _OUTPUT or (name.split("_")[-1] in _HEAD and name not in _NOT_HEAD) for name in components[-2:])


def wide(leaf: Any) -> jax.Array:
    """A leaf in the dtype that a rule computes in: its own, or single precision where that is less."""
    if jnp.result_type(leaf) == jax.dtypes.float0:  # the gradient of integers, which holds no numbers
        return jnp.zeros(jnp.shape(leaf))
    return jnp.asarray(leaf, _wide(leaf))


def _wide(leaf: Any) -> Any:
    dtype = jnp.result_type(leaf)
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4  # jax promotes no eight bits
    return jnp.dtype(jnp.float32) if narrow else jnp.promote_types(dtype, jnp.float32)


def zeros(leaf: Any, shape: Any = None, real: bool = False) -> jax.Array:
    """Zeros that lie where a leaf does, or of another shape, in its wide dtype, or in the real part's."""
    dtype = jnp.finfo(_wide(leaf)).dtype if real else _wide(leaf)
    return jnp.zeros_like(leaf, dtype) if shape is None else jnp.zeros(shape, dtype)


def like(leaf: jax.Array, update: Any) -> jax.Array:
    """A result in the dtype of the update that came in; integers have none that it would fit."""
    dtype = jnp.result_type(update)
    return leaf.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else leaf


def squared(leaf: jax.Array) -> jax.Array:
    """The squared modulus of each entry, which is real."""
    return jnp.real(leaf * leaf.conj())


def frobenius(leaf: jax.Array, axis: Any = None) -> jax.Array:
    """The norm over some axes, or over all; they are kept, of length one."""
    return jnp.sqrt(jnp.sum(squared(leaf), axis, keepdims=True))


def roles_of(params: Any, label: Any = None) -> list[str]:
    """The role of each leaf, in order: one of `ROLES`.

    A real leaf of two axes or more, not empty, is a "matrix", or a "head" where a name tells of an output layer; names
    tell of an "embedding", too; all others are a "vector".

    Args:
      params: the parameters, or anything that mirrors them.
      label: roles that are known: a tree of names or None whose leaves may stand for whole branches of `params`, or a
        function from such a tree to that; None is for what names tell. A leaf of fewer axes in a branch is a vector.

    Raises:
      UserError: a name that is no role, or a tree that does not fit.
    """
    paths = jax.tree_util.tree_leaves_with_path(params)
    given = [None] * len(paths) if label is None else _given(label, params)
    return [_role(path, leaf, name) for (path, leaf), name in zip(paths, given, strict=True)]


def _given(label: Any, params: Any) -> list[str | None]:
    tree = label(params) if callable(label) else label
    try:
        names = jax.tree.leaves(
            jax.tree.broadcast(tree, params, is_leaf=lambda x: x is None), is_leaf=lambda x: x is None
        )
    except ValueError as error:
        raise UserError(f"label does not fit the parameters: {' '.join(str(error).split())}") from None
    wrong = next((name for name in names if not (name is None or name in ROLES)), None)
    if wrong is not None:
        raise UserError(f"label: found {wrong!r}, expected one of {', '.join(ROLES)}, or None")
    return names


def _role(path: Any, leaf: Any, name: str | None) -> str:
    if name is None:
        name = "embedding" if is_table(path, leaf) else "head" if is_output(path) else "matrix"
    if name in MATRICES:
        turns = jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.ndim(leaf) > 1 and jnp.size(leaf) > 0
    else:
        turns = jnp.ndim(leaf) > 1
    return name if turns else "vector"


def alike(leaves: list[Any], kinds: list[Any]) -> list[list[int]]:
    """Numbers of the leaves of each kind, shape, dtype and sharding, which are one program; None is no kind."""
    groups: dict[Any, list[int]] = {}
    for i, (leaf, kind) in enumerate(zip(leaves, kinds, strict=True)):
        if kind is not None:
            groups.setdefault((kind, jnp.shape(leaf), jnp.result_type(leaf), explicit(leaf)), []).append(i)
    return list(groups.values())


def over(numbers: Any, x: jax.Array) -> Any:
    """Numbers for the first axes of an array, as an array that is multiplied with it."""
    return numbers.reshape(*numbers.shape, *[1] * (x.ndim - numbers.ndim))


def two_axes(leaf: Any) -> tuple[int, int]:
    """A tensor as a matrix: the last axis is the output."""
    return int(np.prod(jnp.shape(leaf)[:-1])), jnp.shape(leaf)[-1]


def turned(w: jax.Array, direction: jax.Array, angle: Any) -> jax.Array:
    """A matrix after a step against a direction on the sphere of its norm; the angle is in radians.

    It is `r n(n(w) - angle n(direction))` with the norm r of w and `n(x) = x / |x|`.
    """
    size = frobenius(w)
    moved = w - angle * size * direction / (frobenius(direction) + TINY)
    return moved * size / (frobenius(moved) + TINY)


def unit_of(params: Any, roles: list[str]) -> jax.Array:
    """How large the numbers between layers are: the geometric mean of rms(W) sqrt(inputs) over matrices not zero."""
    matrices = [w for w, role in zip(jax.tree.leaves(params), roles, strict=True) if role in MATRICES]
    sizes = [jnp.sqrt(jnp.mean(wide(w) ** 2) * two_axes(w)[0]) for w in matrices]
    if not sizes:
        return jnp.ones(())
    found = jnp.stack(sizes)
    there = found > 0
    return jnp.exp(jnp.sum(jnp.log(jnp.where(there, found, 1.0))) / jnp.maximum(there.sum(), 1))


def scale_of(leaf: Any, role: str, unit: jax.Array) -> jax.Array:
    """What the steps of a leaf are measured by: the root mean square of its start.

    For a leaf of zeros it is the size of the numbers between layers, see `unit_of`, and for a table of embeddings, too:
    one that starts small, as positions often do, is to become as large as what it is added to.
    """
    size = jnp.sqrt(jnp.mean(squared(wide(leaf)))) if jnp.size(leaf) else jnp.zeros(())
    inputs = two_axes(leaf)[0] if role in MATRICES else 1
    return jnp.where((size > 0) & (role != "embedding"), size, unit / np.sqrt(inputs))


def _components(path: Any) -> list[str]:
    """Names on the way to a leaf, in lower case with underscores; `Dense_0` is `dense`, `lmHead` is `lm_head`."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    parts = [part for name in names for part in re.split(r"[/.~]+", name) if part]
    snake = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower() for part in parts]
    return [re.sub(r"_?\d+$", "", part) for part in snake]
