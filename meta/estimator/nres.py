"""Noise-reuse evolution strategies."""

from typing import Literal

from pydantic import Field

from l2o.registry import register
from meta.estimator.perturbed import PerturbedConfig


@register
class NRESConfig(PerturbedConfig):
    """Noise-reuse evolution strategies (Li et al. 2023, algorithm 2).

    One noise for all windows of a run: unbiased under truncation, because the windows of a run add up to the estimate
    of `es` on the whole unroll; of lower variance than `pes` where the windows of a run agree.
    """

    kind: Literal["nres"] = "nres"
    unroll_length: int | None = Field(default=20, ge=1)

    def build(self, learned, objective, horizon, tasks, axis=None):
        return self.estimator(learned, objective, horizon, tasks, axis, noise="run", persistent=True)
