"""What optimizers with a model share: first points, failures, points in progress, and the search for the next point."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from l2o.space.domain import Space

REPEATED = 1e4  # above differences of an acquisition function, and small enough not to round them away
NEAR = 1e-6  # distance below which two points of the unit cube are the same


class Pending(NamedTuple):
    """Points in progress: asked for and not told yet. An optimizer that takes them into account has one in its state.

    Attributes:
      x: the latest of them, in the unit cube, the oldest first; rows that are not in use mean nothing.
      number: how many they are, those that found no room included.
    """

    x: Float[Array, "p d"]
    number: Int[Array, ""]

    @classmethod
    def none(cls, room: int, d: int) -> "Pending":
        """Nothing yet, and room for so many points [d]."""
        return cls(jnp.zeros((room, d)), jnp.zeros((), jnp.int32))

    @property
    def used(self) -> Bool[Array, "p"]:
        """Which rows are in use."""
        return jnp.arange(len(self.x)) < self.number

    def asked(self, point: Float[Array, "d"]) -> "Pending":
        """With one more; the oldest one goes where there is no room."""
        full = self.number >= len(self.x)
        at = jnp.minimum(self.number, len(self.x) - 1)
        return Pending(jnp.where(full, jnp.roll(self.x, -1, 0), self.x).at[at].set(point), self.number + 1)

    def told(self, point: Float[Array, "d"]) -> "Pending":
        """Without this one; where it is none of them, without one that found no room, or else the oldest one.

        So the number depends on no point, and is one for all runs that are mapped over.
        """
        same = self.used & jnp.all(jnp.abs(self.x - point[None]) < NEAR, 1)
        gone = jnp.any(same) | (self.number <= len(self.x))
        later = jnp.arange(len(self.x)) >= jnp.argmax(same)
        x = jnp.where(gone & later[:, None], jnp.roll(self.x, -1, 0), self.x)
        return Pending(x, jnp.maximum(self.number - 1, 0))

    def of(self, points: Float[Array, "m d"]) -> "Pending":
        """These in place of all others."""
        latest = points[-len(self.x) :] if len(points) else points
        return Pending(self.x.at[: len(latest)].set(latest), jnp.full_like(self.number, len(points)))


class Seen(NamedTuple):
    """What was observed. An optimizer that reads all of it has one in its state, and takes any room that it has.

    Attributes:
      x: points in the unit cube; rows that are not in use mean nothing.
      y: values as they were told, also those of failed evaluations.
      filled: rows in use.
      told: how many values there were; beyond the room a new one takes the place of the worst.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "n"]
    filled: Int[Array, ""]
    told: Int[Array, ""]

    @classmethod
    def none(cls, room: int, d: int) -> "Seen":
        """Nothing yet, and room for so many points [d]."""
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros((room, d)), jnp.zeros(room), zero, zero)

    @property
    def used(self) -> Bool[Array, "n"]:
        """Which rows are in use."""
        return jnp.arange(len(self.y)) < self.filled

    def observed(self, x: Float[Array, "m d"], y: Float[Array, "m"]) -> "Seen":
        """With these too, one after the other."""

        def insert(seen: Seen, one):
            point, value = one
            worst = jnp.argmax(jnp.where(jnp.isfinite(seen.y), seen.y, jnp.inf))
            row = jnp.where(seen.filled < len(seen.y), seen.filled, worst)
            filled = jnp.minimum(seen.filled + 1, len(seen.y))
            return Seen(seen.x.at[row].set(point), seen.y.at[row].set(value), filled, seen.told + 1), None

        return jax.lax.scan(insert, self, (x, y.astype(self.y.dtype)))[0]

    def with_room(self, room: int) -> "Seen":
        """The same in so many rows, at least as many as are in use."""
        x, y = (a[:room] for a in self[:2])
        more = room - len(y)
        return self._replace(x=jnp.pad(x, ((0, more), (0, 0))), y=jnp.pad(y, (0, more)))


def without_failures(y: Float[Array, "n"], used: Bool[Array, "n"]) -> Float[Array, "n"]:
    """Values with failed evaluations as the worst finite one (0 where there is none), and 0 in unused rows."""
    valid = used & jnp.isfinite(y)
    worst = jnp.max(jnp.where(valid, y, -jnp.inf))
    return jnp.where(valid, y, jnp.where(used & jnp.isfinite(worst), worst, 0.0))


def quasi_random(shift: Float[Array, "d"], count: Int[Array, ""]) -> Float[Array, "d"]:
    """Point number `count` of the additive recurrence with the generalised golden ratio (Roberts 2018), shifted."""
    d = shift.shape[0]
    ratio = 2.0
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (d + 1))
    steps = jnp.array([int(ratio ** -(i + 1) % 1 * 2**32) for i in range(d)], jnp.uint32)
    turned = count.astype(jnp.uint32) * steps  # modulo 2^32, exactly
    return (shift + turned.astype(shift.dtype) / 2.0**32) % 1.0


def maximise(
    key: PRNGKeyArray, score: Callable[[Float[Array, "m d"]], Float[Array, "m"]], leaders: Float[Array, "k d"],
    candidates: int, steps: int, space: Space | None = None, starts: int = 4,
    judge: Callable[[Float[Array, "m d"]], Float[Array, "m"]] | None = None,
) -> Float[Array, "d"]:  # fmt: skip
    """The point of the unit cube with the largest score that is found.

    In a mixed space that is a point that can be evaluated: others are moved to the nearest one before they are scored.
    A step of the ascent follows the gradient there; categories have none.

    Args:
      key: decides the candidates.
      score: of m points.
      leaders: points near which it is often large.
      candidates: uniform ones; there are a quarter as many around the leaders, at distances of all magnitudes.
      steps: of gradient ascent by Adam, from the best `starts` of both sorts.
      space: a mixed one; None for a cube of real numbers.
      starts: see `steps`.
      judge: a score that takes longer, and chooses among the starts and what was found from them; by default `score`.
    """

    def nearest(u):
        if space is None or space.levels is None:
            return u
        return jnp.where(space.levels[None] > 0, jax.vmap(space.to_unit)(jax.vmap(space.from_unit)(u)), u)

    size, local = leaders.shape[1], candidates // 4
    wide_key, which_key, width_key, normal_key, anew_key, other_key = jax.random.split(key, 6)
    wide = nearest(jax.random.uniform(wide_key, (candidates, size)))
    centres = leaders[jax.random.randint(which_key, (local,), 0, leaders.shape[0])]
    width = 10 ** jax.random.uniform(width_key, (local, 1), minval=-3.0, maxval=-0.5)
    near = jnp.clip(centres + width * jax.random.normal(normal_key, (local, size)), 0.0, 1.0)
    if space is not None and space.ordered is not None:
        anew = ~space.ordered[None] & jax.random.bernoulli(anew_key, 0.2, near.shape)
        near = nearest(jnp.where(anew, jax.random.uniform(other_key, near.shape), near))
    # all candidates at once, and values with the gradients: what a score is made of is compiled twice, not five times
    scores = jnp.split(score(jnp.concatenate([wide, near])), [candidates])
    best = [u[jax.lax.top_k(values, min(starts, len(u)))[1]] for u, values in zip((wide, near), scores, strict=True)]
    first = jnp.concatenate(best)
    tx = optax.adam(optax.exponential_decay(0.03, max(steps, 1), 0.01))

    def climb(carry, _):
        u, moments, highest, found = carry
        here = nearest(u)
        values, slopes = jax.vjp(score, here)
        gradient = slopes(-jnp.ones_like(values))[0]
        updates, moments = tx.update(jnp.where(jnp.isfinite(gradient), gradient, 0.0), moments)
        found = jnp.where((values > highest)[:, None], here, found)
        return (jnp.clip(u + updates, 0.0, 1.0), moments, jnp.maximum(values, highest), found), None

    begin = first, tx.init(first), jnp.full(len(first), -jnp.inf), first
    (_, _, highest, found), _ = jax.lax.scan(climb, begin, length=steps + 1)
    if judge is None:
        return found[jnp.argmax(highest)]
    last = jnp.concatenate([first, found])
    return last[jnp.argmax(judge(last))]
