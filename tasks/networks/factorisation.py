"""Factorised bigrams: the next word from this one by a product of two embeddings; gradients of rows are sparse."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int
from pydantic import Field, SerializeAsAny

from l2o.errors import UserError
from l2o.registry import by_kind, register
from tasks.corpora import CorpusConfig, ManualConfig, cut
from tasks.family import Split
from tasks.networks.base import Batch, NetworkConfig, NetworkFamily, accuracy, rows
from tasks.networks.layers import Size

MOST_HELDOUT = 4096  # held-out pairs that are measured, evenly spread


@register
class FactorisationConfig(NetworkConfig):
    """Prediction of the next token from one alone: a row of one table times all rows of another; no other layers.

    The first half of the text is for meta-training, the second for studies. A row of the table "embed" whose token is
    not in a minibatch has a gradient of exactly zero; the table "head" has none of that kind, as the cross entropy is
    over the whole vocabulary.

    With negatives there is a number for a pair alone, the product of its two rows and a bias of the second token, and
    the logistic loss tells pairs that follow each other from others (Mikolov et al., 2013, equation 4, with tokens
    drawn as often as they stand in the text). Both tables are embeddings then, with sparse gradients.

    Attributes:
      corpus: any registered corpus; by default this project's own manual.
      negatives: pairs of a token and a random other for each pair of the text; 0 is the cross entropy.
      unit: tokens are "words" (and single marks of punctuation) or "pairs" of characters.
      vocabulary: the most frequent tokens; all others are one more.
      width: of both embeddings.
    """

    kind: Literal["factorisation"] = "factorisation"
    corpus: Annotated[SerializeAsAny[CorpusConfig], by_kind(CorpusConfig)] = ManualConfig()
    negatives: int = Field(default=0, ge=0, le=1000)
    unit: Literal["words", "pairs"] = "words"
    vocabulary: int = Field(default=1000, ge=1, le=1_000_000)
    width: Size = 32

    def build(self, split: Split = "train") -> "Factorisation":
        """The family on one half of the text.

        Raises:
          UserError: the text cannot be read, or is too short.
        """
        text = self.corpus.text()
        tokens = re.findall(r"\w+|[^\w\s]", text) if self.unit == "words" else re.findall(r"..", text, re.DOTALL)
        if len(tokens) < 100:
            raise UserError(f"factorisation: a corpus of {len(tokens)} {self.unit} is too short, expected at least 100")
        common = [token for token, _ in Counter(tokens).most_common(self.vocabulary)]
        number = {token: i for i, token in enumerate(common, 1)}
        seen, heldout = cut(np.array([number.get(token, 0) for token in tokens], np.int32), split)
        pairs = np.stack([heldout[:-1], heldout[1:]], axis=-1)
        pairs = pairs[:: -(-len(pairs) // MOST_HELDOUT)]
        return Factorisation(jnp.asarray(seen), jnp.asarray(pairs), len(common) + 1, self)

    def provenance(self):
        return self.corpus.provenance()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factorisation(NetworkFamily):
    """The family of `FactorisationConfig`."""

    tokens: Int[Array, "n"]
    heldout_pairs: Int[Array, "m 2"]
    vocabulary: int = field(metadata={"static": True})
    config: FactorisationConfig = field(metadata={"static": True})

    def outputs(self, inputs, variant):
        size, width = self.vocabulary, self.config.width
        if not self.config.negatives:
            return hk.Linear(size, with_bias=False, name="head")(hk.Embed(size, width)(inputs))
        token, following = inputs[:, 0], inputs[:, 1]
        product = hk.Embed(size, width)(token) * hk.Embed(size, width, name="embed_following")(following)
        return product.sum(-1) + hk.get_parameter("bias", [size], init=jnp.zeros)[following]

    def minibatch(self, key, variant):
        if not self.config.negatives:
            first = rows(key, self.config, 0, len(self.tokens) - 1)
            return self.tokens[first], self.tokens[first + 1]
        first_key, other_key = jax.random.split(key)
        first = rows(first_key, self.config, 0, len(self.tokens) - 1)
        others = jax.random.choice(other_key, self.tokens, (self.config.negatives * len(first),))
        return _told_apart(jnp.stack([self.tokens[first], self.tokens[first + 1]], axis=-1), others)

    def heldout(self, variant):
        pairs = self.heldout_pairs
        if not self.config.negatives:
            return pairs[:, 0], pairs[:, 1]
        return _told_apart(pairs, jnp.concatenate([jnp.roll(pairs[:, 1], k + 1) for k in range(self.config.negatives)]))

    def scores(self, outputs, targets):
        if self.config.negatives:
            loss = optax.losses.sigmoid_binary_cross_entropy(outputs, targets).mean()
            return {"loss": loss, "accuracy": jnp.mean((outputs > 0) == targets)}
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
        return {"loss": loss, "accuracy": accuracy(outputs, targets)}


def _told_apart(pairs: Int[Array, "n 2"], others: Int[Array, "m"]) -> Batch:
    """Pairs of the text with target 1, and their first tokens with others, m a multiple of n, with target 0."""
    n, m = len(pairs), len(others)
    wrong = jnp.stack([jnp.tile(pairs[:, 0], m // n), others], axis=-1)
    return jnp.concatenate([pairs, wrong]), jnp.concatenate([jnp.ones(n), jnp.zeros(m)])
