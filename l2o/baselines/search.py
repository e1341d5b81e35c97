"""Searches that do not look at values: uniform random points, and a scrambled Sobol sequence."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer, need_bounds
from l2o.registry import register
from l2o.wrappers.cube import in_unit_cube

BITS = 30  # of a Sobol point


@register
class RandomConfig(BaselineConfig):
    """Uniform random points of the box (Bergstra and Bengio 2012)."""

    kind: Literal["random"] = "random"

    def build(self) -> Optimizer:
        def init(key, problem):
            del key
            need_bounds(self.kind, problem)
            return problem.space

        def ask(key, state):
            return jax.tree.map(lambda a: a[None], state.sample(key)), state

        return Optimizer(init, ask, lambda key, state, x, evaluation: state)


def sobol(key: PRNGKeyArray, count: Int[Array, ""], d: int, most: int) -> Float[Array, "d"]:
    """Point number `count` of the sequence, in the unit cube; after `most`, rounded up, another shift begins."""
    from scipy.stats import qmc

    length = 1 << (most - 1).bit_length()
    points = qmc.Sobol(d, scramble=False, bits=BITS).random_base2(length.bit_length() - 1)
    table = jnp.asarray((points * 2**BITS).astype("uint32"))
    shift = jax.random.bits(jax.random.fold_in(key, count // length), (d,), jnp.uint32) >> (32 - BITS)
    return (table[count % length] ^ shift) / 2.0**BITS


@register
class SobolConfig(BaselineConfig):
    """A Sobol sequence with a random digital shift (Sobol 1967; Owen 2003), from scipy's direction numbers.

    Attributes:
      max_trials: length of the sequence, rounded up to a power of two; after it, it begins again with another shift.
    """

    kind: Literal["sobol"] = "sobol"
    max_trials: int = Field(default=1024, ge=1, le=65_536)

    def build(self) -> Optimizer:
        def init(key, problem):
            need_bounds(self.kind, problem)
            flat, _ = ravel_pytree(problem.start)
            start = jax.tree.map(jnp.asarray, problem.start)
            return jax.random.key_data(key), jnp.zeros((), jnp.int32), jnp.zeros(flat.shape), start

        def ask(key, state):
            del key
            data, count, flat, start = state
            unit = sobol(jax.random.wrap_key_data(data), count, flat.size, self.max_trials)
            x = ravel_pytree(start)[1](unit.astype(flat.dtype))
            return jax.tree.map(lambda a: a[None], x), (data, count + 1, flat, start)

        return in_unit_cube(Optimizer(init, ask, lambda key, state, x, evaluation: state))
