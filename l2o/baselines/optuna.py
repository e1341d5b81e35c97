"""The tree-structured Parzen estimator of Optuna, on the host."""

import warnings
from typing import Literal

from pydantic import Field

from l2o.core import BaselineConfig, HostOptimizer
from l2o.lift.optuna import from_optuna, need_optuna
from l2o.registry import register


@register
class TPEConfig(BaselineConfig):
    """TPE (Bergstra et al. 2011), as Optuna's sampler has it by default (Watanabe 2023). Needs the extra `optuna`.

    Attributes:
      initial: random points that come first.
      candidates: points among which the acquisition function is maximised.
      multivariate: whether all parameters have one density together, or each its own; None for Optuna's default.
    """

    kind: Literal["tpe"] = "tpe"
    initial: int = Field(default=10, ge=1)
    candidates: int = Field(default=24, ge=1)
    multivariate: bool | None = None

    def build(self) -> HostOptimizer:
        def make(seed: int):
            chosen = {} if self.multivariate is None else {"multivariate": self.multivariate}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # before version 5 Optuna calls that experimental
                return need_optuna().samplers.TPESampler(
                    n_startup_trials=self.initial, n_ei_candidates=self.candidates, seed=seed, **chosen
                )

        return from_optuna(make, self.kind)
