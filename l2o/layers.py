"""Layers over coordinates: the features are the first axis, and the coordinates may have any shape behind it.

So elementwise work is one long contiguous loop, and an array that is sharded over its coordinates stays so. Call them
inside `hk.transform`.
"""

import haiku as hk
import jax.numpy as jnp
from haiku.experimental import name_scope
from jaxtyping import Array, Float


def dense(name: str, x: Float[Array, "i *shape"], units: int, zero: bool = False) -> Float[Array, "o *shape"]:
    """A dense layer over the first axis, with weights that start at zero or as haiku's do."""
    with name_scope(name):
        start = jnp.zeros if zero else hk.initializers.TruncatedNormal(x.shape[0] ** -0.5)
        w = hk.get_parameter("w", [units, x.shape[0]], init=start)
        b = hk.get_parameter("b", [units], init=jnp.zeros)
    return jnp.tensordot(w, x, 1) + b.reshape(-1, *[1] * (x.ndim - 1))


def cell(
    inputs: Float[Array, "features *shape"],
    state: tuple[Float[Array, "hidden *shape"], Float[Array, "hidden *shape"]],
    name: str,
) -> tuple[Float[Array, "hidden *shape"], tuple[Float[Array, "hidden *shape"], Float[Array, "hidden *shape"]]]:
    """One LSTM layer: the bias is one more column of the one matrix product. Forget bias 1, as in haiku's LSTM."""
    h, c = state
    features = inputs.shape[0] + h.shape[0]
    with name_scope(name):
        w = hk.get_parameter("w", [4 * h.shape[0], features], init=hk.initializers.TruncatedNormal(features**-0.5))
        b = hk.get_parameter("b", [4 * h.shape[0]], init=jnp.zeros)
    seen = jnp.concatenate([inputs, h.astype(inputs.dtype), jnp.ones_like(inputs[:1])])
    gates = jnp.tensordot(jnp.concatenate([w, b[:, None]], axis=1), seen, 1)
    i, g, f, o = jnp.split(gates, 4)
    new_c = sigmoid(f + 1) * c.astype(inputs.dtype) + sigmoid(i) * jnp.tanh(g)
    new_h = sigmoid(o) * jnp.tanh(new_c)
    return new_h, (new_h.astype(h.dtype), new_c.astype(c.dtype))


def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The logistic function through tanh, which costs one polynomial in place of an exponential and a division."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5
