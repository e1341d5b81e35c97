"""Grid search in order, and the same grid in random order (as in Chen et al. 2022, appendix on the data).

The grid is the product of the values of each coordinate: all those of a whole number, a category or a listed value, and
of a real number some that are equally spaced in the unit interval, ends included. Of a whole number of more than `MOST`
values there are so many, spaced in the same way; where a logarithmic scale is steep, two of them may be the same.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.registry import register
from l2o.space.domain import Space
from l2o.wrappers.flat import over_flat_points

MOST = 100  # values of a coordinate
WHOLE = 2**30  # points of the part of a grid that one integer counts


class PointGrid(NamedTuple):
    """A grid.

    Attributes:
      space: a mixed one.
      sizes: values of each coordinate.
    """

    space: Space
    sizes: Int[Array, "d"]

    @classmethod
    def of(cls, space: Space, points: Int[Array, ""], resolution: int | None) -> "PointGrid":
        """Real numbers have `resolution` values, or as few as make for `points` points, at least 2."""
        assert space.levels is not None
        listed = jnp.minimum(space.levels, MOST)
        if resolution is not None:
            return cls(space, jnp.where(space.levels > 0, listed, resolution))
        tried = jnp.arange(2, MOST + 1)
        sizes = jnp.where(space.levels[None] > 0, listed[None], tried[:, None])
        # products below 2^24 are exact, and more points are never asked for; those above may be infinite
        enough = jnp.prod(sizes.astype(jnp.float32), 1) >= points
        return cls(space, sizes[jnp.where(jnp.any(enough), jnp.argmax(enough), -1)])

    def point(self, index: Int[Array, "d"]) -> Float[Array, "d"]:
        """The point of these values, counted from 0."""
        first, last = self.space.to_unit(self.space.low), self.space.to_unit(self.space.high)
        spaced = self.space.from_unit(first + index / jnp.maximum(self.sizes - 1, 1) * (last - first))
        return jnp.where(self.space.levels == self.sizes, self.space.low + index, spaced)

    def digits(self, count: Int[Array, ""]) -> Int[Array, "d"]:
        """A count in the mixed radix of the sizes, the first digit fastest; it begins again after the last point."""
        digits = []
        for size in self.sizes:
            digits.append(count % size)
            count = count // size
        return jnp.stack(digits)


class GridState(NamedTuple):
    """State of both searches.

    Attributes:
      grid: the grid.
      asked: points; of the shuffled search since it began anew.
      seen: of the shuffled search, the indices of these points in ascending order, then larger numbers.
    """

    grid: PointGrid
    asked: Int[Array, ""]
    seen: Any


class GridBase(BaselineConfig):
    """What both share.

    Attributes:
      resolution: values of a real coordinate. None: the fewest, from 2 to 100, with which the grid has as many points
        as the run has steps. The data of Chen et al. (2022) have 100, with which a run seldom gets beyond the first
        coordinate.
    """

    resolution: int | None = Field(default=None, ge=2, le=65_536)


@register
class GridConfig(GridBase):
    """Grid search: the first coordinate changes fastest; after the last point it begins again."""

    kind: Literal["grid"] = "grid"

    def build(self) -> Optimizer:
        def init(key, problem):
            del key
            grid = PointGrid.of(problem.space, jnp.asarray(problem.horizon), self.resolution)
            return GridState(grid, jnp.zeros((), jnp.int32), None)

        def ask(key, state):
            del key
            x = state.grid.point(state.grid.digits(state.asked))
            return x[None], state._replace(asked=state.asked + 1)

        return over_flat_points(self.kind, Optimizer(init, ask, lambda key, state, x, evaluation: state))


@register
class ShuffledGridConfig(GridBase):
    """Points of the grid drawn at random without replacement; when all were drawn, it begins anew.

    Of a grid of more than 2^30 points, the first coordinates, so many that they have no more, are drawn without
    replacement, and the others independently: no point is repeated.

    Attributes:
      max_trials: points that are remembered; after so many it begins anew.
    """

    kind: Literal["shuffled_grid"] = "shuffled_grid"
    max_trials: int = Field(default=1024, ge=1, le=65_536)

    def build(self) -> Optimizer:
        unused = jnp.iinfo(jnp.int32).max

        def init(key, problem):
            del key
            grid = PointGrid.of(problem.space, jnp.asarray(problem.horizon), self.resolution)
            return GridState(grid, jnp.zeros((), jnp.int32), jnp.full(self.max_trials, unused, jnp.int32))

        def ask(key, state):
            index_key, rest_key = jax.random.split(key)
            counted = jnp.cumprod(state.grid.sizes.astype(jnp.float32)) <= WHOLE
            size = jnp.prod(jnp.where(counted, state.grid.sizes, 1))
            again = state.asked >= jnp.minimum(size, self.max_trials)
            count, seen = jnp.where(again, 0, state.asked), jnp.where(again, unused, state.seen)
            index, seen = draw(index_key, seen, count, size)
            rest = jax.random.randint(rest_key, counted.shape, 0, state.grid.sizes)
            x = state.grid.point(jnp.where(counted, state.grid.digits(index), rest))
            return x[None], GridState(state.grid, count + 1, seen)

        return over_flat_points(self.kind, Optimizer(init, ask, lambda key, state, x, evaluation: state))


def draw(
    key: PRNGKeyArray, seen: Int[Array, "n"], count: Int[Array, ""], size: Int[Array, ""]
) -> tuple[Int[Array, ""], Int[Array, "n"]]:
    """A uniform integer from 0 to size - 1 that is not among the first `count` of `seen`, and `seen` with it.

    Args:
      key: of the draw.
      seen: in ascending order; larger than any from `count` on.
      count: less than n, and less than `size`.
      size: at most 2^30.
    """
    places = jnp.arange(seen.size)
    rank = jax.random.randint(key, (), 0, size - count)  # among those not seen
    # before the i-th one seen there are seen[i] - i others
    index = rank + jnp.sum((places < count) & (seen - places <= rank))
    shifted = jnp.roll(seen, 1)
    return index, jnp.where(seen < index, seen, jnp.where((places == 0) | (shifted < index), index, shifted))
