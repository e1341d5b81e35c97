"""Domains of optimization and their maps to the unit cube.

The tree structure of a space is static; its numbers are data leaves, so many spaces of one shape are one `vmap` and
one compilation. A mixed space (integers, categories, logarithmic scales) has further data leaves, and the two maps to
and from the unit cube are the only places that read them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

X = Any  # a point: a pytree of arrays
LINEAR, LOG, REVERSE_LOG = 0, 1, 2  # scales


class Space(NamedTuple):
    """A domain: every pytree of arrays (free), a box, or a mixed one.

    A point of a mixed space is one array with a coordinate for each parameter: a real or whole number itself, and for a
    category or one of listed values its index 0, 1, ....

    Attributes:
      low: pytree of lower bounds with the structure of a point, or None when free.
      high: pytree of upper bounds, or None when free.
      levels: of a mixed space, how many values each coordinate has: 0 for a real number, otherwise high - low + 1.
      scale: of a mixed space, how each coordinate lies in the unit cube: LINEAR, LOG (equal ratios are equal
        lengths), or REVERSE_LOG (its mirror image, finest near high). The latter two need positive bounds.
      ordered: of a mixed space, False for categories.

    >>> import jax.numpy as jnp
    >>> space = Space.box(jnp.array([-5.0, 0.0]), jnp.array([10.0, 15.0]))
    >>> space.from_unit(jnp.array([0.0, 1.0]))
    Array([-5., 15.], dtype=float32)
    """

    low: X = None
    high: X = None
    levels: Int[Array, "d"] | None = None
    scale: Int[Array, "d"] | None = None
    ordered: Bool[Array, "d"] | None = None

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

    @classmethod
    def mixed(
        cls, low: Float[Array, "d"], high: Float[Array, "d"], levels: Int[Array, "d"], scale: Int[Array, "d"],
        ordered: Bool[Array, "d"],
    ) -> "Space":  # fmt: skip
        """A mixed space; see the attributes. `l2o.SearchSpace` makes one of named parameters, and checks it."""
        return cls(low, high, levels, scale, ordered)

    @property
    def is_free(self) -> bool:
        """Whether the space has no bounds (static)."""
        return self.low is None

    @property
    def is_mixed(self) -> bool:
        """Whether the coordinates have kinds and scales (static)."""
        return self.levels is not None

    def contains(self, x: X) -> Bool[Array, ""]:
        """Whether every coordinate of `x` is finite, inside the bounds, and one of the values it can have."""
        finite = jax.tree.map(lambda a: jnp.all(jnp.isfinite(a)), x)
        inside = True
        if not self.is_free:
            inside = jax.tree.map(lambda a, lo, hi: jnp.all((a >= lo) & (a <= hi)), x, self.low, self.high)
        whole = True
        if self.levels is not None:
            whole = jnp.all((self.levels == 0) | (jnp.round(x - self.low) == x - self.low))
        return jax.tree.reduce(jnp.logical_and, (finite, inside, whole), jnp.array(True))

    def project(self, x: X) -> X:
        """The nearest point of the space; the identity when free."""
        if self.is_free:
            return x
        if self.levels is not None:
            x = jnp.where(self.levels > 0, self.low + jnp.round(x - self.low), x)
        return jax.tree.map(jnp.clip, x, self.low, self.high)

    def to_unit(self, x: X) -> X:
        """Map to `[0, 1]` in every coordinate; the identity when free.

        The k-th of n values of a linear coordinate, counted from 0, lies at (k + 1/2) / n: in the middle of its share.
        """
        if self.is_free:
            return x
        if self.levels is None or self.scale is None:
            return jax.tree.map(lambda a, lo, hi: (a - lo) / (hi - lo), x, self.low, self.high)
        low, high = self._ends()
        return to_scale(self.scale, (x - low) / (high - low), high / low)

    def from_unit(self, u: X) -> X:
        """Inverse of `to_unit`; every point of the cube is mapped to the value whose share it lies in."""
        if self.is_free:
            return u
        if self.levels is None or self.scale is None:
            return self.project(jax.tree.map(lambda a, lo, hi: lo + a * (hi - lo), u, self.low, self.high))
        low, high = self._ends()
        x = low + from_scale(self.scale, u, high / low) * (high - low)
        x = jnp.where(self.levels > 0, self.low + jnp.floor(x - low), x)
        return jnp.clip(x, self.low, self.high)

    def sizes(self, bins: int) -> Int[Array, "d"]:
        """How many tokens each coordinate of a mixed space has: its number of values, at most `bins`."""
        assert self.levels is not None
        return jnp.where((self.levels > 0) & (self.levels <= bins), self.levels, bins)

    def to_tokens(self, x: Float[Array, "d"], bins: int) -> Int[Array, "d"]:
        """Index of the value where there are at most `bins` of them, else of the bin of the unit cube.

        Bins are equal shares of the unit interval: `min(floor(bins u), bins - 1)`.
        """
        assert self.levels is not None
        few = (self.levels > 0) & (self.levels <= bins)
        binned = jnp.clip(jnp.floor(self.to_unit(x) * bins), 0, bins - 1)
        return jnp.where(few, jnp.round(x - self.low), binned).astype(jnp.int32)

    def from_tokens(self, tokens: Int[Array, "d"], bins: int) -> Float[Array, "d"]:
        """The value of an index, or that in the middle of a bin."""
        assert self.levels is not None
        few = (self.levels > 0) & (self.levels <= bins)
        return jnp.where(few, self.low + tokens, self.from_unit((tokens + 0.5) / bins))

    def sample(self, key: PRNGKeyArray) -> X:
        """A point that is uniform in the unit cube.

        Raises:
          ValueError: the space is free, which has no uniform distribution.
        """
        if self.is_free:
            raise ValueError("a free space has no uniform distribution; give it bounds with Space.box")
        leaves, tree = jax.tree.flatten(self.low)
        keys = jax.random.split(key, max(len(leaves), 1))
        u = [jax.random.uniform(k, a.shape) for k, a in zip(keys, leaves, strict=False)]
        return self.from_unit(jax.tree.unflatten(tree, u))

    def _ends(self) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
        """The ends of the shares of all values: half a step beyond the bounds where there are steps."""
        half = jnp.where(self.levels > 0, 0.5, 0.0)  # pyright: ignore[reportOptionalOperand]
        return self.low - half, self.high + half


def to_scale(scale: Array, share: Array, ratio: Array) -> Array:
    """Position in the unit interval of what lies at `share` of the way from low to high, with `ratio` = high / low."""
    ratio = jnp.where(scale == LINEAR, 2.0, ratio)
    forward = jnp.where(scale == REVERSE_LOG, 1 - share, share)
    warped = jnp.log1p(forward * (ratio - 1)) / jnp.log(ratio)
    return jnp.where(scale == LINEAR, share, jnp.where(scale == LOG, warped, 1 - warped))


def from_scale(scale: Array, u: Array, ratio: Array) -> Array:
    """Inverse of `to_scale`."""
    ratio = jnp.where(scale == LINEAR, 2.0, ratio)
    forward = jnp.where(scale == REVERSE_LOG, 1 - u, u)
    share = jnp.expm1(forward * jnp.log(ratio)) / (ratio - 1)
    return jnp.where(scale == LINEAR, u, jnp.where(scale == LOG, share, 1 - share))
