"""A study of tuning: which method finds good settings of real models, or points of mixed spaces, in few trials.

Every column runs on the same tasks from the same seeds. Where it has several settings, the best on tuning tasks is
reported, and no reported task has a say in that.
"""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from experiments.study.pieces import Arrays, Pieces, in_batches
from experiments.study.tuning.columns import Run, TuningColumn, TuningSetting, columns, left_out, trained
from experiments.study.tuning.config import TUNE, Tuning
from experiments.study.tuning.live import Tried, checked, fitted
from experiments.study.tuning.score import score
from experiments.study.tuning.tasks import TuningCell, cells
from l2o.loaded import Loaded


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      optimizers: the trained ones, by name.
      columns: the methods.
      cells: all tasks.
      live: those on which settings are tried for real.
      lacking: what the columns lack that are left out, by name.
    """

    study: Tuning
    optimizers: dict[str, Loaded]
    columns: list[TuningColumn]
    cells: list[TuningCell]
    live: list[TuningCell]
    lacking: dict[str, str]

    @property
    def left_out(self) -> list[str]:
        """A sentence on each column that is left out."""
        return [f"left out {name}: {sentence}" for name, sentence in self.lacking.items()]

    @property
    def timed(self) -> list[TuningCell]:
        """The tasks on which seconds are measured: the first one of each group, if the study asks for it."""
        first = {cell.group: cell for cell in reversed(self.reported)} if self.study.timed else {}
        return [first[group] for group in self.study.tasks if group in first]

    @property
    def tuned_on(self) -> list[TuningCell]:
        """The tasks that settings are chosen on."""
        return [cell for cell in self.cells if cell.group == TUNE]

    @property
    def reported(self) -> list[TuningCell]:
        """The other tasks."""
        return reported_of(self.cells)

    @property
    def several(self) -> list[TuningColumn]:
        """The columns whose settings are chosen."""
        return [column for column in self.columns if len(column.settings) > 1]

    @property
    def opening(self) -> str:
        """How much it is."""
        said = (
            f"{len(self.reported)} tasks, {len(self.columns)} columns, up to {self.study.runs} runs of"
            f" {self.study.trials} trials each; settings of {len(self.several)} columns are chosen on"
            f" {len(self.tuned_on)} other tasks"
        )
        return "\n".join([said, *self.left_out])

    @property
    def pieces(self) -> int:
        """One for each setting on each task to tune on, each column on each other one, each time and each real fit."""
        settings = len(self.tuned_on) * sum(len(column.settings) for column in self.several)
        live = len(self.live) * len(self.study.live.columns if self.study.live else ())
        return settings + len(self.columns) * (len(self.reported) + len(self.timed)) + live


class Found(NamedTuple):
    """What was found.

    Attributes:
      runs: "x" and "y" by group, task and column.
      best: the setting of each column, by name.
      scores: of all its settings; none where there is one alone.
      live: settings that were tried for real.
      seconds: of a suggestion, by group and column.
    """

    runs: dict[str, dict[str, dict[str, Arrays]]]
    best: dict[str, TuningSetting]
    scores: dict[str, list[float]]
    live: list[Tried]
    seconds: dict[str, dict[str, float]]


def plan(study: Tuning) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer or a task does not exist or does not fit.
    """
    optimizers = trained(study)
    found, every = columns(study, optimizers), cells(study)
    return Plan(study, optimizers, found, every, checked(study, reported_of(every)), left_out(study))


def reported_of(every: list[TuningCell]) -> list[TuningCell]:
    """The tasks that are not for choosing settings."""
    return [cell for cell in every if cell.group != TUNE]


def run(plan: Plan, pieces: Pieces) -> Found:
    """Choose the settings of all columns, run them, and try what some found."""
    study, found = plan.study, Found({}, {}, {}, [], {})

    def runs(
        name: str, setting: TuningSetting, program: Run, some: list[TuningCell], count: int, width: int
    ) -> list[Arrays]:
        """What a setting does on some tasks; those that are one program follow each other."""
        arrays: dict[int, Arrays] = {}
        for i in sorted(range(len(some)), key=lambda i: some[i].dimension):
            cell = some[i]
            batches = partial(in_batches, partial(program, cell), cell.seeds[:count], width)
            arrays[i] = pieces(_file_of_runs(cell, name, setting), f"{name} on {cell.name}", batches)
        return [arrays[i] for i in range(len(some))]

    for column in plan.columns:
        programs = [setting.make(plan.cells) for setting in column.settings]
        number, width, scores = 0, min(study.batch, column.runs), []
        if column in plan.several and study.tune:
            width = min(width, study.tune.runs)  # one shape, one program
            for setting, program in zip(column.settings, programs, strict=True):
                values = runs(column.name, setting, program, plan.tuned_on, study.tune.runs, width)
                scores.append(score(study, plan.tuned_on, [arrays["y"] for arrays in values]))
            number = int(np.argmin(scores))
        setting = column.settings[number]
        found.best[column.name], found.scores[column.name] = setting, scores
        values = runs(column.name, setting, programs[number], plan.reported, column.runs, width)
        for cell, arrays in zip(plan.reported, values, strict=True):
            found.runs.setdefault(cell.group, {}).setdefault(cell.name, {})[column.name] = arrays
        for cell in plan.timed:
            time = partial(_time_of_suggestion, setting, plan.cells, cell)
            took = pieces(f"{_file_of_runs(cell, column.name, setting)}-seconds", f"{column.name}, seconds", time)
            found.seconds.setdefault(cell.group, {})[column.name] = float(took["seconds"])
        del programs
        jax.clear_caches()  # those of other columns are not needed again
    for cell in plan.live:
        for name in study.live.columns if study.live else ():
            fit = partial(fitted, study, cell, found.runs[cell.group][cell.name][name])
            path = f"{_file_of_runs(cell, name, found.best[name])}-live"
            found.live.append(Tried(cell, name, pieces(path, f"{name} live on {cell.name}", fit)))
    return found


def _time_of_suggestion(setting: TuningSetting, cells: list[TuningCell], cell: TuningCell) -> Arrays:
    return {"seconds": np.array(setting.time(cells, cell))}


def _file_of_runs(cell: TuningCell, name: str, setting: TuningSetting) -> str:
    return f"cells/{cell.group}/{cell.name}/{name}-{setting.identity}"
