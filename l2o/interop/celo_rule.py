"""Celo's network per coordinate: a small MLP on the features of Metz et al. (2022) and of Adafactor.

For a tensor p with gradient g, and its moving averages

    m_i = decayed mean of g         for the decays 0.9, 0.99, 0.999
    v   = decayed mean of g^2       for the decay 0.999
    r_i, c_i = decayed means of g^2 over the rows and over the columns, for the decays 0.9, 0.99, 0.999

thirty inputs per coordinate are each brought to root mean square 1 over the tensor, and the MLP writes a direction d
and a log magnitude a:

    step = d exp(a / 1000) sqrt(mean(p^2) + 1e-9)

Rows and columns are those of the two longest axes. A tensor of one axis, or of none, keeps g^2 for each coordinate.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import rsqrt
from jaxtyping import Array, Float

from l2o.core import Theta

DECAYS: Any = np.array([0.9, 0.99, 0.999], np.float32)
SQUARES = np.float32(0.999)
FULL, FACTORS = 9, 4  # groups of inputs that differ between all coordinates, and those of rows or columns alone


class MLPRuleState(NamedTuple):
    """Moving averages, each a pytree like the parameters.

    Attributes:
      m: of the gradient at three decays, [3, *shape].
      v: of its square, [*shape].
      rows: of its square over the longest axis, [3, the other axes]; without two axes [3, *shape], over nothing.
      columns: of its square over the second longest axis, [3, the other axes]; without two axes [3, 0].
    """

    m: Any
    v: Any
    rows: Any
    columns: Any


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The second longest and the longest axis, None without two axes.

    Of axes of one length the last counts as the longest. The authors leave such ties to numpy's default sort, whose
    answer depends on the processor for some shapes of four or more axes.

    >>> factored_axes((3, 3, 16, 8))
    (3, 2)
    """
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable")
    return int(order[-2]), int(order[-1])


def mlp_rule(theta: Theta) -> optax.GradientTransformation:
    """The steps of the network per coordinate, in the direction of the gradient; all leaves are of real numbers.

    Args:
      theta: the branch `ff_mod_stack.~` of Celo's weights.
    """
    theta = {name: array[0] for name, array in theta.items()}

    def init(params: Any) -> MLPRuleState:
        def zeros(shape):
            return jax.tree.map(lambda p: jnp.zeros(shape(p.shape), p.dtype), params)

        def without(shape, which):
            axes = factored_axes(shape)
            return (len(DECAYS), *(shape if axes is None else np.delete(shape, axes[which]).tolist()))

        def columns(shape):
            return (len(DECAYS), 0) if factored_axes(shape) is None else without(shape, 0)

        return MLPRuleState(
            zeros(lambda shape: (len(DECAYS), *shape)), zeros(lambda shape: shape),
            zeros(lambda shape: without(shape, 1)), zeros(columns),
        )  # fmt: skip

    def update(updates, state, params=None):
        leaves, tree = jax.tree.flatten(params)
        parts = [tree.flatten_up_to(part) for part in (updates, *state)]
        groups: dict[Any, list[int]] = {}  # tensors of one shape are one program: that compiles faster
        for i, leaf in enumerate(leaves):
            groups.setdefault((leaf.shape, leaf.dtype), []).append(i)
        found: list[Any] = [None] * len(leaves)
        for members in groups.values():
            arguments = [_stacked([part[i] for i in members]) for part in (leaves, *parts)]
            steps = jax.vmap(lambda *each: _step(theta, *each))(*arguments)
            for row, i in enumerate(members):
                found[i] = tuple(a[row] for a in steps)
        steps, *moments = (tree.unflatten(part) for part in zip(*found, strict=True)) if leaves else (updates, *state)
        return steps, MLPRuleState(*moments)

    return optax.GradientTransformation(init, update)


def _stacked(arrays: list[Array]) -> Array:
    return jnp.stack(arrays) if len(arrays) > 1 else arrays[0][None]


def _step(
    theta: Theta,
    p: Float[Array, "*s"],
    g: Float[Array, "*s"],
    m: Float[Array, "3 *s"],
    v: Float[Array, "*s"],
    rows: Float[Array, "3 *r"],
    columns: Float[Array, "3 *c"],
) -> tuple[Array, Array, Array, Array, Array]:
    """The step of one tensor, [*s], and its four moving averages."""
    m = _decayed(m, jnp.broadcast_to(g, m.shape))
    v = SQUARES * v + (1 - SQUARES) * (g * g)
    square, axes = jnp.broadcast_to(g * g + 1e-30, m.shape), factored_axes(p.shape)
    g3 = jnp.broadcast_to(g, m.shape)
    if axes is None:
        rows = _decayed(rows, square)
        scaled, momentum = g3 * _root(rows + 1e-9), m * rows**-0.5
        factors = [rows, rows, rsqrt(rows + 1e-8), rsqrt(rows + 1e-8)]
    else:
        second, longest = axes[0] + 1, axes[1] + 1  # behind the axis of decays
        rows, columns = _decayed(rows, square.mean(longest)), _decayed(columns, square.mean(second))
        usual = rows.mean(second - (second > longest), keepdims=True)
        row = jnp.expand_dims(_root(rows / (usual + 1e-9)), longest)
        column = jnp.expand_dims(_root(columns), second)
        scaled, momentum = g3 * row * column, m * row * column
        each = [jnp.expand_dims(rows, longest), jnp.expand_dims(columns, second)]
        factors = [*each, *(rsqrt(each_of + 1e-8) for each_of in each)]
    clipped, root = jnp.clip(g, -0.1, 0.1), rsqrt(v + 1e-6)
    whole = [g[None], clipped[None], p[None], m, v[None], m * root[None], root[None], scaled, (g * root)[None]]
    weights = [theta[f"w0__{i}"] for i in range(FULL + FACTORS + 1)]
    # what varies along some axes alone is multiplied before it is spread over the others
    h = _layer(jnp.concatenate([*whole, momentum]), jnp.concatenate([*weights[:FULL], weights[-1]]))
    for factor, w in zip(factors, weights[FULL:-1], strict=True):
        h = h + _layer(factor, w)
    h = _dense(jax.nn.relu(_shifted(h, theta["b0"])), theta["w1"], theta["b1"])
    direction, size = _dense(jax.nn.relu(h), theta["w2"][:, :2], theta["b2"][:2])
    scale = jnp.sqrt(jnp.mean(p * p) + 1e-9)
    return direction * (scale * jnp.exp(0.001 * size)), m, v, rows, columns


def _decayed(average: Float[Array, "3 *s"], x: Float[Array, "3 *s"]) -> Float[Array, "3 *s"]:
    decays = DECAYS.reshape(-1, *[1] * (x.ndim - 1))
    return decays * average + (1 - decays) * x


def _root(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return rsqrt(jnp.maximum(x, 1e-9))


def _layer(x: Float[Array, "f *s"], w: Float[Array, "f k"]) -> Float[Array, "k *s"]:
    """A linear layer of inputs that are brought to root mean square 1, which scales the weights instead of them."""
    scale = rsqrt(1e-5 + jnp.mean(x * x, axis=tuple(range(1, x.ndim))))
    return jnp.tensordot(w * scale[:, None], x, axes=((0,), (0,)))


def _dense(x: Float[Array, "f *s"], w: Float[Array, "f k"], b: Float[Array, "k"]) -> Float[Array, "k *s"]:
    return _shifted(jnp.tensordot(w, x, axes=((0,), (0,))), b)


def _shifted(x: Float[Array, "k *s"], b: Float[Array, "k"]) -> Float[Array, "k *s"]:
    return x + b.reshape(-1, *[1] * (x.ndim - 1))
