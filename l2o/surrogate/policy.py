"""The optimizer of a surrogate: the next point is where its acquisition function is largest."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field

from l2o.acquisition import NEAR, REPEATED, Pending, maximise, quasi_random, without_failures
from l2o.core import Optimizer, OptimizerConfig, Problem, Theta
from l2o.space.domain import Space
from l2o.surrogate.prediction import Surrogate
from l2o.wrappers.flat import over_flat_points

FEWEST, GROWTH = 16, 4  # observations that the smallest program reads, and how many times as many the next one does


class SurrogateConfig(OptimizerConfig):
    """What optimizers with a surrogate share.

    Attributes:
      max_trials: that are read; beyond it a new one replaces the worst.
      initial: points that come before those of the surrogate.
      acquisition: "ei": the logarithm of expected improvement, "ucb": the quantile `quantile`, "pi": the probability of
        improvement.
      quantile: of "ucb", between 0 and 1.
      candidates: random points that the acquisition function is first evaluated at.
      ascent_steps: gradient steps on it, from the best candidates.
      max_pending: trials in progress that it sees, the latest.
    """

    max_trials: int = Field(default=200, ge=1, le=10_000)
    initial: int = Field(default=4, ge=1)
    acquisition: Literal["ei", "ucb", "pi"] = "ei"
    quantile: float = Field(default=0.1, gt=0, lt=1)
    candidates: int = Field(default=256, ge=8)
    ascent_steps: int = Field(default=10, ge=0)
    max_pending: int = Field(default=8, ge=1, le=1000)


class SurrogateState(NamedTuple):
    """What has been observed, in the unit cube.

    Attributes:
      space: a mixed one.
      shift: of the quasi-random points that come first.
      x: points.
      y: values as they were told, also those of failed evaluations.
      filled: rows in use.
      told: how many values there were.
      pending: what is in progress.
    """

    space: Space
    shift: Float[Array, "d"]
    x: Float[Array, "n d"]
    y: Float[Array, "n"]
    filled: Int[Array, ""]
    told: Int[Array, ""]
    pending: Pending


def searching(config: SurrogateConfig, surrogate: Surrogate, theta: Theta) -> Optimizer:
    """An optimizer of bounded problems; only as many rows are read as are in use, up to a factor of four."""
    room, pending = config.max_trials, config.max_pending
    rungs = [n for k in range(8) if (n := FEWEST * GROWTH**k) < room] + [room]

    def init(key: Any, problem: Problem) -> SurrogateState:
        d, zero = problem.start.size, jnp.zeros((), jnp.int32)
        return SurrogateState(
            problem.space, jax.random.uniform(key, (d,)), jnp.zeros((room, d)), jnp.zeros(room), zero, zero,
            Pending.none(pending, d),
        )  # fmt: skip

    def acquisition(prediction, best):
        if config.acquisition == "ei":
            return prediction.log_expected_improvement(best)
        if config.acquisition == "ucb":
            return -prediction.quantile(config.quantile)
        return prediction.probability_of_improvement(best)

    def proposed(key, state: SurrogateState, rows: int):
        ordered, levels = state.space.ordered, state.space.levels
        assert ordered is not None and levels is not None
        told, waiting = jnp.arange(rows) < state.filled, state.pending.used
        y = without_failures(state.y[:rows], told)
        best = jnp.where(state.filled > 0, jnp.min(jnp.where(told, y, jnp.inf)), 0.0)  # what is expected of nothing
        x = jnp.concatenate([state.x[:rows], state.pending.x])
        values, nothing = jnp.concatenate([y, jnp.zeros(pending)]), jnp.zeros(pending, bool)
        belief = surrogate.read(theta, x, values, jnp.concatenate([told, nothing]), ordered)

        def believed(belief, best):
            """As if what is in progress had come out as expected (Ginsbourger et al. 2010, "Kriging believer")."""
            expected = surrogate.predict(theta, belief, state.pending.x).mean
            values = jnp.concatenate([y, expected])
            best = jnp.minimum(best, jnp.min(jnp.where(waiting, expected, jnp.inf)))
            return surrogate.read(theta, x, values, jnp.concatenate([told, waiting]), ordered), best

        belief, best = jax.lax.cond(jnp.any(waiting), believed, lambda *known: known, belief, best)
        # what is known is asked for again only where there are real numbers, what is in progress not at all
        seen = jnp.concatenate([told & jnp.all(levels > 0), waiting])

        def score(u):
            repeated = jnp.any(seen[None] & (jnp.max(jnp.abs(u[:, None] - x[None]), 2) < NEAR), 1)
            return acquisition(surrogate.predict(theta, belief, u), best) - jnp.where(repeated, REPEATED, 0.0)

        lowest = jax.lax.top_k(jnp.where(told, -y, -jnp.inf), min(4, rows))[1]
        leaders = x[jnp.where(told[lowest], lowest, lowest[0])]
        return maximise(key, score, leaders, config.candidates, config.ascent_steps, state.space)

    def propose(key, state: SurrogateState):
        rung = jnp.searchsorted(jnp.asarray(rungs), state.filled)
        programs = [lambda key, state, n=n: proposed(key, state, n) for n in rungs]
        return jax.lax.switch(rung, programs, key, state)

    def begin(key, state: SurrogateState):
        del key
        return quasi_random(state.shift, state.told + state.pending.number)

    def ask(key, state: SurrogateState):
        first = state.told + state.pending.number < config.initial
        x = state.space.from_unit(jax.lax.cond(first, begin, propose, key, state))
        return x[None], state._replace(pending=state.pending.asked(state.space.to_unit(x)))

    def tell(key, state: SurrogateState, x, evaluation):
        del key
        points = jax.vmap(state.space.to_unit)(x)

        def insert(state: SurrogateState, told):
            point, value = told
            worst = jnp.argmax(jnp.where(jnp.isfinite(state.y), state.y, jnp.inf))
            row = jnp.where(state.filled < room, state.filled, worst)
            return state._replace(
                x=state.x.at[row].set(point), y=state.y.at[row].set(value),
                filled=jnp.minimum(state.filled + 1, room), told=state.told + 1, pending=state.pending.told(point),
            ), None  # fmt: skip

        return jax.lax.scan(insert, state, (points, evaluation.value.astype(jnp.float32)))[0]

    return over_flat_points(config.kind, Optimizer(init, ask, tell))
