"""A check of tables: the settings that columns found in them, tried by fitting the models."""

from typing import Any, NamedTuple

import numpy as np

from experiments.study.tuning.config import Tuning
from experiments.study.tuning.tasks import TuningCell
from l2o.errors import UserError
from tasks.hpo.hpo import live
from tasks.hpo.models import GOALS, SPACES


class Tried(NamedTuple):
    """A setting that was tried.

    Attributes:
      cell: the task.
      column: that found it.
      arrays: see `fitted`.
    """

    cell: TuningCell
    column: str
    arrays: dict[str, np.ndarray]


def checked(study: Tuning, cells: list[TuningCell]) -> list[TuningCell]:
    """The tasks on which settings are tried.

    Raises:
      UserError: there is none.
    """
    if study.live is None:
        return []
    some = [cell for cell in cells if cell.group == study.live.group and _view_of_cell(cell) == study.live.view]
    if not some:
        raise UserError(f"live.view: no task of the group {study.live.group!r} is of part {study.live.view}")
    return some


def _view_of_cell(cell: TuningCell) -> int | None:
    return cell.which.view if cell.which else None


def best_setting(cell: TuningCell, arrays: dict[str, np.ndarray], trial: int) -> tuple[dict[str, Any], float]:
    """The best setting among the first trials of the first run, and what the table says of it, in its own direction."""
    assert cell.which is not None
    y = arrays["y"][0, :trial]
    row = int(np.argmin(np.where(np.isfinite(y), y, np.inf)))
    sign = 1.0 if GOALS[cell.which.metric] == "minimize" else -1.0
    return SPACES[cell.which.model].from_point(arrays["x"][0, row]), sign * float(y[row])


def fitted(study: Tuning, cell: TuningCell, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the table says of the best setting, and what it is really worth; NaN where the fit fails."""
    assert study.live is not None and cell.which is not None
    setting, said = best_setting(cell, arrays, study.live.trial)
    dataset, view, model, metric = cell.which
    return {"table": np.array(said), "live": np.array(live(dataset, model, metric, setting, view))}
