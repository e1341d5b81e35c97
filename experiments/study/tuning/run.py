"""A study of tuning: which method finds good settings of real models, or points of mixed spaces, in few trials.

Every column runs on the same tasks from the same seeds. Where it has several settings, the best on tuning tasks is
reported, and no reported task has a say in that.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.progress import Say, pieces
from experiments.study.imitation.run import in_batches
from experiments.study.pieces import arrays_of, begin, save
from experiments.study.tuning import report as report_tuning
from experiments.study.tuning.columns import Arrays, Run, Setting, columns, trained
from experiments.study.tuning.config import TUNE, Tuning
from experiments.study.tuning.live import Found, checked, fitted
from experiments.study.tuning.results import score, summary
from experiments.study.tuning.tasks import Cell, cells
from l2o.files import write_whole


def run(study: Tuning, out: Path, say: Say = print, resume: bool = False) -> dict[str, Any]:
    """Run a study into a directory: cells/*/*/*.npz, results.json, curves.png, report.html, config.toml.

    Returns:
      The contents of results.json, see `experiments.study.tuning.results.summary`.

    Raises:
      UserError: the directory is in use or holds another study, or the optimizer does not exist or does not fit.
    """
    optimizer = trained(study)
    found = columns(study, optimizer and optimizer[1])
    every = cells(study)
    tuning = [cell for cell in every if cell.group == TUNE]
    reported = [cell for cell in every if cell.group != TUNE]
    live = checked(study, reported)
    folder = begin(study, out, resume)
    several = [column for column in found if len(column.settings) > 1]
    total = len(tuning) * sum(len(column.settings) for column in several)
    total += len(found) * len(reported) + len(live) * len(study.live.columns if study.live else ())
    say(
        f"{len(reported)} tasks, {len(found)} columns, up to {study.runs} runs of {study.trials} trials each;"
        f" settings of {len(several)} columns are chosen on {len(tuning)} other tasks"
    )
    took, chosen = 0.0, {}
    best: dict[str, Setting] = {}
    made: dict[str, dict[str, dict[str, Arrays]]] = {}  # by group, task and column
    with pieces(total, say) as done:

        def piece(path: Path, what: str, program: Callable[[], Arrays]) -> Arrays:
            nonlocal took
            if not path.is_file():
                start = time.perf_counter()
                arrays = program()
                save(path, **arrays, took=np.array(time.perf_counter() - start))
            arrays = arrays_of(path)
            took += float(arrays.pop("took"))
            done(what)
            return arrays

        def runs(name: str, setting: Setting, program: Run, some: list[Cell], count: int, width: int) -> list[Arrays]:
            """What a setting does on some tasks; those that are one program follow each other."""
            arrays: dict[int, Arrays] = {}
            for i in sorted(range(len(some)), key=lambda i: some[i].dimension):
                cell = some[i]
                path = folder / cell.group / cell.name / f"{name}-{setting.identity}.npz"

                def batches(cell=cell) -> Arrays:
                    return in_batches(lambda seeds: program(cell, seeds), cell.seeds[:count], width)

                arrays[i] = piece(path, f"{name} on {cell.name}", batches)
            return [arrays[i] for i in range(len(some))]

        for column in found:
            programs = [setting.make(every) for setting in column.settings]
            number, width, scores = 0, min(study.batch, column.runs), []
            if column in several and study.tune:
                width = min(width, study.tune.runs)  # one shape, one program
                for setting, program in zip(column.settings, programs, strict=True):
                    values = runs(column.name, setting, program, tuning, study.tune.runs, width)
                    scores.append(score(study, tuning, [arrays["y"] for arrays in values]))
                number = int(np.argmin(scores))
            best[column.name] = column.settings[number]
            chosen[column.name] = {
                "settings": best[column.name].choice,
                "scores": [
                    {"settings": setting.choice, "score": value}
                    for setting, value in zip(column.settings, scores, strict=False)
                ],
            }
            values = runs(column.name, best[column.name], programs[number], reported, column.runs, width)
            for cell, arrays in zip(reported, values, strict=True):
                made.setdefault(cell.group, {}).setdefault(cell.name, {})[column.name] = arrays
            del programs
            jax.clear_caches()  # those of other columns are not needed again
        seen: list[Found] = []
        for cell in live:
            for name in study.live.columns if study.live else ():
                path = folder / cell.group / cell.name / f"{name}-{best[name].identity}-live.npz"
                one = made[cell.group][cell.name][name]
                worth = piece(path, f"{name} live on {cell.name}", lambda c=cell, a=one: fitted(study, c, a))
                seen.append(Found(cell, name, worth))
    results = summary(study, reported, made, chosen, seen, optimizer)
    results["seconds"] = round(took, 1)
    write_whole(out / "results.json", json.dumps(results) + "\n")
    report_tuning.write(out, results)
    return results
