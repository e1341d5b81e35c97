"""Reading trials into a cache and continuing them, token by token, with none that is illegal at its place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from l2o.core import Theta
from l2o.optformer.model import LOWEST, Keys, Network, Tokens
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


class EncodedStudy(NamedTuple):
    """What decoding needs of a study.

    Attributes:
      memory: the encoded metadata.
      sizes: legal tokens of each parameter.
      ordered: which of them are not categories.
      first: slot of the first parameter.
      start: the token that stands before all trials; an array, so that a study is data.
    """

    memory: Keys
    sizes: Int[Array, "d"]
    ordered: Bool[Array, "d"]
    first: Int[Array, ""]
    start: Int[Array, ""]


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


def begin(
    network: Network, theta: Theta, study: EncodedStudy, tokens: Int[Array, "n"], count: Int[Array, ""], spare: int = 0
) -> Context:
    """Read the start token and the first `count` of n tokens of trials; the context has room for 1 + n + spare.

    Only whole trials may be counted.
    """
    position = jnp.arange(tokens.size + 1) - 1
    entries = _reading(study, tokens, 0, position)
    logits, keys = network.decode(theta, entries, study.memory, ())
    keys = keys._replace(mask=position < count)
    return Context(_with_room(keys, spare), 1 + count, logits[count])


def read(network: Network, theta: Theta, study: EncodedStudy, context: Context, tokens: Int[Array, "n"]) -> Context:
    """Read n tokens of whole trials behind those that were read; there must be room for them."""
    begun = context.filled - 1
    entries = _reading(study, tokens, begun, begun + jnp.arange(tokens.size))
    logits, made = network.decode(theta, entries, study.memory, (context.keys,))
    filled = context.filled + tokens.size
    return Context(_insert(context.keys, made, context.filled, filled), filled, logits[-1])


def _reading(
    study: EncodedStudy, tokens: Int[Array, "n"], begun: Int[Array, ""] | int, position: Int[Array, "p"]
) -> Tokens:
    """What a decoder reads at positions, where these tokens begin at `begun`."""

    def at(position):
        return tokens[jnp.clip(position - begun, 0, tokens.size - 1)]

    parameters = jnp.asarray(study.sizes.size)
    return reading(at, position, study.start, study.first, parameters, study.sizes, study.ordered)


def _with_room(keys: Keys, spare: int) -> Keys:
    """The keys with so many more rows, which do not count."""

    def more(a, axis):
        return jnp.pad(a, [(0, spare if i == axis else 0) for i in range(a.ndim)])

    wide = {name: more(getattr(keys, name), 1) for name in ("key", "value", "outcome")}
    return Keys(**wide, **{name: more(getattr(keys, name), 0) for name in ("token", "trial", "slot", "point", "mask")})


def _insert(keys: Keys, made: Keys, at: Int[Array, ""], filled: Int[Array, ""]) -> Keys:
    """Rows that were made put at a row of others, of which the first `filled` then count."""

    def put(whole, part, axis):
        return jax.lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), at, axis=axis)

    return Keys(
        put(keys.key, made.key, 1), put(keys.value, made.value, 1), put(keys.token, made.token, 0),
        put(keys.outcome, made.outcome, 1), put(keys.trial, made.trial, 0), put(keys.slot, made.slot, 0),
        put(keys.point, made.point, 0), jnp.arange(keys.mask.size) < filled,
    )  # fmt: skip


def propose(
    network: Network, theta: Theta, study: EncodedStudy, context: Context, key: PRNGKeyArray, how: Sampling
) -> tuple[Int[Array, "d"], Float[Array, "d"], Float[Array, "outputs"]]:
    """The parameters of the next trial; vmap over keys for many candidates, which share what was read.

    Returns:
      Their tokens, the log-probabilities that those were drawn with, and the logits of the value that would come next.
    """
    d, position = study.sizes.size, context.filled - 1
    own = jax.tree.map(
        lambda a: jnp.zeros_like(a[:, :d]),
        context.keys._replace(token=None, trial=None, slot=None, point=None, mask=None),
    )
    zeros = jnp.zeros(d, jnp.int32)
    own = own._replace(token=zeros, trial=zeros, slot=zeros, point=jnp.zeros((d, d)), mask=jnp.zeros(d, bool))

    def step(carry, place):
        (logits, own, tokens), (i, data) = carry, place
        token, log_prob = draw(jax.random.wrap_key_data(data, impl=impl), logits, study.sizes[i], how)
        tokens = tokens.at[i].set(token)
        # the outcome is not known, and no key in this trial is asked for it
        entry = _reading(study, tokens, position, position + i[None])
        logits, made = network.decode(theta, entry, study.memory, (context.keys, own))
        return (logits[0], _insert(own, made, i, i + 1), tokens), log_prob

    # raw keys, because JAX's checker takes typed ones in a mapped loop within a loop for used again
    places, impl = (jnp.arange(d), jax.random.key_data(jax.random.split(key, d))), jax.random.key_impl(key)
    begun = context.logits, own, zeros
    (logits, _, tokens), log_probs = jax.lax.scan(step, begun, places)
    return tokens, log_probs, logits


def predict(
    network: Network, theta: Theta, study: EncodedStudy, context: Context, tokens: Int[Array, "d"]
) -> Float[Array, "outputs"]:
    """Logits of the value of a trial with these parameters, if it came next; vmap over tokens for many trials."""
    d, begun = study.sizes.size, context.filled - 1
    entries = _reading(study, tokens, begun, begun + jnp.arange(d))
    logits, _ = network.decode(theta, entries, study.memory, (context.keys,))
    return logits[-1]


def value_probabilities(logits: Float[Array, "outputs"], bins: int, temperature: float) -> Float[Array, "outcomes"]:
    """Probabilities of each bin, and of a failed evaluation."""
    return jnp.exp(masked_log_softmax(logits / temperature, jnp.asarray(bins + 1))[: bins + 1])
