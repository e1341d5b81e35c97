"""Swing-up tasks as population tasks: the weights of a small network that brings a pendulum up and keeps it there."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from l2o.core import Evaluation, Problem, Task
from l2o.registry import register
from l2o.space.domain import Space
from tasks.family import FamilyConfig, Split, TaskFamily

GRAVITY = 9.82  # m/s^2
INTERVAL = 0.02  # seconds in a step
SPEED = 5.0  # speeds are shown to the policy in multiples of this, to be of order 1 as the angles are
MEASURED = 32  # episodes behind the measure

Scalar = Any  # a float, or an array of shape []


class CartPole(NamedTuple):
    """A uniform rod that turns freely on a cart. Coordinates: of the cart, m; of the rod, rad clockwise from upright.

    Attributes:
      cart: its mass, kg.
      pole: the mass of the rod, kg.
      length: of the rod, m.
      friction: between cart and track, N s/m.
    """

    cart: Scalar = 0.5
    pole: Scalar = 0.5
    length: Scalar = 0.6
    friction: Scalar = 0.1

    coordinates = 2
    limit = 10.0  # N, of the force on the cart

    def start(self, key: PRNGKeyArray) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """Coordinates and speeds around hanging at rest, with a standard deviation of 0.1 in each."""
        q, v = 0.1 * jax.random.normal(key, (2, 2))
        return q.at[1].add(jnp.pi), v

    def acceleration(self, q: Float[Array, "2"], v: Float[Array, "2"], force: Float[Array, ""]) -> Float[Array, "2"]:
        """Acceleration of both coordinates, from the Lagrangian of a rod with moment of inertia pole length^2 / 3."""
        sine, cosine = jnp.sin(q[1]), jnp.cos(q[1])
        push = force - self.friction * v[0] + self.pole * self.length * v[1] ** 2 * sine / 2
        inertia = 4 * (self.cart + self.pole) - 3 * self.pole * cosine**2
        cart = (4 * push - 3 * self.pole * GRAVITY * sine * cosine) / inertia
        return jnp.stack([cart, 1.5 * (GRAVITY * sine - cart * cosine) / self.length])

    def reward(self, q: Float[Array, "2"]) -> Float[Array, ""]:
        """`exp(-d^2 / (2 length^2))` at a distance d of the rod's tip from where it is to be."""
        across, up = q[0] / self.length + jnp.sin(q[1]), jnp.cos(q[1]) - 1
        return jnp.exp(-(across**2 + up**2) / 2)


class Pendulum(NamedTuple):
    """A mass on a massless rod, with a motor in the joint too weak to lift it. Coordinate: rad from upright.

    Attributes:
      mass: kg.
      length: of the rod, m.
      friction: in the joint, N m s.
    """

    mass: Scalar = 1.0
    length: Scalar = 1.0
    friction: Scalar = 0.01

    coordinates = 1
    limit = 5.0  # N m, of the torque; it takes mass GRAVITY length to hold the rod level

    def start(self, key: PRNGKeyArray) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
        """At rest at any angle: from hanging alone, strategies learn to swing through the top and not to stay there."""
        return jax.random.uniform(key, (1,), minval=-jnp.pi, maxval=jnp.pi), jnp.zeros(1)

    def acceleration(self, q: Float[Array, "1"], v: Float[Array, "1"], torque: Float[Array, ""]) -> Float[Array, "1"]:
        """Acceleration of the angle."""
        inertia = self.mass * self.length**2
        return GRAVITY / self.length * jnp.sin(q) + (torque - self.friction * v) / inertia

    def reward(self, q: Float[Array, "1"]) -> Float[Array, ""]:
        """`(1 + cos angle) / 2`."""
        return (1 + jnp.cos(q[0])) / 2


System = CartPole | Pendulum


class SwingUpConfig(FamilyConfig):
    """What the swing-up tasks have in common.

    A point is the flat vector of the weights of a network, observation -> `width` tanh units -> one tanh unit, whose
    output times the limit of the force drives the system. The value is minus the mean reward per step, which lies
    between -1 and 0: -1 is a system that is up all the time. All members of a generation are evaluated on the same
    episodes (common random numbers), the next generation on others. There is no gradient.

    Attributes:
      width: hidden units of the policy.
      episodes: averaged in a value; each starts in a random state, see `CartPole.start` and `Pendulum.start`.
      steps: in an episode, of 0.02 seconds.
      sigma: initial standard deviation of a weight.
      start_scale: standard deviation of the starting weights; 0 starts from the policy that does nothing.
      randomize: each mass, length and friction of a task is that of the system times a factor uniform on
        [1 - randomize, 1 + randomize].
    """

    width: int = Field(default=16, ge=1, le=1000)
    episodes: int = Field(default=8, ge=1, le=10_000)
    steps: int = Field(default=250, ge=20, le=10_000)
    sigma: float = Field(default=0.5, gt=0)
    start_scale: float = Field(default=0.0, ge=0)
    randomize: float = Field(default=0.0, ge=0, lt=1)
    system: ClassVar[System]

    def build(self, split: Split = "train") -> "SwingUp":
        """The family; both splits draw new constants and episodes every time, so they are the same distribution."""
        del split
        return SwingUp(self)


@register
class CartPoleSwingUpConfig(SwingUpConfig):
    """The cart-pole swing-up: a force on the cart brings the rod up over the origin of the track.

    Raiko and Tornio (2009) among others; the constants are close to those of Deisenroth and Rasmussen (2011), the
    track has no end. Their cost saturates about 0.25 m away from the goal; ours is one rod's length wide, so that it
    also tells apart policies that are far from success.
    """

    kind: Literal["cartpole_swingup"] = "cartpole_swingup"
    system: ClassVar[System] = CartPole()


@register
class PendulumConfig(SwingUpConfig):
    """The swing-up of a pendulum with limited torque, after Doya (2000): it has to gain energy by swinging first.

    The reward is the cosine of the angle, as there, moved to [0, 1]. The constants are ours.
    """

    kind: Literal["pendulum"] = "pendulum"
    system: ClassVar[System] = Pendulum()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SwingUp(TaskFamily):
    """The family of `SwingUpConfig`. A task's parameters are its `System` and the starting weights."""

    config: SwingUpConfig = field(metadata={"static": True})

    def sample(self, key):
        c = self.config
        constants_key, start_key = jax.random.split(key)
        factors = 1 + c.randomize * jax.random.uniform(constants_key, (len(c.system),), minval=-1.0)
        system = c.system._make(constant * factor for constant, factor in zip(c.system, factors, strict=True))
        return system, c.start_scale * jax.random.normal(start_key, (weights(c.system, c.width),))

    def task(self, params):
        (system, start), c = params, self.config

        def mean_reward(key, x, episodes):
            """The mean reward of one member; where its episodes start depends on the key alone."""
            q, v = jax.vmap(system.start)(jax.random.split(key, episodes))
            return jnp.mean(jax.vmap(lambda q, v: total_reward(system, x, q, v, c.steps))(q, v)) / c.steps

        def evaluate(key, x):
            return Evaluation(jax.vmap(lambda member: -mean_reward(key, member, c.episodes))(x))

        def measure(key, x) -> dict[str, Any]:
            return {"return": mean_reward(key, x, MEASURED)}

        return Task(Problem(Space.free(), start, c.sigma), evaluate, measure)


def weights(system: System, width: int) -> int:
    """The number of weights of a policy."""
    return width * (2 * system.coordinates + 3) + 1


def policy(x: Float[Array, "d"], q: Float[Array, "k"], v: Float[Array, "k"]) -> Float[Array, ""]:
    """What the network does in one state, between -1 and 1."""
    seen = jnp.concatenate([q[:-1], jnp.sin(q[-1:]), jnp.cos(q[-1:]), v / SPEED, jnp.ones(1, q.dtype)])
    width = (x.size - 1) // (seen.size + 1)
    hidden = jnp.tanh(x[: width * seen.size].reshape(width, -1) @ seen)
    return jnp.tanh(x[width * seen.size : -1] @ hidden + x[-1])


def step(
    system: System, x: Float[Array, "d"], q: Float[Array, "k"], v: Float[Array, "k"]
) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
    """Coordinates and speeds after one interval, in which the force stays as the policy chose it.

    Half a step of the coordinates, one of the speeds by the midpoint rule, half a step of the coordinates: energy is
    kept to a percent, where a semi-implicit Euler step takes half of it from the cart-pole within ten seconds.
    """
    force = system.limit * policy(x, q, v)
    q = q + INTERVAL / 2 * v
    middle = v + INTERVAL / 2 * system.acceleration(q, v, force)
    v = v + INTERVAL * system.acceleration(q, middle, force)
    return q + INTERVAL / 2 * v, v


def total_reward(
    system: System, x: Float[Array, "d"], q: Float[Array, "k"], v: Float[Array, "k"], steps: int
) -> Float[Array, ""]:
    """Summed over the states after each step. The states are not kept: there are many episodes at a time."""

    def body(state, _):
        q, v, total = state
        q, v = step(system, x, q, v)
        return (q, v, total + system.reward(q)), None

    first = (q.astype(x.dtype), v.astype(x.dtype), jnp.zeros((), x.dtype))
    return jax.lax.scan(body, first, length=steps)[0][2]
