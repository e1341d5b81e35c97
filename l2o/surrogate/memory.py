"""A network with a memory that reads observations one after the other, and predicts other values from it.

Santoro et al. (2016), "Meta-learning with memory-augmented neural networks": the older surrogate that is learned. Each
observation is written to the place of the memory that was used least, or to the one that was read last; a query reads
the places whose keys are most like its own, and writes nothing. Unlike in a prior-fitted network, the order of the
observations matters, and so does that of the parameters.
"""

from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import Field

from l2o.acquisition import without_failures
from l2o.core import LearnedOptimizer
from l2o.errors import UserError
from l2o.layers import cell, dense
from l2o.registry import register
from l2o.surrogate.buckets import Buckets
from l2o.surrogate.policy import SurrogateConfig, searching
from l2o.surrogate.prediction import Prediction, Surrogate, Units, units_of

TINY = 1e-6  # norm below which a place is empty
FORGETTING = 0.95  # of how much a place was used, with each observation


class Memory(NamedTuple):
    """What is kept between observations.

    Attributes:
      hidden: of the controller.
      cell: of the controller.
      slots: contents of the memory.
      used: how much each place was used lately.
      read: weights of the last reading.
    """

    hidden: Float[Array, "h"]
    cell: Float[Array, "h"]
    slots: Float[Array, "slots width"]
    used: Float[Array, "slots"]
    read: Float[Array, "slots"]


class Belief(NamedTuple):
    """What was read, the units it was read in, and which parameters are no categories."""

    memory: Memory
    units: Units
    ordered: Array


@register
class MemoryConfig(SurrogateConfig):
    """The acquisition function of a network with a memory (Santoro et al. 2016).

    Attributes:
      dimension: most parameters.
      hidden: units of the controller, an LSTM.
      slots: places of the memory.
      width: of each.
      buckets: of the predicted distribution.
    """

    kind: Literal["memory"] = "memory"
    dimension: int = Field(default=6, ge=1)
    hidden: int = Field(default=64, ge=1)
    slots: int = Field(default=32, ge=1)
    width: int = Field(default=32, ge=1)
    buckets: int = Field(default=64, ge=3)

    def build(self) -> LearnedOptimizer:
        buckets, room = Buckets.of(self.buckets), self.dimension

        def module(memory: Memory, seen: Float[Array, "inputs"]) -> tuple[Memory, Float[Array, "buckets"]]:
            """After a token: the memory if it is written down, and what is said of it."""
            out, (hidden, state) = cell(seen, (memory.hidden, memory.cell), "controller")
            key = jnp.tanh(dense("key", out, self.width))
            alike = optax.cosine_similarity(memory.slots, jnp.broadcast_to(key[None], memory.slots.shape), epsilon=TINY)
            read = jax.nn.softmax(alike * (1 + jax.nn.softplus(dense("sharpness", out, 1))))
            found = read @ memory.slots
            gate = jax.nn.sigmoid(dense("gate", out, 1))
            least = jax.nn.one_hot(jnp.argmin(memory.used), self.slots)
            write = gate * memory.read + (1 - gate) * least
            kept = memory.slots * (1 - least * (1 - gate))[:, None]  # what was used least is forgotten first
            slots = kept + write[:, None] * key[None]
            both = jax.nn.gelu(dense("both", jnp.concatenate([out, found]), self.hidden))
            logits = dense("said", both, self.buckets)
            return Memory(hidden, state, slots, FORGETTING * memory.used + read + write, read), logits

        network = hk.without_apply_rng(hk.transform(module))
        empty = Memory(
            jnp.zeros(self.hidden), jnp.zeros(self.hidden), jnp.full((self.slots, self.width), TINY),
            jnp.arange(self.slots) * 1e-6, jnp.zeros(self.slots),
        )  # fmt: skip

        def token(x, y, known, ordered):
            if len(x) > room:
                raise UserError(f"memory reads up to {room} parameters, found {len(x)}: set dimension and train again")
            there, spare = jnp.ones(len(x)), room - len(x)
            parts = [jnp.pad(a, (0, spare)) for a in (x - 0.5, there, ordered * there)]
            return jnp.concatenate([*parts, jnp.stack([y * known, known])])

        def init(key):
            return network.init(key, empty, token(jnp.zeros(1), jnp.zeros(()), jnp.zeros(()), jnp.ones(1)))

        def read(theta, x, y, used, ordered):
            y = without_failures(y, used)
            units = units_of(y, used)
            seen = (jnp.where(used, y, units.shift) - units.shift) / units.scale

            def step(memory, row):
                point, value, counts = row
                after, _ = network.apply(theta, memory, token(point, value, jnp.ones(()), ordered))
                return jax.tree.map(lambda a, b: jnp.where(counts, a, b), after, memory), None

            return Belief(jax.lax.scan(step, empty, (x, seen, used))[0], units, ordered)

        def predict(theta, belief, x):
            nothing = jnp.zeros(())

            def one(point):
                _, logits = network.apply(theta, belief.memory, token(point, nothing, nothing, belief.ordered))
                return logits

            return Prediction(jax.vmap(one)(x), buckets, belief.units)

        surrogate = Surrogate(read, predict)
        return LearnedOptimizer(init, lambda theta: searching(self, surrogate, theta), surrogate=surrogate)
