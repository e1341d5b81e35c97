"""Character models as tasks: a small transformer or GRU learns to predict the next character of a text."""

from dataclasses import dataclass, field
from importlib import resources
from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator

from l2o.core import Problem, Task
from l2o.registry import register
from l2o.space.domain import Space
from tasks.family import FamilyConfig, Split, TaskFamily

HOLDOUT = 0.1  # share of each half of the text that no inner training sees


class Text(NamedTuple):
    """Characters as numbers: those to learn from [n], and the held-out end of them [windows, context + 1]."""

    characters: Int[Array, "n"]
    heldout: Int[Array, "windows length"]


@register
class CharactersConfig(FamilyConfig):
    """Next-character prediction on this project's own manual, of 29 thousand characters; tasks differ in their start.

    The first half of the text is for meta-training, the second for studies.

    Attributes:
      model: "transformer", causal and pre-norm, or "gru".
      width: of the embedding, the residual stream and the recurrent state.
      depth: blocks or recurrent layers.
      heads: of the attention; a divisor of width.
      context: characters that a prediction may look back on.
      batch_size: windows in a minibatch, drawn with replacement at every evaluation.
    """

    kind: Literal["characters"] = "characters"
    model: Literal["transformer", "gru"] = "transformer"
    width: int = Field(default=32, ge=1, le=4096)
    depth: int = Field(default=2, ge=1, le=100)
    heads: int = Field(default=4, ge=1, le=64)
    context: int = Field(default=32, ge=1, le=1024)
    batch_size: int = Field(default=16, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _check(self):
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, found {self.heads} and {self.width}")
        return self

    def build(self, split: Split = "train") -> "Characters":
        """The family on one half of the text."""
        text = resources.files("tasks").joinpath("text/manual.txt").read_text(encoding="ascii")
        alphabet = sorted(set(text))
        numbers = np.array([alphabet.index(c) for c in text], np.int32)
        half = len(numbers) // 2
        numbers = numbers[:half] if split == "train" else numbers[half:]
        seen = round((1 - HOLDOUT) * len(numbers))
        length = self.context + 1
        heldout = numbers[seen:]
        windows = heldout[: len(heldout) // length * length].reshape(-1, length)
        return Characters(Text(jnp.asarray(numbers[:seen]), jnp.asarray(windows)), len(alphabet), self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Characters(TaskFamily):
    """The family of `CharactersConfig`. A task's parameters are the starting weights."""

    text: Text
    alphabet: int = field(metadata={"static": True})
    config: CharactersConfig = field(metadata={"static": True})

    @property
    def _network(self) -> hk.Transformed:
        return hk.without_apply_rng(hk.transform(self._logits))

    def _logits(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t alphabet"]:
        config = self.config
        x = hk.Embed(self.alphabet, config.width)(tokens)
        if config.model == "gru":
            for _ in range(config.depth):
                layer = hk.GRU(config.width)
                x, _ = hk.dynamic_unroll(layer, x, layer.initial_state(len(tokens)), time_major=False)
            return hk.Linear(self.alphabet)(x)
        start = hk.initializers.TruncatedNormal(0.02)
        x = x + hk.get_parameter("positions", [config.context, config.width], init=start)[None, : tokens.shape[1]]

        def norm(x):
            return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

        mask = jnp.tril(jnp.ones((1, 1, tokens.shape[1], tokens.shape[1]), bool))
        for _ in range(config.depth):
            attention = hk.MultiHeadAttention(
                config.heads, config.width // config.heads, model_size=config.width,
                w_init=hk.initializers.VarianceScaling(1.0), with_bias=False,
            )  # fmt: skip
            y = norm(x)
            x = x + attention(y, y, y, mask)
            x = x + hk.Linear(config.width)(jax.nn.gelu(hk.Linear(4 * config.width)(norm(x))))
        return hk.Linear(self.alphabet)(norm(x))

    def sample(self, key):
        return self._network.init(key, self.text.heldout[:1, :-1])

    def task(self, params):
        network, length = self._network, self.config.context + 1

        def cross_entropy(weights, windows):
            logits = network.apply(weights, windows[:, :-1])
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean(), logits

        def loss(key, weights):
            starts = jax.random.randint(key, (self.config.batch_size,), 0, self.text.characters.shape[0] - length + 1)
            return cross_entropy(weights, self.text.characters[starts[:, None] + jnp.arange(length)[None]])[0]

        def measure(key, weights):
            del key
            value, logits = cross_entropy(weights, self.text.heldout)
            right = jnp.argmax(logits, -1) == self.text.heldout[:, 1:]
            return {"heldout_loss": value, "heldout_accuracy": jnp.mean(right)}

        return Task.from_loss(loss, Problem(Space.free(), params), measure=measure)
