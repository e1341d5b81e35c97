"""Layers that several families of networks are made of. Call them inside `hk.transform`."""

from collections.abc import Callable
from typing import Annotated, Literal

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from pydantic import Field

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "swish": jax.nn.swish,
}
Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "swish"]
Normalisation = Literal["none", "layer", "group"]
Size = Annotated[int, Field(ge=1, le=100_000)]
Depth = Annotated[int, Field(ge=0, le=100)]
Heads = Annotated[int, Field(ge=1, le=64)]


def layer_norm(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Normalises the last axis, with a learned scale and offset."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def normalise(x: Float[Array, "batch h w c"], kind: Normalisation, groups: int) -> Float[Array, "batch h w c"]:
    """Normalises images: "layer" the channels of each pixel, "group" groups of channels over all pixels of an image."""
    if kind == "none":
        return x
    return layer_norm(x) if kind == "layer" else hk.GroupNorm(groups)(x)


def hidden_layers(
    x: Float[Array, "batch i"],
    width: int,
    depth: int,
    activation: Callable[[Array], Array],
    residual: bool = False,
    norm: bool = False,
) -> Float[Array, "batch o"]:
    """The hidden layers of a multilayer perceptron.

    Args:
      x: inputs.
      width: units of each layer.
      depth: layers.
      activation: nonlinearity of each layer.
      residual: every layer but the first adds to its input.
      norm: normalise what enters each activation.
    """
    for layer in range(depth):
        y = hk.Linear(width)(x)
        y = activation(layer_norm(y) if norm else y)
        x = x + y if residual and layer else y
    return x


def transformer_block(
    x: Float[Array, "batch t width"],
    heads: int,
    mask: Bool[Array, "1 1 t t"] | None,
    feed_forward: Callable[[Array], Array],
) -> Float[Array, "batch t width"]:
    """One pre-norm block: attention with `heads` heads, then `feed_forward`, each added to what entered it."""
    width = x.shape[-1]
    start = hk.initializers.VarianceScaling(1.0)
    attention = hk.MultiHeadAttention(heads, width // heads, model_size=width, w_init=start, with_bias=False)
    y = layer_norm(x)
    x = x + attention(y, y, y, mask)
    return x + feed_forward(layer_norm(x))


def dense_feed_forward(x: Float[Array, "batch t width"]) -> Float[Array, "batch t width"]:
    """One hidden layer of four times the width, with GELU."""
    return hk.Linear(x.shape[-1])(jax.nn.gelu(hk.Linear(4 * x.shape[-1])(x)))


def gates(logits: Float[Array, "*batch experts"], chosen: int) -> Float[Array, "*batch experts"]:
    """The weights of experts: a softmax over the `chosen` largest logits, and zero for the others."""
    largest, _ = jax.lax.top_k(logits, chosen)
    return jax.nn.softmax(jnp.where(logits >= largest[..., -1:], logits, -jnp.inf))


def mixture_of_experts(x: Float[Array, "batch t width"], experts: int, chosen: int) -> Float[Array, "batch t width"]:
    """Experts that are dense feed-forward layers with a common last bias, weighed by softly gated top-k.

    All are computed, as at this size choosing would cost more. The hidden layers of all experts are one matrix, and
    as gates sum to one, so is what follows.
    """
    width = x.shape[-1]
    weights = gates(hk.Linear(experts, name="gate")(x), chosen)
    hidden = jax.nn.gelu(hk.Linear(experts * 2 * width, name="experts_in")(x))
    hidden = hidden.reshape(*x.shape[:-1], experts, 2 * width) * weights[..., None]
    return hk.Linear(width, name="experts_out")(hidden.reshape(*x.shape[:-1], experts * 2 * width))


def positions(length: int, width: int) -> Float[Array, "1 length width"]:
    """Learned embeddings of positions."""
    start = hk.initializers.TruncatedNormal(0.02)
    return hk.get_parameter("positions", [length, width], init=start)[None]


def check_heads(heads: int, width: int) -> None:
    """Heads must share the width evenly.

    Raises:
      ValueError: they do not.
    """
    if width % heads:
        raise ValueError(f"heads must divide width, found {heads} and {width}")
