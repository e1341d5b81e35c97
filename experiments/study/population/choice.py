"""What a column of a study of evolution strategies is run with, and which of several choices is the best."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.study.population.config import PopulationTune


class Choice(NamedTuple):
    """What a column is run with.

    Attributes:
      scale: factor of the initial standard deviation.
      learning_rate: None for columns that have none, or set it themselves.
    """

    scale: float
    learning_rate: float | None = None

    def edge(self, tune: PopulationTune) -> bool:
        """Whether it lies at an end of a grid that was tried."""
        pairs = ((self.scale, tune.scales), (self.learning_rate, tune.learning_rates))
        return any(len(grid) > 1 and value in (min(grid), max(grid)) for value, grid in pairs)

    def said(self, tune: PopulationTune) -> str:
        """As text."""
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:g}"
        return f"sigma x {self.scale:g}{rate}{' (at the edge of the grid)' if self.edge(tune) else ''}"


def clipped(values: np.ndarray, floor: float | None) -> np.ndarray:
    """Values to be compared: infinite where not finite, and equal below the floor."""
    values = np.where(np.isfinite(values), values, np.inf)
    return values if floor is None else np.maximum(values, floor)


def choose(last: np.ndarray, optima: Sequence[np.ndarray | None], floor: float) -> int:
    """The candidate of the lowest mean rank, run by run; the first of equal ones.

    Args:
      last: final values [candidates, cells, runs].
      optima: of each cell [runs], None where unknown.
      floor: smaller regrets are equal.
    """
    from scipy.stats import rankdata

    values = [
        clipped(last[:, i], None) if optimum is None else clipped(last[:, i] - optimum, floor)
        for i, optimum in enumerate(optima)
    ]
    return int(np.argmin(rankdata(np.stack(values, axis=1), axis=0).mean((1, 2))))
