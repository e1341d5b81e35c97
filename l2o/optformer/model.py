"""An encoder-decoder transformer over tokens: the encoder reads what a study is about, the decoder its trials.

After T5 (Raffel et al. 2020), as OptFormer is (Chen et al. 2022): normalisation before each sublayer, no biases,
relative positions, and one table of embeddings for what is read and what is predicted. Positions are rotations of a
part of each head (Su et al. 2021), so that keys can be cached as they are.

A decoder position reads one token and predicts the next one. Some things are given to it that a larger network would
have to work out from many more studies. It reads the token before its own, too, if that is of the same trial: a single
layer can then go on as an earlier trial that began alike. Keys of a trial's parameters are completed by its value once
that is known, which is for all later trials, so that a single layer can look for the parameters of good trials. And it
is told in which *slot* its token and the next one stand (which parameter, or the metric's value), and every head has a
learned preference for keys in the slot of the next token. At last it may point to a token that an earlier trial has in
this slot, in place of predicting one (See et al. 2017): algorithms that change a few parameters of a good trial repeat
the others exactly, and one among hundreds of bins is hard to repeat by way of embeddings. Positions are counted
in trials, so that distances do not depend on how many parameters a study has.

And as values of near points are alike, every head is told how far the parameters of the trial that it is in are from
those of earlier trials, parameter by parameter, and gives each of these distances a weight that depends on what it has
read: a kernel of its own, as regression by a Gaussian process has one for all trials.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from l2o.core import Theta

SLOTS = 16  # parameters a study can have
METRIC, NOWHERE = SLOTS, SLOTS + 1  # the slots of the metric's value, and of tokens outside of trials
TINY = 1e-12  # a probability that is as good as none
LOWEST = -1e9  # a logit that stands for impossible
ROTATIONS = 1000.0  # the slowest position signal turns once in 2 pi times as many trials


class Sizes(NamedTuple):
    """Hyperparameters of the network.

    Attributes:
      tokens: of the vocabulary.
      outputs: tokens that can be predicted, the first ones.
      bins: values among them, ordered.
      width: of the residual stream.
      heads: of each attention; they divide the width.
      feedforward: width of the hidden layers.
      encoder_layers: of the encoder.
      decoder_layers: of the decoder.
      dtype: of the arithmetic; parameters and logits are float32.
    """

    tokens: int
    outputs: int
    bins: int
    width: int
    heads: int
    feedforward: int
    encoder_layers: int
    decoder_layers: int
    dtype: str = "float32"


class Keys(NamedTuple):
    """What has been read, for every layer: keys and values, and which rows count.

    Attributes:
      key: [layers, n, heads, head]; of trials, one more for pointing.
      value: [layers, n, heads, head].
      token: of each row; None for metadata.
      outcome: what the value of a row's trial adds to its keys, for later trials; None for metadata.
      trial: of each row; None for metadata.
      slot: likewise.
      point: the parameters of its trial, see `Tokens`; None for metadata.
      mask: rows that may be attended to.
    """

    key: Float[Array, "keys n heads head"]
    value: Float[Array, "layers n heads head"]
    token: Int[Array, "n"] | None
    outcome: Float[Array, "keys n heads head"] | None
    trial: Int[Array, "n"] | None
    slot: Int[Array, "n"] | None
    point: Float[Array, "n d"] | None
    mask: Bool[Array, "n"]

    def of_layer(self, i: int) -> tuple[Array, Array, Array, Array, Array]:
        """What attention to trials reads of them."""
        assert self.outcome is not None and self.trial is not None and self.slot is not None
        return self.key[i], self.outcome[i], self.trial, self.slot, self.mask[None]


class Tokens(NamedTuple):
    """What a decoder reads, one entry for each position.

    Attributes:
      token: that is read.
      previous: the token before it within the trial, the start token where there is none.
      outcome: the token of the value of its trial; anything while that is not known.
      slot: it stands in.
      trial: it belongs to, counted from 1; 0 for what stands before all trials.
      next_slot: of the token that is to be predicted.
      next_trial: likewise.
      point: parameters of its trial in the unit interval; numbers of categories.
      known: which of these were read when the next token is predicted, if that is of the same trial; else none.
      places: the slots of the parameters.
      ordered: which of them are not categories.
    """

    token: Int[Array, "n"]
    previous: Int[Array, "n"]
    outcome: Int[Array, "n"]
    slot: Int[Array, "n"]
    trial: Int[Array, "n"]
    next_slot: Int[Array, "n"]
    next_trial: Int[Array, "n"]
    point: Float[Array, "n d"]
    known: Bool[Array, "n d"]
    places: Int[Array, "d"]
    ordered: Bool[Array, "d"]


class Network(NamedTuple):
    """Pure functions of one study; vmap them.

    Attributes:
      init: `(key) -> theta`.
      encode: `(theta, token [m], slot [m]) -> Keys`, the memory that every decoder layer attends to; a padded token is
        negative.
      decode: `(theta, Tokens [n], memory, past) -> (logits [n, outputs], Keys)`: those of the next tokens, which see
        the given `past` (a sequence of Keys) whole and the n tokens up to their own; and the n tokens' own keys.
    """

    init: Callable[[PRNGKeyArray], Theta]
    encode: Callable[..., Keys]
    decode: Callable[..., tuple[Float[Array, "n outputs"], Keys]]


class _Transformer(hk.Module):
    def __init__(self, sizes: Sizes):
        super().__init__(name="optformer")
        self.sizes = sizes

    def _table(self, name: str, rows: int, init=None) -> Array:
        init = init or hk.initializers.RandomNormal(1.0)
        return jnp.asarray(hk.get_parameter(name, (rows, self.sizes.width), init=init), self.sizes.dtype)

    def _embeddings(self) -> Array:
        return self._table("tokens", self.sizes.tokens, lambda shape, dtype: _smooth(shape, dtype, self.sizes.bins))

    def _norm(self, x: Array, name: str) -> Array:
        scale = hk.get_parameter(name, (self.sizes.width,), init=jnp.ones)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
        return (wide * jnp.asarray(scale)[None]).astype(x.dtype)

    def _linear(self, x: Array, size: int, name: str, scale: float = 1.0) -> Array:
        init = hk.initializers.VarianceScaling(scale, "fan_in", "truncated_normal")
        w = hk.get_parameter(name, (x.shape[-1], size), init=init)
        return x @ jnp.asarray(w, x.dtype)

    def _heads(self, x: Array, name: str) -> Array:
        y = self._linear(x, self.sizes.width, name)
        return y.reshape(*y.shape[:-1], self.sizes.heads, -1)

    def _output(self, x: Array, name: str) -> Array:
        layers = self.sizes.encoder_layers + 2 * self.sizes.decoder_layers
        return self._linear(x.reshape(*x.shape[:-2], -1), self.sizes.width, name, 1 / layers)

    def _feedforward(self, x: Array, name: str) -> Array:
        hidden = jax.nn.relu(self._linear(self._norm(x, f"{name}_norm"), self.sizes.feedforward, f"{name}_in", 2.0))
        return x + self._linear(hidden, self.sizes.width, f"{name}_out", 1 / self.sizes.decoder_layers)

    def _kernel(self, x: Array, read: Tokens, name: str) -> Array:
        """How much a distance of one in each parameter takes from the logits of each head: positive, [n, heads, d]."""
        heads = self.sizes.heads
        bias = hk.get_parameter(f"{name}_bias", (heads, SLOTS), init=_kernels)
        rates = self._linear(x, heads * SLOTS, name, 0.1).reshape(-1, heads, SLOTS).astype(jnp.float32)
        return jnp.exp(jnp.minimum(rates + jnp.asarray(bias)[None], 8.0))[:, :, read.places]

    def encode(self, token: Int[Array, "m"], slot: Int[Array, "m"]) -> Keys:
        mask, positions = token >= 0, jnp.arange(token.size)
        x = self._embeddings()[jnp.maximum(token, 0)] + self._table("slots", SLOTS + 2)[slot]
        for i in range(self.sizes.encoder_layers):
            y = self._norm(x, f"encoder{i}_norm")
            q = rotated(self._heads(y, f"encoder{i}_query"), positions)
            k = rotated(self._heads(y, f"encoder{i}_key"), positions)
            scores = [scored(q, k, mask[None])]
            x = x + self._output(attend(scores, [self._heads(y, f"encoder{i}_value")]), f"encoder{i}_output")
            x = self._feedforward(x, f"encoder{i}_ff")
        x = self._norm(x, "encoder_norm")
        layers = range(self.sizes.decoder_layers)
        keys = jnp.stack([self._heads(x, f"cross{i}_key") for i in layers])
        values = jnp.stack([self._heads(x, f"cross{i}_value") for i in layers])
        return Keys(keys, values, None, None, None, None, None, mask)

    def decode(self, read: Tokens, memory: Keys, past: Sequence[Keys]) -> tuple[Array, Keys]:
        table, n = self._embeddings(), read.token.size
        x = table[read.token] + self._table("slots", SLOTS + 2)[read.slot]
        x = x + self._table("next_slots", SLOTS + 2)[read.next_slot]
        x = x + self._linear(table[read.previous], self.sizes.width, "previous")
        values, first = table[read.outcome], x
        causal, made = jnp.tril(jnp.ones((n, n), bool)), []
        distances = [apart(read, keys.trial, keys.point) for keys in (*past, read)]
        for i in range(self.sizes.decoder_layers):
            y = self._norm(x, f"decoder{i}_norm")
            q = rotated(self._heads(y, f"decoder{i}_query"), read.next_trial)
            k = rotated(self._heads(y, f"decoder{i}_key"), read.trial)
            v, o = self._heads(y, f"decoder{i}_value"), self._heads(values, f"decoder{i}_outcome")
            made.append((k, v, o))
            wish = self._heads(y, f"decoder{i}_wish")
            same = hk.get_parameter(f"decoder{i}_same_slot", (self.sizes.heads,), init=_every_second)
            scores = []
            own = (k, o, read.trial, read.slot, causal)
            kernel = self._kernel(y, read, f"decoder{i}_kernel")
            every = (*(keys.of_layer(i) for keys in past), own)
            for (key, outcome, trial, slot, mask), distance in zip(every, distances, strict=True):
                later = trial[None] < read.next_trial[:, None]
                alike = (slot[None] == read.next_slot[:, None])[None] * jnp.asarray(same)[:, None, None]
                far = jnp.einsum("nhd,nmd->hnm", kernel, distance)
                scores.append(scored(q, key, mask) + known(wish, outcome, later) + alike - far)
            x = x + self._output(attend(scores, [*(keys.value[i] for keys in past), v]), f"decoder{i}_output")
            q = self._heads(self._norm(x, f"cross{i}_norm"), f"cross{i}_query")
            scores = [scored(q, memory.key[i], memory.mask[None])]
            x = x + self._output(attend(scores, [memory.value[i]]), f"cross{i}_output")
            x = self._feedforward(x, f"decoder{i}_ff")
        x = self._norm(x, "decoder_norm")
        logits = (x @ table[: self.sizes.outputs].T).astype(jnp.float32) * self.sizes.width**-0.5
        k = rotated(self._heads(self._norm(first, "pointer_norm"), "pointer_key"), read.trial)
        o = self._heads(values, "pointer_outcome")
        keys, outcomes = jnp.stack([*(m[0] for m in made), k]), jnp.stack([*(m[2] for m in made), o])
        own = Keys(
            keys, jnp.stack([m[1] for m in made]), read.token, outcomes, read.trial, read.slot, read.point,
            jnp.ones(n, bool),
        )  # fmt: skip
        return self._mixed(x, logits, read, [*past, own]), own

    def _mixed(self, x: Array, logits: Array, read: Tokens, every: Sequence[Keys]) -> Array:
        """Log-probabilities of predicting a token, or of repeating one that an earlier trial has in its slot."""
        q = rotated(self._heads(x, "pointer_query"), read.next_trial)
        wish = self._heads(x, "pointer_wish")
        scores, masks, tokens = [], [], []
        for keys in every:
            assert keys.token is not None
            key, outcome, trial, slot, mask = keys.of_layer(-1)
            candidates = (trial[None] < read.next_trial[:, None]) & (slot[None] == read.next_slot[:, None]) & mask
            found = jnp.sum(scored(q, key, candidates) + known(wish, outcome, candidates), 0)
            scores.append(jnp.where(candidates, found, LOWEST))
            masks.append(candidates)
            tokens.append(jax.nn.one_hot(keys.token, self.sizes.outputs))
        weights = jax.nn.softmax(jnp.concatenate(scores, 1), 1) * jnp.concatenate(masks, 1)
        repeated = weights @ jnp.concatenate(tokens)
        bias = jnp.asarray(hk.get_parameter("pointer_bias", (), init=hk.initializers.Constant(-1.0)))
        gate = self._linear(x, 1, "pointer_gate").astype(jnp.float32) + bias
        return jnp.logaddexp(
            jax.nn.log_softmax(logits) + jax.nn.log_sigmoid(-gate), jnp.log(repeated + TINY) + jax.nn.log_sigmoid(gate)
        )


def _every_second(shape: Sequence[int], dtype) -> Array:
    """So that half of the heads begin with a preference, in logits."""
    return 4.0 * (jnp.arange(shape[0]) % 2).astype(dtype)


def _kernels(shape: Sequence[int], dtype) -> Array:
    """Logarithms of rates, the same for all slots: from 1 of the first head to 30 of the last."""
    return jnp.broadcast_to(jnp.linspace(0.0, jnp.log(30.0), shape[0], dtype=dtype)[:, None], shape)


def apart(read: Tokens, trial: Int[Array, "m"] | None, point: Float[Array, "m d"] | None) -> Float[Array, "n m d"]:
    """Distances of what is known of a trial's parameters from those of earlier trials; 0 where there are none."""
    assert trial is not None and point is not None
    distance = jnp.abs(read.point[:, None] - point[None])
    distance = jnp.where(read.ordered[None, None], distance, jnp.minimum(distance, 1.0))
    earlier = (trial[None] < read.next_trial[:, None]) & (trial[None] > 0)
    return distance * (read.known[:, None] & earlier[:, :, None])


def scored(
    q: Float[Array, "n heads head"], k: Float[Array, "m heads head"], mask: Bool[Array, "#n m"]
) -> Float[Array, "heads n m"]:
    """Logits of attention, in float32."""
    scores = jnp.einsum("nhd,mhd->hnm", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    return jnp.where(mask[None], scores, LOWEST)


def known(
    q: Float[Array, "n heads head"], outcome: Float[Array, "m heads head"], later: Bool[Array, "n m"]
) -> Float[Array, "heads n m"]:
    """What values of trials add to logits, where the trial of a key was over before that of the query began."""
    return jnp.where(later[None], scored(q, outcome, later), 0.0)


def attend(
    scores: Sequence[Float[Array, "heads n _"]], values: Sequence[Float[Array, "_ heads head"]]
) -> Float[Array, "n heads head"]:
    """Softmax attention to several sets of values as if they were one."""
    weights = jax.nn.softmax(jnp.concatenate(list(scores), -1), -1).astype(values[0].dtype)
    ends = list(itertools.accumulate(v.shape[0] for v in values))
    shares = jnp.split(weights, ends[:-1], -1)
    parts = [jnp.einsum("hnm,mhd->nhd", w, v) for w, v in zip(shares, values, strict=True)]
    return functools.reduce(jnp.add, parts)


def rotated(x: Float[Array, "n heads head"], position: Int[Array, "n"]) -> Float[Array, "n heads head"]:
    """The first half of each head turned by angles that grow with the position; products then see differences alone."""
    quarter = x.shape[-1] // 4
    speed = ROTATIONS ** -(jnp.arange(quarter) / quarter)
    angle = (position[:, None] * speed[None])[:, None]
    sin, cos = jnp.sin(angle).astype(x.dtype), jnp.cos(angle).astype(x.dtype)
    a, b, rest = x[..., :quarter], x[..., quarter : 2 * quarter], x[..., 2 * quarter :]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], -1)


def _smooth(shape: Sequence[int], dtype, bins: int) -> Array:
    """Normal rows of variance 1, of which those of the values vary smoothly: neighbouring bins begin alike."""
    rows = jax.random.normal(hk.next_rng_key(), shape, dtype)
    waves = min(32, bins)
    angles = jnp.pi * jnp.arange(waves)[None] * ((jnp.arange(bins) + 0.5) / bins)[:, None]
    power = 1 / (1 + jnp.arange(waves) / 4)
    basis = jnp.cos(angles) * (power * jnp.sqrt(2 / jnp.sum(power**2)))[None]
    values = basis @ jax.random.normal(hk.next_rng_key(), (waves, shape[1]), dtype)
    return rows.at[:bins].set((0.9 * values + 0.3 * rows[:bins]) / jnp.sqrt(0.9))


def network(sizes: Sizes) -> Network:
    """The network of these sizes."""

    def functions():
        module = _Transformer(sizes)

        def both(token, read):
            return module.decode(read, module.encode(token, token), ())

        return both, (module.encode, module.decode)

    transformed = hk.without_apply_rng(hk.multi_transform(functions))
    encode, decode = transformed.apply

    def init(key: PRNGKeyArray) -> Theta:
        zeros, point, one = jnp.zeros(2, jnp.int32), jnp.zeros((2, 1)), jnp.zeros(1, jnp.int32)
        read = Tokens(zeros, zeros, zeros, zeros, zeros, zeros, zeros, point, point > 0, one, one > 0)
        return transformed.init(key, zeros, read)

    return Network(init, encode, decode)
