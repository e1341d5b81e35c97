"""A study over a grid of settings: activations, architectures and horizons, one factor at a time and at the corners.

Every cell is a small training problem. Each tuned column is run with three learning rates: the one that is best on the
centre cell (the family a person would tune on), the one that is best over the whole grid, and the one that is best on
the cell itself (the oracle). Rates are chosen on data, starts and minibatches that nothing reported comes from.
"""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.study.columns import Column, columns
from experiments.study.grid.cells import GridCell, cells, family_of
from experiments.study.grid.config import Grid
from experiments.study.grid.ways import WAYS, choose
from experiments.study.losses import final, log_loss
from experiments.study.pieces import Arrays, Pieces, apart, together
from experiments.study.rates import name_of_rate, rates_of
from experiments.study.runner import Runner
from l2o.core import BaselineConfig
from l2o.errors import UserError
from l2o.registry import kinds


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      columns: the optimizers.
      cells: the settings, the centre first.
      left_out: lines on settings whose data are not on this machine.
    """

    study: Grid
    columns: list[Column]
    cells: list[GridCell]
    left_out: list[str]

    @property
    def opening(self) -> str:
        """How much it is."""
        size = f"{len(self.cells)} cells, {len(self.columns)} optimizers, {self.study.runs} runs each"
        return "\n".join([*self.left_out, size])

    @property
    def tuned(self) -> list[Column]:
        """The columns whose learning rates are chosen."""
        return [column for column in self.columns if column.tuned]

    @property
    def pieces(self) -> int:
        """In each cell one for the runs of a column, and one for tuning it."""
        return len(self.cells) * (len(self.columns) + len(self.tuned))


class Found(NamedTuple):
    """What was found.

    Attributes:
      rates: of each tuned column [way, cell], the ways being `WAYS`.
      rows: for each column and way, "adam (grid)", and each cell: "value" [runs, horizon + 1] and measures [runs], the
        "seconds" per step of one run, and its "rate", None for one that is not tuned.
    """

    rates: dict[str, np.ndarray]
    rows: dict[str, list[dict[str, Any]]]


def plan(study: Grid) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist, or the reference or a group is not what it should be.
    """
    left_out: list[str] = []
    found = Plan(study, columns(study, groups=study.groups), cells(study, left_out.append), left_out)
    if study.reference not in [column.name for column in found.tuned]:
        raise UserError(f"reference: {study.reference!r} is none of the tuned optimizers of the grid")
    for name, members in study.groups.items():
        for member in members:
            if member in kinds(BaselineConfig):
                raise UserError(f"groups.{name}: {member!r} is a baseline, expected run directories")
    return found


def runner(grid: Grid, cell: GridCell, column: Column) -> Runner:
    """What runs a column on a cell."""
    config = family_of(grid, cell)
    families = {split: config.build(split) for split in ("train", "test")}
    return Runner(families, column, horizon=cell.horizon, seed=grid.seed, together=grid.tune.runs)


def run(plan: Plan, pieces: Pieces) -> Found:
    """Tune the columns on every cell, then run them."""
    study, rows = plan.study, {}
    scores: dict[str, list[np.ndarray]] = {column.name: [] for column in plan.tuned}
    for cell, column in itertools.product(plan.cells, plan.tuned):

        def tried(cell=cell, column=column) -> dict[str, Any]:
            return {"scores": _scores(study, cell, column)}

        made = pieces(f"cells/{cell.name}-{column.file}-tune", f"tuned {column.name} on {cell.name}", tried)
        scores[column.name].append(made["scores"])
    rates = {name: choose(np.stack(found), study) for name, found in scores.items()}
    for (index, cell), column in itertools.product(enumerate(plan.cells), plan.columns):
        chosen = [float(rate) for rate in rates[column.name][:, index]] if column.tuned else []
        arguments = {name_of_rate(rate): rate for rate in chosen or [column.argument]}

        def tested(cell=cell, column=column, arguments=arguments) -> dict[str, Any]:
            return together(_runs(study, cell, column, arguments))

        path = "-".join(filter(None, [f"cells/{cell.name}-{column.file}", *arguments]))
        runs = apart(pieces(path, f"ran {column.name} on {cell.name}", tested))
        for way, rate in zip(WAYS, chosen, strict=True) if column.tuned else [("", column.argument)]:
            name, which = f"{column.name} ({way})" if way else column.name, name_of_rate(rate)
            rows.setdefault(name, []).append({**runs[which], "rate": rate if which else None})
    return Found(rates, rows)


def _scores(study: Grid, cell: GridCell, column: Column) -> np.ndarray:
    """Mean log final loss of each rate on the cell's training split."""
    program, scores = runner(study, cell, column), []
    for rate in rates_of(study.tune):
        values, _ = program(float(rate), "train", study.tune.runs)
        scores.append(log_loss(final(values["value"]), study.floor).mean())
    jax.clear_caches()  # hundreds of programs in one process are more than its memory map can hold
    return np.array(scores)


def _runs(study: Grid, cell: GridCell, column: Column, arguments: dict[str, Any]) -> dict[str, Arrays]:
    """Runs on the cell's test split for each argument."""
    program, found = runner(study, cell, column), {}
    for name, argument in arguments.items():
        values, seconds = program(argument, "test", study.runs)
        found[name] = {**values, "seconds": np.array(seconds)}
    jax.clear_caches()
    return found
