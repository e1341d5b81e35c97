"""How likely teachers' own proposals were, for those of which it is known: what no imitation can exceed on average."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.study.imitation.behaviour import Runs, best_so_far
from l2o.baselines.grid import GridConfig, PointGrid, ShuffledGridConfig
from l2o.baselines.mutation import HillClimbingConfig
from l2o.baselines.search import RandomConfig
from l2o.core import BaselineConfig


def own_log_prob(config: BaselineConfig, runs: Runs, bins: int) -> Float[np.ndarray, "n t"] | None:
    """Log-probability of the tokens of each trial under the teacher that made the runs, given all trials before it.

    Exact for real numbers, and for others of at most `bins` values; of a shuffled grid, where it has no more than
    `bins` values of a coordinate and is counted whole, which is up to 2^30 points.

    Args:
      config: of the teacher.
      runs: in spaces without parameters of a single value.
      bins: of the unit interval.

    Returns:
      In nats; None where it is not known in closed form.
    """
    sizes = np.asarray(jax.vmap(lambda space: space.sizes(bins))(runs.space))
    trials = runs.y.shape[1]
    anywhere = np.tile(-np.log(sizes).sum(1, keepdims=True), trials)
    if isinstance(config, RandomConfig):
        return anywhere
    if isinstance(config, GridConfig):
        return np.zeros_like(anywhere)
    if isinstance(config, ShuffledGridConfig):
        grid = jax.vmap(lambda space: PointGrid.of(space, jnp.asarray(trials), config.resolution).sizes)(runs.space)
        points = np.asarray(grid).prod(1, keepdims=True)
        return -np.log(points - np.arange(trials) % np.minimum(points, config.max_trials))
    if isinstance(config, HillClimbingConfig):
        anywhere[:, 1:] = _log_prob_of_climbing(runs, sizes, bins)
        return anywhere
    return None


def _log_prob_of_climbing(runs: Runs, sizes: Int[np.ndarray, "n d"], bins: int) -> Float[np.ndarray, "n t-1"]:
    """One coordinate, which is any with the same probability, has another value than that of the best point."""
    tokens, _ = runs.points(bins)
    best = np.take_along_axis(tokens, best_so_far(runs.y)[:, :-1, None], 1)
    same = tokens[:, 1:] == best
    others = (~same).sum(-1, keepdims=True) == ~same  # whether all other coordinates are as they were
    levels = np.asarray(runs.space.levels)
    # the new value of a real number, or of one of more values than bins, may be in the same bin
    alike = ((levels == 0) | (levels > bins))[:, None] / sizes[:, None]
    differ = np.where(alike > 0, alike, 1 / np.maximum(sizes - 1, 1)[:, None])
    with np.errstate(divide="ignore"):  # a point that the teacher cannot propose
        return np.log(np.where(others, np.where(same, alike, differ), 0.0).mean(-1))
