"""A simple control task: where to place repellers, and how strong, so that a falling particle collects reward."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import Problem, Task
from l2o.registry import register
from l2o.space.domain import Space
from tasks.family import FamilyConfig, Split, TaskFamily

DURATION, GRAVITY = 1.5, 1.0  # left alone, a particle falls through the unit square in about 1.4
STRENGTH, SOFTENING = 1.0, 0.1  # of a repeller: the most it can have, and the distance below which its force drops


@register
class RepellersConfig(FamilyConfig):
    """The control task of Chen et al. (2017), after Hoffman et al. (2009).

    A particle falls through the plane and repellers push it away, with a force inversely proportional to their
    distance. Three parameters for each repeller, its place in the unit square and its strength, are chosen so that the
    path leads through regions of high reward; the value is minus the discounted mean reward, between -1 and 0. The
    constants and the shape of the reward are ours. A task draws where the particle
    starts, how fast and in what direction, and the regions. The minimum is not known.

    Attributes:
      repellers: each is three coordinates of the unit cube.
      regions: of high reward.
      steps: of the simulation.
      discount: of the reward at the end of the path relative to that at its beginning.
    """

    kind: Literal["repellers"] = "repellers"
    repellers: int = Field(default=2, ge=1, le=100)
    regions: int = Field(default=2, ge=1, le=100)
    steps: int = Field(default=60, ge=20, le=10_000)
    discount: float = Field(default=0.5, gt=0, le=1)

    def build(self, split: Split = "train") -> "Repellers":
        """The family; both splits draw new starts and regions every time, so they are the same distribution."""
        del split
        return Repellers(self)


class Scene(NamedTuple):
    """What a task draws, in a plane whose unit square the repellers may stand in.

    Attributes:
      position, velocity: of the particle at the start, in the upper part of the square.
      centres, radii: of the regions; half of the full reward is left one radius away from the centre.
    """

    position: Float[Array, "2"]
    velocity: Float[Array, "2"]
    centres: Float[Array, "regions 2"]
    radii: Float[Array, "regions"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Repellers(TaskFamily):
    """The family of `RepellersConfig`. A task's parameters are a `Scene`."""

    config: RepellersConfig = field(metadata={"static": True})

    def sample(self, key):
        place_key, velocity_key, centre_key, radius_key = jax.random.split(key, 4)
        n = self.config.regions
        return Scene(
            position=jax.random.uniform(place_key, (2,), minval=jnp.array([0.2, 0.8]), maxval=jnp.array([0.8, 1.0])),
            velocity=jax.random.uniform(velocity_key, (2,), minval=-0.2, maxval=0.2),
            centres=jax.random.uniform(centre_key, (n, 2), minval=0.0, maxval=jnp.array([[1.0, 0.6]])),
            radii=jax.random.uniform(radius_key, (n,), minval=0.05, maxval=0.2),
        )

    def task(self, params):
        c = self.config
        weights = c.discount ** jnp.linspace(0, 1, c.steps)

        def loss(key, u):
            del key
            return -jnp.sum(weights * reward(params, path(params, u, c.steps))) / jnp.sum(weights)

        n = 3 * c.repellers
        # side by side: repellers that start in one place have the same gradient, and would stay together for ever
        places = jnp.arange(1, c.repellers + 1) / (c.repellers + 1)
        start = jnp.full((c.repellers, 3), 0.5).at[:, 0].set(places).reshape(n)
        return Task.from_loss(loss, Problem(Space.box(jnp.zeros(n), jnp.ones(n)), start, 0.3))


def path(scene: Scene, u: Float[Array, "n"], steps: int) -> Float[Array, "steps 2"]:
    """Where the particle is after each step of a semi-implicit Euler integration, which keeps its energy bounded."""
    repellers = u.reshape(-1, 3)
    dt = DURATION / steps

    def step(state, _):
        position, velocity = state
        away = position[None] - repellers[:, :2]
        # |force| = strength r / (r^2 + softening^2): 1 / r from far, and finite on top of the repeller
        push = STRENGTH * repellers[:, 2:] * away / (jnp.sum(away**2, axis=1, keepdims=True) + SOFTENING**2)
        velocity = velocity + dt * (jnp.sum(push, axis=0) - jnp.array([0.0, GRAVITY]))
        position = position + dt * velocity
        return (position, velocity), position

    return jax.lax.scan(step, (scene.position.astype(u.dtype), scene.velocity.astype(u.dtype)), None, length=steps)[1]


def reward(scene: Scene, positions: Float[Array, "steps 2"]) -> Float[Array, "steps"]:
    """Between 0 and 1, and nowhere flat: `1 - prod_k r_k^2 / (1 + r_k^2)` at a distance of r_k radii from region k."""
    squares = jnp.sum((positions[:, None] - scene.centres[None]) ** 2, axis=2) / scene.radii[None] ** 2
    return 1 - jnp.prod(squares / (1 + squares), axis=1)
