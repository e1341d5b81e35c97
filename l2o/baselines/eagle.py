"""The eagle strategy of Google Vizier: fireflies that attract and repel each other (Yang 2009; Song et al. 2022).

It is the firefly algorithm of Yang and Deb's "Eagle strategy" (2010), without their Levy flights, with repulsion by
what is worse, and with kinds of coordinates. The numbers are those of Vizier's open-source designer. It differs in that
the first points are random and not quasi-random; that the distance to another category is 1 and to the same one 0; that
whole numbers are rounded once, after all forces; and that these and listed numbers are one kind.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.registry import register
from l2o.space.domain import Space
from l2o.wrappers.flat import finite_or_infinity, over_flat_points

VISIBILITY_OF_WHOLE, VISIBILITY_OF_CATEGORIES = 1.0, 0.2
SMALLEST_PERTURBATION, LARGEST_PERTURBATION = 1e-3, 0.5
FEWER, MORE = 0.9, 10.0  # factors of a fly's perturbation: after a failure, and when its proposal was where it is
WHOLE_FACTOR, CATEGORY_FACTOR = 10.0, 25.0
ONLY_CATEGORIES = 0.1  # probability that a category is drawn anew where there is nothing else


class FireflyPool(NamedTuple):
    """State of the eagle strategy, with a row for each fly.

    Attributes:
      space: a mixed one.
      x: best point of each fly.
      value: its value, +inf where there is no fly yet.
      perturbation: how far a fly strays.
      proposed: last point that was asked for on behalf of each row.
      turn: when that was, counted in points.
      asked: points so far.
    """

    space: Space
    x: Float[Array, "n d"]
    value: Float[Array, "n"]
    perturbation: Float[Array, "n"]
    proposed: Float[Array, "n d"]
    turn: Int[Array, "n"]
    asked: Int[Array, ""]


class Coordinates(NamedTuple):
    """What flies fly in: the way from the lowest value (0) to the highest (1), and indices of categories.

    Attributes:
      space: a mixed one.
      first: the lowest value in the unit interval.
      width: from there to the highest; 1 where there is one value.
      levels: how many values, 1 also of a real number.
      kinds: which coordinates are real, whole, and categories, of those with more than one value.
    """

    space: Space
    first: Float[Array, "d"]
    width: Float[Array, "d"]
    levels: Int[Array, "d"]
    kinds: Bool[Array, "3 d"]

    @classmethod
    def of(cls, space: Space) -> "Coordinates":
        """The coordinates of a mixed space."""
        assert space.levels is not None and space.ordered is not None
        first, last = space.to_unit(space.low), space.to_unit(space.high)
        many = space.levels > 1
        kinds = jnp.stack([space.levels == 0, many & space.ordered, many & ~space.ordered])
        levels = jnp.maximum(space.levels, 1)
        return cls(space, first, jnp.where(last > first, last - first, 1.0), levels, kinds)

    def enter(self, x: Float[Array, "d"]) -> Float[Array, "d"]:
        """Where a point of the space lies in these coordinates."""
        return jnp.where(self.kinds[2], x, (self.space.to_unit(x) - self.first) / self.width)

    def leave(self, z: Float[Array, "d"]) -> Float[Array, "d"]:
        """The point of the space that is there or nearest."""
        return jnp.where(self.kinds[2], z, self.space.from_unit(self.first + jnp.clip(z, 0, 1) * self.width))


@register
class EagleConfig(BaselineConfig):
    """The eagle strategy; see the file's first lines.

    Flies take turns. A fly proposes a point: its own best one, moved by the forces of all flies in random order (also
    away from where it was, as in Vizier), and perturbed. If that is better it becomes the fly's best; otherwise the fly
    strays a little less, and in the end it is replaced by one at a random point, unless it is the best of all. A failed
    evaluation is no improvement.

    A result counts for the fly whose last proposal it was, or whose last proposal was nearest.

    Attributes:
      pool_size: flies; None for 10 + round((d^1.2 + d) / 2).
      visibility: of real coordinates; a force at the mean squared distance r falls off as exp(-10 visibility r).
      gravity: the part of the way to a better fly that a fly goes if it is near.
      negative_gravity: the same, away from a worse one.
      perturbation: the largest step of a new fly's coordinates, as a part of their range.
    """

    kind: Literal["eagle"] = "eagle"
    pool_size: int | None = Field(default=None, ge=2, le=1000)
    visibility: float = Field(default=3.0, gt=0)
    gravity: float = Field(default=1.0, ge=0, le=1)
    negative_gravity: float = Field(default=0.02, ge=0, le=1)
    perturbation: float = Field(default=0.1, ge=SMALLEST_PERTURBATION, le=LARGEST_PERTURBATION)

    def build(self) -> Optimizer:
        def init(key, problem):
            del key
            dimension = problem.start.size
            flies = self.pool_size or min(10 + round((dimension**1.2 + dimension) / 2), 1000)
            x = jnp.zeros((flies, dimension), problem.start.dtype)
            return FireflyPool(
                problem.space, x, jnp.full(flies, jnp.inf, jnp.float32),
                jnp.full(flies, self.perturbation, jnp.float32), jnp.full_like(x, jnp.inf),
                jnp.arange(flies, dtype=jnp.int32) - flies, jnp.zeros((), jnp.int32),
            )  # fmt: skip

        def ask(key, state):
            sample_key, move_key = jax.random.split(key)
            missing = jnp.isinf(state.value)
            waiting = missing | ~jnp.any(missing)
            fly = jnp.argmin(jnp.where(waiting, state.turn, state.asked))
            x = jnp.where(missing[fly], state.space.sample(sample_key), self.move(move_key, state, fly))
            proposed, turn = state.proposed.at[fly].set(x), state.turn.at[fly].set(state.asked)
            return x[None], state._replace(proposed=proposed, turn=turn, asked=state.asked + 1)

        def tell(key, state, x, evaluation):
            del key
            values = finite_or_infinity(evaluation.value.astype(jnp.float32))
            return jax.lax.scan(lambda state, result: (self.learn(state, *result), None), state, (x, values))[0]

        return over_flat_points(self.kind, Optimizer(init, ask, tell))

    def move(self, key: PRNGKeyArray, state: FireflyPool, fly: Int[Array, ""]) -> Float[Array, "d"]:
        """The proposal of a fly."""
        order_key, adopt_key, *perturb_keys = jax.random.split(key, 5)
        where = Coordinates.of(state.space)
        flies, category = jax.vmap(where.enter)(state.x), where.kinds[2]
        visibility = jnp.array([self.visibility, VISIBILITY_OF_WHOLE, VISIBILITY_OF_CATEGORIES])
        alike = jnp.maximum(jnp.sum(where.kinds, 1), 1)

        def pulled(z, pull):
            other, better, chance = pull
            squared = jnp.where(category, z != other, (z - other) ** 2)
            force = jnp.exp(-10 * visibility * (where.kinds @ squared) / alike)
            force = force * jnp.where(better, self.gravity, -self.negative_gravity)
            weight = force @ where.kinds
            return jnp.where(category, jnp.where(chance < weight, other, z), z + weight * (other - z)), None

        order = jax.random.permutation(order_key, state.value.size)
        chances = jax.random.uniform(adopt_key, flies.shape)
        z, _ = jax.lax.scan(pulled, flies[fly], (flies[order], state.value[order] < state.value[fly], chances))
        return where.leave(self.perturbed(perturb_keys, where, z, state.perturbation[fly]))

    def perturbed(
        self, keys: list[PRNGKeyArray], where: Coordinates, z: Float[Array, "d"], size: Float[Array, ""]
    ) -> Float[Array, "d"]:
        """A random step of which the longest component has this size; each category with a probability drawn anew."""
        step_key, chance_key, category_key = keys
        step = jax.random.laplace(step_key, z.shape)
        step = size * step / jnp.maximum(jnp.max(jnp.abs(step)), 1e-30)
        # few values are far from each other
        whole = jnp.maximum(WHOLE_FACTOR / (where.levels * self.perturbation), 1.0)
        chance = jnp.where(jnp.any(where.kinds[:2]), CATEGORY_FACTOR * jnp.abs(step), ONLY_CATEGORIES)
        anew = jax.random.uniform(chance_key, z.shape) < chance
        drawn = jax.random.randint(category_key, z.shape, 0, where.levels).astype(z.dtype)
        moved = z + step * jnp.where(where.kinds[1], whole, 1.0)
        return jnp.where(where.kinds[2], jnp.where(anew, drawn, z), moved)

    def learn(self, state: FireflyPool, x: Float[Array, "d"], value: Float[Array, ""]) -> FireflyPool:
        """The pool after one result."""
        far = jnp.sum(jnp.abs(state.space.to_unit(x)[None] - jax.vmap(state.space.to_unit)(state.proposed)), 1)
        latest = jnp.all(state.proposed == x[None], 1) & (state.turn == state.asked - 1)
        fly = jnp.argmin(jnp.where(latest, -1.0, jnp.where(jnp.isnan(far), jnp.inf, far)))
        old, new = state.value[fly], jnp.isinf(state.value[fly])
        better = value < old
        still = jnp.all(x == state.x[fly])
        strays = state.perturbation[fly]
        failed = jnp.where(still, jnp.minimum(MORE * strays, LARGEST_PERTURBATION), FEWER * strays)
        strays = jnp.where(better | new, strays, failed)
        gone = (strays < SMALLEST_PERTURBATION) & (old > jnp.min(state.value)) & ~jnp.any(jnp.isinf(state.value))
        return state._replace(
            x=state.x.at[fly].set(jnp.where(better, x, state.x[fly])),
            value=state.value.at[fly].set(jnp.where(gone, jnp.inf, jnp.minimum(value, old))),
            perturbation=state.perturbation.at[fly].set(jnp.where(gone, self.perturbation, strays)),
        )
