"""How an optimizer behaves, in numbers that do not look at where its points are, and who behaves like that."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from l2o.space.domain import Space

MEASURES = (
    "as best", "as previous", "from best", "from previous", "from nearest", "repeats", "known", "rank",
)  # fmt: skip
PARTS = ("early", "middle", "late")
TREES = 300


class Runs(NamedTuple):
    """Runs in spaces of one dimension.

    Attributes:
      x: points.
      y: what was told.
      space: mixed ones, with leading axis n.
    """

    x: Float[np.ndarray, "n t d"]
    y: Float[np.ndarray, "n t"]
    space: Space

    def points(self, bins: int) -> tuple[Int[np.ndarray, "n t d"], Float[np.ndarray, "n t d"]]:
        """Tokens, and where they lie in the unit cube: what is left of a point for who tells but so many bins apart."""

        tokens, unit = _tokens_and_units(self.space, self.x, bins)
        return np.asarray(tokens), np.asarray(unit)


@partial(jax.jit, static_argnums=2)
def _tokens_and_units(space: Space, x: Float[np.ndarray, "n t d"], bins: int):
    def point(space, x):
        tokens = space.to_tokens(x, bins)
        return tokens, space.to_unit(space.from_tokens(tokens, bins))

    return jax.vmap(jax.vmap(point, (None, 0)))(space, x)


def features(runs: Runs, bins: int) -> Float[np.ndarray, "n f"]:
    """Mean and standard deviation of `measured` over each third of the trials after the first, and what space it was.

    The latter two do not tell who it was, but what the others mean.
    """
    trials = np.array_split(measured(runs, bins), len(PARTS), axis=1)
    moments = np.stack([moment(part, axis=1) for part in trials for moment in (np.mean, np.std)], -1)
    n, _, d = runs.x.shape
    real = (np.asarray(runs.space.levels) == 0).mean(1)
    return np.concatenate([moments.reshape(n, -1), np.stack([np.full(n, d), real], 1)], 1)


def measured(runs: Runs, bins: int) -> Float[np.ndarray, "n t-1 m"]:
    """Each trial but the first against those before it.

    In the order of `MEASURES`: the shares of coordinates that are those of the best point so far and of the previous
    point; the distances, root mean squares over coordinates of the unit cube, to the best, to the previous and to the
    nearest point; whether the point is a repetition; the share of coordinates that some point had before; the share of
    the values before that are lower. Two categories differ by 1.
    """
    tokens, unit = runs.points(bins)
    n, t, _ = tokens.shape
    # of each trial but the first, with each trial
    same: Bool[np.ndarray, "n t-1 t d"] = tokens[:, 1:, None] == tokens[:, None]
    ordered = np.asarray(runs.space.ordered).reshape(n, 1, 1, -1)
    gap = np.where(ordered, np.abs(unit[:, 1:, None] - unit[:, None]), ~same)
    distance = np.sqrt((gap**2).mean(-1))
    lower = runs.y[:, None] < runs.y[:, 1:, None]
    earlier = np.tri(t - 1, t, dtype=bool)
    study, trial = np.arange(n)[:, None], np.arange(t - 1)[None]
    best, previous = (study, trial, best_so_far(runs.y)[:, :-1]), (study, trial, trial)
    found = (
        same[best].mean(-1), same[previous].mean(-1), distance[best], distance[previous],
        np.where(earlier, distance, np.inf).min(-1), np.any(same.all(-1) & earlier, -1),
        np.any(same & earlier[..., None], 2).mean(-1), (lower & earlier).sum(-1) / earlier.sum(-1),
    )  # fmt: skip
    return np.stack(found, -1)


def best_so_far(y: Float[np.ndarray, "n t"]) -> Int[np.ndarray, "n t"]:
    """The trial of the lowest value up to each, the first of equals."""
    lowest = np.minimum.accumulate(y, 1)
    better = np.concatenate([np.ones((len(y), 1), bool), y[:, 1:] < lowest[:, :-1]], 1)
    return np.maximum.accumulate(np.where(better, np.arange(y.shape[1]), 0), 1)


class Judge:
    """Tells who made a run: a random forest (Breiman 2001, from scikit-learn) on the features of examples."""

    def __init__(self, examples: dict[str, Float[np.ndarray, "n f"]], seed: int):
        from sklearn.ensemble import RandomForestClassifier

        self.names = list(examples)
        made_by = np.repeat(np.arange(len(examples)), [len(some) for some in examples.values()])
        stacked = np.concatenate(list(examples.values()))
        spread = stacked.std(0)
        self.scale = np.where(spread > 0, spread, 1.0)
        forest = RandomForestClassifier(TREES, min_samples_leaf=2, random_state=seed)
        self.forest = forest.fit(stacked, made_by)

    def taken_for(self, found: Float[np.ndarray, "n f"]) -> list[str]:
        """Who seems to have made each run."""
        return [self.names[i] for i in self.forest.predict(found)]

    def distance(self, a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float:
        """Between the mean features of two sets of runs: the root mean square, in standard deviations of the examples.

        What merely says which space it was is left out.
        """
        moments = slice(len(MEASURES) * len(PARTS) * 2)
        return float(np.sqrt((((a.mean(0) - b.mean(0)) / self.scale)[moments] ** 2).mean()))
