"""Reading trials into a cache and continuing them, token by token, with none that is illegal at its place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from l2o.core import Theta
from l2o.optformer.model import LOWEST, Keys, Network
from l2o.optformer.prompt import reading


class Sampling(NamedTuple):
    """How tokens are drawn.

    Attributes:
      temperature: logits are divided by it; positive.
      top_k: draw from the k likeliest tokens alone; None for all.
      nucleus: draw from the likeliest tokens that together have this probability (Holtzman et al. 2020); None for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    nucleus: float | None = None


class Context(NamedTuple):
    """Trials that a decoder has read.

    Attributes:
      keys: of the first `filled` tokens; room for a fixed number.
      filled: how many there are, the start token included.
      logits: of the token that comes next.
    """

    keys: Keys
    filled: Int[Array, ""]
    logits: Float[Array, "outputs"]


class Study(NamedTuple):
    """What decoding needs of a study.

    Attributes:
      memory: the encoded metadata.
      sizes: legal tokens of each parameter.
      first: slot of the first parameter.
    """

    memory: Keys
    sizes: Int[Array, "d"]
    first: Int[Array, ""]


def masked_log_softmax(logits: Float[Array, "... outputs"], size: Int[Array, "..."]) -> Float[Array, "... outputs"]:
    """Log-probabilities of the first `size` tokens; the others are impossible."""
    places = jnp.arange(logits.shape[-1]).reshape((1,) * size.ndim + (-1,))
    legal = places < size[..., None]
    return jnp.where(legal, jax.nn.log_softmax(jnp.where(legal, logits, LOWEST), -1), LOWEST)


def draw(
    key: PRNGKeyArray, logits: Float[Array, "outputs"], size: Int[Array, ""], how: Sampling
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """A legal token, and the log-probability that it was drawn with."""
    log_probs = masked_log_softmax(logits / how.temperature, size)
    if how.top_k is not None:
        least = jax.lax.top_k(log_probs, min(how.top_k, logits.shape[-1]))[0][-1]
        log_probs = jnp.where(log_probs >= least, log_probs, LOWEST)
    if how.nucleus is not None:
        ordered = jnp.sort(jax.nn.softmax(log_probs), descending=True)
        before = jnp.cumsum(ordered) - ordered
        least = jnp.min(jnp.where(before < how.nucleus, ordered, jnp.inf))
        log_probs = jnp.where(jax.nn.softmax(log_probs) >= least, log_probs, LOWEST)
    log_probs = jax.nn.log_softmax(log_probs)
    token = jax.random.categorical(key, log_probs).astype(jnp.int32)
    return token, log_probs[token]


def begin(network: Network, theta: Theta, study: Study, tokens: Int[Array, "n"], count: Int[Array, ""]) -> Context:
    """Read the first `count` of n tokens, of which the first is the start token; the context has room for n."""
    entries = reading(tokens, jnp.arange(tokens.size) - 1, study.first, jnp.asarray(study.sizes.size))
    logits, keys = network.decode(theta, entries, study.memory, ())
    return Context(keys._replace(mask=jnp.arange(tokens.size) < count), count, logits[count - 1])


def read(
    network: Network, theta: Theta, study: Study, context: Context, tokens: Int[Array, "n"], count: Int[Array, ""]
) -> Context:
    """Read the first `count` of n tokens, at least one, behind those that were read; there must be room for all n."""
    position = context.filled + jnp.arange(tokens.size) - 1
    entries = reading(tokens, position, study.first, jnp.asarray(study.sizes.size))
    logits, made = network.decode(theta, entries, study.memory, (context.keys,))
    filled = context.filled + count

    def insert(whole, part):
        return jax.lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), context.filled, axis=1)

    keys = Keys(
        insert(context.keys.key, made.key), insert(context.keys.value, made.value),
        jnp.arange(context.keys.mask.size) < filled,
    )  # fmt: skip
    return Context(keys, filled, logits[count - 1])


def propose(
    network: Network, theta: Theta, study: Study, context: Context, key: PRNGKeyArray, how: Sampling
) -> tuple[Int[Array, "d"], Float[Array, "d"], Float[Array, "outputs"]]:
    """The parameters of the next trial; vmap over keys for many candidates, which share what was read.

    Returns:
      Their tokens, the log-probabilities that those were drawn with, and the logits of the value that would come next.
    """
    d, layers = study.sizes.size, context.keys.key.shape[0]
    own = jax.tree.map(lambda a: jnp.zeros((layers, d, *a.shape[2:]), a.dtype), context.keys._replace(mask=()))
    period = jnp.asarray(d)

    def step(carry, place):
        (logits, keys, values), (i, data) = carry, place
        token, log_prob = draw(jax.random.wrap_key_data(data, impl=impl), logits, study.sizes[i], how)
        here = reading(token[None], context.filled + i[None] - 1, study.first, period)
        past = (context.keys, Keys(keys, values, jnp.arange(d) < i))
        logits, made = network.decode(theta, here, study.memory, past)
        keys = jax.lax.dynamic_update_slice_in_dim(keys, made.key.astype(keys.dtype), i, axis=1)
        values = jax.lax.dynamic_update_slice_in_dim(values, made.value.astype(values.dtype), i, axis=1)
        return (logits[0], keys, values), (token, log_prob)

    # raw keys, because JAX's checker takes typed ones in a mapped loop within a loop for used again
    places, impl = (jnp.arange(d), jax.random.key_data(jax.random.split(key, d))), jax.random.key_impl(key)
    (logits, _, _), (tokens, log_probs) = jax.lax.scan(step, (context.logits, own.key, own.value), places)
    return tokens, log_probs, logits
