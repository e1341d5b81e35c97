"""Character models as tasks: a small transformer or GRU learns to predict the next character of a text."""

import functools
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int
from pydantic import Field, SerializeAsAny, model_validator

from l2o.errors import UserError
from l2o.registry import by_kind, register
from tasks.corpora import CorpusConfig, ManualConfig, as_numbers, cut
from tasks.family import Split
from tasks.networks.base import NetworkConfig, NetworkFamily, accuracy, rows
from tasks.networks.layers import (
    Heads,
    check_heads,
    dense_feed_forward,
    layer_norm,
    mixture_of_experts,
    positions,
    transformer_block,
)

WINDOWS = 256  # most windows of a held-out text that are measured, evenly spread


class Text(NamedTuple):
    """Characters as numbers: those to learn from [n], and the held-out end of them [windows, context + 1]."""

    characters: Int[Array, "n"]
    heldout: Int[Array, "windows length"]


@register
class CharactersConfig(NetworkConfig):
    """Next-character prediction; tasks differ in their start.

    The first half of the text is for meta-training, the second for studies.

    Attributes:
      corpus: any registered corpus; by default this project's own manual.
      model: "transformer", causal and pre-norm; "experts", the same with a mixture of experts in every block; or "gru".
      width: of the embedding, the residual stream and the recurrent state.
      depth: blocks or recurrent layers.
      heads: of the attention; a divisor of width.
      experts: hidden layers of a mixture, each of twice the width.
      chosen: experts of a mixture that count for a character.
      context: characters that a prediction may look back on.
      batch_size: windows in a minibatch, drawn with replacement at every evaluation.
    """

    kind: Literal["characters"] = "characters"
    corpus: Annotated[SerializeAsAny[CorpusConfig], by_kind(CorpusConfig)] = ManualConfig()
    model: Literal["transformer", "experts", "gru"] = "transformer"
    width: int = Field(default=32, ge=1, le=4096)
    depth: int = Field(default=2, ge=1, le=100)
    heads: Heads = 4
    experts: int = Field(default=4, ge=1, le=64)
    chosen: int = Field(default=2, ge=1, le=64)
    context: int = Field(default=32, ge=1, le=1024)
    batch_size: int = Field(default=16, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _check(self):
        check_heads(self.heads, self.width)
        if self.chosen > self.experts:
            raise ValueError(f"chosen must be at most experts, found {self.chosen} and {self.experts}")
        return self

    def build(self, split: Split = "train") -> "Characters":
        """The family on one half of the text.

        Raises:
          UserError: the text cannot be read, or is shorter than a window.
        """
        numbers, alphabet = as_numbers(self.corpus.text())
        seen, heldout = cut(numbers, split)
        length = self.context + 1
        windows = heldout[: len(heldout) // length * length].reshape(-1, length)
        if not len(windows):
            raise UserError(
                f"characters: a corpus of {len(numbers)} characters is too short for context {self.context}"
            )
        windows = windows[:: -(-len(windows) // WINDOWS)]
        return Characters(Text(jnp.asarray(seen), jnp.asarray(windows)), alphabet, self)

    def provenance(self):
        return self.corpus.provenance()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Characters(NetworkFamily):
    """The family of `CharactersConfig`."""

    text: Text
    alphabet: int = field(metadata={"static": True})
    config: CharactersConfig = field(metadata={"static": True})

    def outputs(self, inputs, variant):
        config = self.config
        x = hk.Embed(self.alphabet, config.width)(inputs)
        head = hk.Linear(self.alphabet, name="head")
        if config.model == "gru":
            for _ in range(config.depth):
                layer = hk.GRU(config.width)
                x, _ = hk.dynamic_unroll(layer, x, layer.initial_state(len(inputs)), time_major=False)
            return head(x)
        length = inputs.shape[1]
        x = x + positions(config.context, config.width)[:, :length]
        experts = functools.partial(mixture_of_experts, experts=config.experts, chosen=config.chosen)
        feed_forward = experts if config.model == "experts" else dense_feed_forward
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
        for _ in range(config.depth):
            x = transformer_block(x, config.heads, mask, feed_forward)
        return head(layer_norm(x))

    def minibatch(self, key, variant):
        length = self.config.context + 1
        starts = rows(key, self.config, 0, self.text.characters.shape[0] - length + 1)
        windows = self.text.characters[starts[:, None] + jnp.arange(length)[None]]
        return windows[:, :-1], windows[:, 1:]

    def heldout(self, variant):
        return self.text.heldout[:, :-1], self.text.heldout[:, 1:]

    def scores(self, outputs, targets):
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
        return {"loss": loss, "accuracy": accuracy(outputs, targets)}
