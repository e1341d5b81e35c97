"""Response surfaces of tuning: landscapes with the shapes that losses of trained models have over hyperparameters.

The shapes are what is known of such landscapes (Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing
hyperparameter importance", 2014; Pushak and Hoos, "AutoML loss landscapes", 2022); the distribution is ours. Few
parameters matter; along each of them the loss falls to a valley and rises again, differently on both sides; many of
the best settings are alike, and bad ones all end at the same bad value or fail.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.registry import register
from tasks.priors.base import Chance, PriorConfig, chosen, normals, ratio, uniforms, whole


@register
class ResponsePriorConfig(PriorConfig):
    """Sums and products of valleys, one along each parameter, with floors, plateaus, steps, wells and failures.

    The response to a parameter is `t^p / (1 + s t^p)`, a Hill function, where t is the distance from the parameter's
    optimum in widths of that side: a valley with a flat bottom where p is large, and with flat sides where s is. The
    optimum may lie outside. Responses are scaled to end at 1, weighed, and added or multiplied; a power of the result,
    drawn from 0.7 to 4, often makes many settings nearly as good as the best.

    Attributes:
      focus: standard deviation of the logarithms of the parameters' weights.
      interaction: chance that the optimum of one parameter moves with another one, for each pair.
      product: chance that any bad parameter spoils a point, whatever the others are.
      steps: chance that a parameter acts in steps.
      well: chance of a narrow optimum besides.
      floor: chance of a level below which nothing gets, and many points come near.
      ceiling: chance of a level above which nothing gets, as that of guessing.
      collapse: chance of a region along one or two parameters whose points all have one bad value.
      failing: chance of such a region whose points have no value (NaN); never the middle of a space of numbers.
      resolution: chance that values are multiples of a number, as accuracies on few data are.
    """

    kind: Literal["response_prior"] = "response_prior"
    focus: float = Field(default=1.2, ge=0)
    interaction: Chance = 0.2
    product: Chance = 0.4
    steps: Chance = 0.1
    well: Chance = 0.15
    floor: Chance = 0.4
    ceiling: Chance = 0.3
    collapse: Chance = 0.3
    failing: Chance = 0.25
    resolution: Chance = 0.15

    def draw(self, key):
        d = self.dimension
        normal_key, uniform_key, collapse_key, failing_key = jax.random.split(key, 4)
        weight, pull = normals(normal_key, (d,), (d, d))
        place, stepped, number, optimum, pairs, width, power, saturation, well, chances, sizes = uniforms(
            uniform_key, (d, self.slots), (d,), (d,), (d,), (d, d), (2, d), (d,), (d,), (d,), (5,), (6,)
        )
        weight = jax.nn.softmax(self.focus * weight)
        pairs = (pairs < self.interaction) & ~jnp.eye(d, dtype=bool)
        given = chances < jnp.array([self.product, self.ceiling, self.floor, self.well, self.resolution])
        ceiling = jnp.where(given[1], 0.3 + 0.7 * sizes[0], jnp.inf)
        return Surface(
            place.at[:, 0].set(1.0),
            jnp.where(stepped < self.steps, whole(number, 1, 5), 0),
            Valleys(
                1.4 * optimum - 0.2,
                jnp.where(pairs, 0.5 * pull, 0.0),
                ratio(width, (0.15, 1.2)),
                ratio(power, (1.0, 5.0)),
                ratio(saturation, (0.03, 3.0)),
            ),
            weight,
            given[0],
            Levels(
                jnp.where(given[2], ratio(sizes[1], (0.01, 0.2)), 0.0),
                ceiling,
                jnp.minimum(ceiling, 1 + 0.5 * sizes[2]),
                well,
                ratio(sizes[3], (0.03, 0.2)),
                jnp.where(given[3], 0.5, 0.0),
                given[4],
                ratio(sizes[4], (0.003, 0.05)),
                ratio(sizes[5], (0.7, 4.0)),
            ),
            draw_region(collapse_key, weight, self.collapse),
            draw_region(failing_key, weight, self.failing),
        )

    def value(self, function, z):
        levels, weight, steps = function.levels, function.weight, function.steps
        at = jnp.sum(z.reshape(function.place.shape) * function.place, 1)
        place = jnp.where(steps > 0, jnp.round(at * steps) / jnp.maximum(steps, 1), at)
        response = function.valleys.response(place)
        spoiled = 1 - jnp.prod(1 - weight / jnp.max(weight) * jnp.clip(response, 0.0, 1.0))
        value = jnp.where(function.product, spoiled, jnp.sum(weight * response))
        value = jnp.maximum(value, 1e-6) ** levels.power
        blur = 0.25 * jnp.maximum(levels.floor, 1e-3)
        value = jnp.minimum(blur * jnp.logaddexp(value / blur, levels.floor / blur), levels.ceiling)
        away = jnp.sum(weight / jnp.max(weight) * ((place - levels.well) / levels.width) ** 2)
        value = value - levels.depth * jnp.exp(-0.5 * away)
        value = jnp.where(function.collapse.contains(at), levels.bad, value)
        rounded = jnp.round(value / levels.resolution) * levels.resolution
        value = jnp.where(levels.rounded, rounded, value)
        return jnp.where(function.failing.contains(at), jnp.nan, value)


class Valleys(NamedTuple):
    """Responses to single parameters.

    Attributes:
      optimum: of each, where the others are in the middle.
      pull: by how much the others move it.
      width: below and above the optimum.
      power, saturation: p and s.
    """

    optimum: Float[Array, "d"]
    pull: Float[Array, "d d"]
    width: Float[Array, "2 d"]
    power: Float[Array, "d"]
    saturation: Float[Array, "d"]

    def response(self, place: Float[Array, "d"]) -> Float[Array, "d"]:
        """About 0 to 1 for each parameter."""
        hill = self._hill(place - self.optimum - self.pull @ (place - 0.5))
        ends = jnp.maximum(self._hill(-self.optimum), self._hill(1 - self.optimum))
        return hill / ends

    def _hill(self, step):
        far = (jnp.abs(step) / jnp.where(step < 0, self.width[0], self.width[1])) ** self.power
        return far / (1 + self.saturation * far)


class Levels(NamedTuple):
    """What a surface has beside its valleys.

    Attributes:
      floor, ceiling: of the values.
      bad: the value where a run collapses.
      well, width, depth: centre, width and depth of a narrow optimum.
      rounded, resolution: whether values are multiples of a number, and which.
      power: of the responses together.
    """

    floor: Float[Array, ""]
    ceiling: Float[Array, ""]
    bad: Float[Array, ""]
    well: Float[Array, "d"]
    width: Float[Array, ""]
    depth: Float[Array, ""]
    rounded: Bool[Array, ""]
    resolution: Float[Array, ""]
    power: Float[Array, ""]


class Region(NamedTuple):
    """Where a combination of one or two places is above a threshold; infinite where there is none."""

    direction: Float[Array, "d"]
    threshold: Float[Array, ""]

    def contains(self, place: Float[Array, "d"]) -> Bool[Array, ""]:
        """Whether a point lies inside."""
        return self.direction @ (place - 0.5) > self.threshold


class Surface(NamedTuple):
    """A function of `ResponsePriorConfig`.

    Attributes:
      place: where numbers (a factor of 1) and categories lie between the ends of a parameter.
      steps: in which a parameter acts, 0 for none.
      valleys: responses.
      weight: of the parameters; their sum is 1.
      product: whether they are multiplied.
      levels: the rest.
      collapse, failing: regions.
    """

    place: Float[Array, "d slots"]
    steps: Int[Array, "d"]
    valleys: Valleys
    weight: Float[Array, "d"]
    product: Bool[Array, ""]
    levels: Levels
    collapse: Region
    failing: Region


def draw_region(key: PRNGKeyArray, weight: Float[Array, "d"], chance: float) -> Region:
    """A region at a side or in a corner of the space, of 2 to 40 % of it, mostly along parameters that matter."""
    d = weight.size
    first, second, side, two, threshold, exists = uniforms(key, (), (), (d,), (), (), ())
    first = chosen(first, weight)
    second = (first + whole(second, 1, max(d - 1, 1))) % d
    one, other = (jnp.arange(d) == index for index in (first, second))
    direction = jnp.where((two < 0.5) & (d > 1), 0.5 * (one | other), one) * jnp.where(side < 0.5, -1.0, 1.0)
    return Region(direction, jnp.where(exists < chance, 0.1 + 0.38 * threshold, jnp.inf))
