"""Samplers of Optuna, on the host."""

import warnings
from typing import Literal

from pydantic import Field

from l2o.core import BaselineConfig, HostOptimizer
from l2o.errors import UserError
from l2o.lift.coordinates import not_installed
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

    @property
    def lacks(self) -> str:
        return not_installed(self.kind, {"optuna": "optuna"})

    def build(self) -> HostOptimizer:
        def make(seed: int):
            chosen = {} if self.multivariate is None else {"multivariate": self.multivariate}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # before version 5 Optuna calls that experimental
                return need_optuna().samplers.TPESampler(
                    n_startup_trials=self.initial, n_ei_candidates=self.candidates, seed=seed, **chosen
                )

        return from_optuna(make, self.kind)


@register
class OptunaGPConfig(BaselineConfig):
    """The Gaussian process of Optuna's GPSampler, with log expected improvement. Needs the extra `optuna`, and torch.

    Attributes:
      initial: random points that come first.
      deterministic: whether equal points have equal values.
    """

    kind: Literal["optuna_gp"] = "optuna_gp"
    initial: int = Field(default=10, ge=1)
    deterministic: bool = False

    @property
    def lacks(self) -> str:
        return not_installed(self.kind, {"optuna": "optuna", "torch": "torch"})

    def build(self) -> HostOptimizer:
        def make(seed: int):
            if self.lacks:
                raise UserError(self.lacks)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna calls that experimental
                return need_optuna().samplers.GPSampler(
                    n_startup_trials=self.initial, deterministic_objective=self.deterministic, seed=seed
                )

        return from_optuna(make, self.kind)
