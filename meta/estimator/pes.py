"""Persistent evolution strategies."""

from typing import Literal

from pydantic import Field

from l2o.registry import register
from meta.estimator.perturbed import PerturbedConfig


@register
class PESConfig(PerturbedConfig):
    """Persistent evolution strategies (Vicol, Metz and Sohl-Dickstein 2021, algorithm 2).

    Fresh noise for every window; the runs of a pair go on from their own states, and a window's loss is multiplied by
    the sum of all noise since the run began, which is what makes truncation unbiased. The variance grows with the
    number of windows in a run.
    """

    kind: Literal["pes"] = "pes"
    unroll_length: int | None = Field(default=20, ge=1)

    def build(self, learned, objective, horizon, tasks, axis=None):
        return self.estimator(learned, objective, horizon, tasks, axis, noise="window", persistent=True)
