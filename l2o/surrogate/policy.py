"""The optimizer of a surrogate: the next point is where its acquisition function is largest."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from l2o.acquisition import NEAR, REPEATED, Pending, Seen, maximise, quasi_random, without_failures
from l2o.core import Optimizer, OptimizerConfig, Problem, Theta
from l2o.space.domain import Space
from l2o.surrogate.prediction import Surrogate
from l2o.wrappers.flat import over_flat_points


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
      seen: what was observed.
      pending: what is in progress.
    """

    space: Space
    shift: Float[Array, "d"]
    seen: Seen
    pending: Pending


def searching(config: SurrogateConfig, surrogate: Surrogate, theta: Theta) -> Optimizer:
    """An optimizer of bounded problems."""

    def init(key: Any, problem: Problem) -> SurrogateState:
        d = problem.start.size
        seen, pending = Seen.none(config.max_trials, d), Pending.none(config.max_pending, d)
        return SurrogateState(problem.space, jax.random.uniform(key, (d,)), seen, pending)

    def acquisition(prediction, best):
        if config.acquisition == "ei":
            return prediction.log_expected_improvement(best)
        if config.acquisition == "ucb":
            return -prediction.quantile(config.quantile)
        return prediction.probability_of_improvement(best)

    def propose(key, state: SurrogateState):
        ordered, levels = state.space.ordered, state.space.levels
        assert ordered is not None and levels is not None
        told, waiting = state.seen.used, state.pending.used
        y = without_failures(state.seen.y, told)
        best = jnp.where(jnp.any(told), jnp.min(jnp.where(told, y, jnp.inf)), 0.0)  # what is expected of nothing
        x = jnp.concatenate([state.seen.x, state.pending.x])

        def read(_, carry):
            """What is believed, and what is read next: what is in progress is taken to come out as expected.

            Ginsbourger et al. (2010), "Kriging believer".
            """
            _, best, values, used = carry
            belief = surrogate.read(theta, x, values, used, ordered)
            expected = surrogate.predict(theta, belief, state.pending.x).mean
            best = jnp.minimum(best, jnp.min(jnp.where(waiting, expected, jnp.inf)))
            return belief, best, jnp.concatenate([y, expected]), jnp.concatenate([told, waiting])

        first = jnp.concatenate([y, jnp.zeros(len(waiting))]), jnp.concatenate([told, jnp.zeros_like(waiting)])
        shapes = jax.eval_shape(surrogate.read, theta, x, *first, ordered)
        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        # one loop, so that reading is compiled once
        belief, best, *_ = jax.lax.fori_loop(0, 1 + jnp.any(waiting), read, (empty, best, *first))
        # what is known is asked for again only where there are real numbers, what is in progress not at all
        seen = jnp.concatenate([told & jnp.all(levels > 0), waiting])

        def score_by(predict):
            def score(u):
                repeated = jnp.any(seen[None] & (jnp.max(jnp.abs(u[:, None] - x[None]), 2) < NEAR), 1)
                return acquisition(predict(theta, belief, u), best) - jnp.where(repeated, REPEATED, 0.0)

            return score

        searched = score_by(surrogate.sketch or surrogate.predict)
        judge = score_by(surrogate.predict) if surrogate.sketch else None
        lowest = jax.lax.top_k(jnp.where(told, -y, -jnp.inf), min(4, len(y)))[1]
        leaders = x[jnp.where(told[lowest], lowest, lowest[0])]
        return maximise(key, searched, leaders, config.candidates, config.ascent_steps, state.space, judge=judge)

    def begin(key, state: SurrogateState):
        del key
        return quasi_random(state.shift, state.seen.told + state.pending.number)

    def ask(key, state: SurrogateState):
        first = state.seen.told + state.pending.number < config.initial
        x = state.space.from_unit(jax.lax.cond(first, begin, propose, key, state))
        return x[None], state._replace(pending=state.pending.asked(state.space.to_unit(x)))

    def tell(key, state: SurrogateState, x, evaluation):
        del key
        points = jax.vmap(state.space.to_unit)(x)
        pending = jax.lax.scan(lambda pending, point: (pending.told(point), None), state.pending, points)[0]
        return state._replace(seen=state.seen.observed(points, evaluation.value), pending=pending)

    return over_flat_points(config.kind, Optimizer(init, ask, tell))
