"""Domains of optimization and their maps to the unit cube.

The tree structure of a space is static; its numbers are data leaves, so many boxes of one shape are one `vmap` and
one compilation. A mixed space (integer, categorical, log-scaled parameters) extends `Space` with further data
leaves; the two maps below are the only places that will read them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, PRNGKeyArray

X = Any  # a point: a pytree of arrays


class Space(NamedTuple):
    """A domain: every pytree of arrays (free), or a box.

    Attributes:
      low: pytree of lower bounds with the structure of a point, or None when free.
      high: pytree of upper bounds, or None when free.

    >>> import jax.numpy as jnp
    >>> space = Space.box(jnp.array([-5.0, 0.0]), jnp.array([10.0, 15.0]))
    >>> space.from_unit(jnp.array([0.0, 1.0]))
    Array([-5., 15.], dtype=float32)
    """

    low: X = None
    high: X = None

    @classmethod
    def free(cls) -> "Space":
        """The domain of all pytrees of real arrays."""
        return cls(None, None)

    @classmethod
    def box(cls, low: X, high: X) -> "Space":
        """The box `low <= x <= high`, elementwise.

        Raises:
          ValueError: the two trees differ in structure or shape, or a concrete bound is reversed or not finite.
        """
        low, high = jax.tree.map(jnp.asarray, (low, high))
        if jax.tree.structure(low) != jax.tree.structure(high):
            raise ValueError("low and high must have the same tree structure")
        for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(high), strict=True):
            if a.shape != b.shape:
                raise ValueError(f"low and high must have the same shapes, found {a.shape} and {b.shape}")
            valid = jnp.all(jnp.isfinite(a) & jnp.isfinite(b) & (a < b))
            if not isinstance(valid, Tracer) and not valid:
                raise ValueError(f"bounds must be finite with low < high, found low {a} and high {b}")
        return cls(low, high)

    @property
    def is_free(self) -> bool:
        """Whether the space has no bounds (static)."""
        return self.low is None

    def contains(self, x: X) -> Bool[Array, ""]:
        """Whether every coordinate of `x` is finite and inside the bounds."""
        finite = jax.tree.map(lambda a: jnp.all(jnp.isfinite(a)), x)
        inside = True
        if not self.is_free:
            inside = jax.tree.map(lambda a, lo, hi: jnp.all((a >= lo) & (a <= hi)), x, self.low, self.high)
        return jax.tree.reduce(jnp.logical_and, (finite, inside), jnp.array(True))

    def project(self, x: X) -> X:
        """The nearest point of the space; the identity when free."""
        if self.is_free:
            return x
        return jax.tree.map(jnp.clip, x, self.low, self.high)

    def to_unit(self, x: X) -> X:
        """Map a box to `[0, 1]` in every coordinate; the identity when free."""
        if self.is_free:
            return x
        return jax.tree.map(lambda a, lo, hi: (a - lo) / (hi - lo), x, self.low, self.high)

    def from_unit(self, u: X) -> X:
        """Inverse of `to_unit`; the result is kept inside the bounds against rounding."""
        if self.is_free:
            return u
        return self.project(jax.tree.map(lambda a, lo, hi: lo + a * (hi - lo), u, self.low, self.high))

    def sample(self, key: PRNGKeyArray) -> X:
        """A uniform point of a box.

        Raises:
          ValueError: the space is free, which has no uniform distribution.
        """
        if self.is_free:
            raise ValueError("a free space has no uniform distribution; give it bounds with Space.box")
        leaves, tree = jax.tree.flatten(self.low)
        keys = jax.random.split(key, max(len(leaves), 1))
        u = [jax.random.uniform(k, a.shape) for k, a in zip(keys, leaves, strict=False)]
        return self.from_unit(jax.tree.unflatten(tree, u))
