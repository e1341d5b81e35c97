"""SMAC3 on the host: random forests and expected improvement."""

import math
import shutil
import tempfile
import weakref
from importlib import import_module
from typing import Any, Literal

import numpy as np

from l2o.core import BaselineConfig, HostOptimizer
from l2o.errors import UserError
from l2o.lift.coordinates import Coordinate, from_tuner, not_installed, whole
from l2o.registry import register


@register
class SMACConfig(BaselineConfig):
    """SMAC3 (Lindauer et al. 2022), its facade for hyperparameters as it is by default. Needs the package `smac`.

    It is told how many trials there will be, which decides how many of them are its initial design.
    """

    kind: Literal["smac"] = "smac"

    @property
    def lacks(self) -> str:
        return not_installed(self.kind, {"smac": "smac"})

    def build(self) -> HostOptimizer:
        def make(coordinates: list[Coordinate], seed: int, horizon: int) -> "Forest":
            if self.lacks:
                raise UserError(self.lacks)
            return Forest(coordinates, seed, horizon)

        return from_tuner(make, self.kind)


class Forest:
    """A run of SMAC3; what it writes goes to a folder that is removed with it."""

    def __init__(self, coordinates: list[Coordinate], seed: int, horizon: int) -> None:
        smac, spaces = import_module("smac"), import_module("ConfigSpace")
        # its bounds have ten digits, and points of single precision have seven that mean something
        coordinates = [
            each._replace(low=float(f"{each.low:.7g}"), high=float(f"{each.high:.7g}")) for each in coordinates
        ]
        space = spaces.ConfigurationSpace(seed=seed)
        for i, each in enumerate(coordinates):
            low, high = whole(each.low, each), whole(each.high, each)
            if each.kind == "category":
                space.add(spaces.CategoricalHyperparameter(f"x{i}", list(range(int(high) + 1))))
            elif each.kind == "integer":
                space.add(spaces.UniformIntegerHyperparameter(f"x{i}", low, high, log=each.log))
            else:
                space.add(spaces.UniformFloatHyperparameter(f"x{i}", low, high, log=each.log))
        folder = tempfile.mkdtemp(prefix="smac")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        scenario = smac.Scenario(space, output_directory=folder, deterministic=True, n_trials=horizon, seed=seed)
        self._run = smac.HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, logging_level=False, overwrite=True
        )
        self._coordinates, self._space = coordinates, space
        self._open: list[tuple[np.ndarray, Any]] = []
        self._failed: list[Any] = []  # before there was any value
        self._worst = -math.inf

    def suggest(self) -> np.ndarray:
        info = self._run.ask()
        setting = np.array([info.config[f"x{i}"] for i in range(len(self._coordinates))], float)
        self._open.append((setting, info))
        return setting

    def observe(self, setting: np.ndarray, value: float) -> None:
        """Enter a value; a failure has the worst one so far, because the forest takes finite numbers alone."""
        value_of_trial = import_module("smac.runhistory.dataclasses").TrialValue
        told = [self._trial(setting)]
        if math.isfinite(value):
            self._worst = max(self._worst, value)
            self._run.tell(told.pop(), value_of_trial(value), save=False)
        self._failed += told
        while self._failed and math.isfinite(self._worst):
            self._run.tell(self._failed.pop(), value_of_trial(self._worst), save=False)

    def _trial(self, setting: np.ndarray) -> Any:
        """The trial that was asked for, or one of a setting that was not."""
        for i, (asked, info) in enumerate(self._open):
            if np.allclose(asked, setting, rtol=1e-5, atol=0):
                del self._open[i]
                return info
        pairs = zip(setting, self._coordinates, strict=True)
        values = {f"x{i}": whole(number, each) for i, (number, each) in enumerate(pairs)}
        config = import_module("ConfigSpace").Configuration(self._space, values)
        return import_module("smac.runhistory.dataclasses").TrialInfo(config, seed=0)
