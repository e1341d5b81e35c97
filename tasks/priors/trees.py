"""Random forests: sums of trees of small depth, which are constant between their splits.

Trees are oblivious, as those of CatBoost (Prokhorenkova et al. 2018): all nodes of a level share one split, so the leaf
of a point is a number whose bits say on which side of the splits it lies.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.registry import register
from tasks.priors.base import PriorConfig, chosen, normals, uniforms, whole


@register
class TreePriorConfig(PriorConfig):
    """Sums of random trees; each split asks whether one parameter is above a threshold or in a set of categories.

    Attributes:
      trees: at most so many count; the leaves of each are smaller than those of the one before, by a factor that a
        function draws from 0.3 to 1.
      depth: at most; a function draws its own.
      focus: standard deviation of the logarithms of the chances that parameters have to be split.
    """

    kind: Literal["tree_prior"] = "tree_prior"
    trees: int = Field(default=24, ge=1, le=1000)
    depth: int = Field(default=4, ge=1, le=8)
    focus: float = Field(default=1.0, ge=0)

    def draw(self, key):
        t, depth, slots = self.trees, self.depth, self.slots
        normal_key, uniform_key = jax.random.split(key)
        focus, leaves = normals(normal_key, (self.dimension,), (t, 2**depth))
        levels, decay, parameter, side, threshold = uniforms(
            uniform_key, (), (), (t, depth), (t, depth, slots), (t, depth)
        )
        decay = (0.3 + 0.7 * decay) ** jnp.arange(t)
        return Forest(
            chosen(parameter, jnp.exp(self.focus * focus)),
            side.at[:, :, 0].set(1.0),
            jnp.where(jnp.arange(depth)[None] < whole(levels, 1, depth), threshold, 2.0),
            decay[:, None] * leaves,
        )

    def value(self, function, z):
        # of a number, its place; of a category, the height of its slot: sets of categories are random, but for the
        # first slot, which is in all of them, as a set and its complement are the same split
        read = jnp.sum(z.reshape(self.dimension, self.slots)[function.parameter] * function.side, -1)
        leaf = (read > function.threshold) @ 2 ** jnp.arange(self.depth)
        return jnp.sum(jnp.take_along_axis(function.leaves, leaf[:, None], 1))


class Forest(NamedTuple):
    """A function of `TreePriorConfig`.

    Attributes:
      parameter: of each split.
      side: what a split compares for each slot.
      threshold: above 1 for a split that is not there.
      leaves: values.
    """

    parameter: Int[Array, "t depth"]
    side: Float[Array, "t depth slots"]
    threshold: Float[Array, "t depth"]
    leaves: Float[Array, "t leaves"]
