"""The tree-structured Parzen estimator of Optuna, on the host."""

from typing import Literal

from pydantic import Field

from l2o.core import BaselineConfig, HostOptimizer
from l2o.interop.optuna import from_optuna, need_optuna
from l2o.registry import register


@register
class TPEConfig(BaselineConfig):
    """TPE (Bergstra et al. 2011), as Optuna's sampler has it by default (Watanabe 2023). Needs the extra `optuna`.

    Attributes:
      initial: random points that come first.
      candidates: points among which the acquisition function is maximised.
    """

    kind: Literal["tpe"] = "tpe"
    initial: int = Field(default=10, ge=1)
    candidates: int = Field(default=24, ge=1)

    def build(self) -> HostOptimizer:
        def make(seed: int):
            return need_optuna().samplers.TPESampler(
                n_startup_trials=self.initial, n_ei_candidates=self.candidates, seed=seed
            )

        return from_optuna(make, self.kind)
