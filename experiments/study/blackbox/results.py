"""What a study of black-box optimizers reports: regrets, paired comparisons, ranks, gaps to a reference."""

from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.blackbox.config import BlackBox
from experiments.study.blackbox.run import Found, Plan, Seconds, Values
from experiments.study.columns import Column, checksums, label
from experiments.study.statistics import as_json


def regrets(values: dict[str, np.ndarray], f_opt: np.ndarray) -> dict[str, np.ndarray]:
    """Simple regret after each evaluation [runs, evaluations], from values of each column and the minima [runs].

    Failed evaluations count as infinite. A minimum is never above the lowest value that a column found.
    """
    best = {
        name: np.minimum.accumulate(np.where(np.isfinite(v), v, np.inf).astype(np.float64), axis=1)
        for name, v in values.items()
    }
    lowest = np.minimum(f_opt, np.min([b[:, -1] for b in best.values()], axis=0))
    return {name: b - lowest[:, None] for name, b in best.items()}


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json.

    Returns:
      "cells": for each its name, and for each column "regret" of every run at the reported steps, "mean" of them with
      intervals, "curve", "gap" to the reference with an interval, "seconds" per proposal and "failed" evaluations.
      "comparisons": of each learned optimizer with each other column, run by run, for each cell and step.
      "columns": over all cells, best rank first: mean "rank" at the last step, "ratio" of mean regrets to that of
      `relative_to` (geometric mean over cells) and "won", the share of runs that each learned optimizer wins, by step.
    """
    study, (values, optima, seconds) = plan.study, found
    learned = [column for column in plan.columns if column.learned]
    regret = {cell: regrets(values[cell], optima[cell]) for cell in values}
    names = list(next(iter(regret.values())))
    # below the floor, rounding decides which of two is lower
    equal = {cell: {name: np.maximum(r, study.floor) for name, r in of.items()} for cell, of in regret.items()}
    return {
        **checksums(learned),
        "cells": [
            {"cell": cell, "columns": {n: _of_column(study, n, r, values[cell], seconds[cell]) for n in names}}
            for cell, r in regret.items()
        ],
        "comparisons": [
            {"optimizer": ours.name, "against": other, "cell": cell, "step": step,
             **statistics.paired(of[ours.name][:, step - 1], of[other][:, step - 1])}
            for ours in learned for cell, of in equal.items() for step in study.steps for other in names
            if other != ours.name
        ],
        "columns": sorted(_columns_over_cells(study, equal, seconds, learned), key=lambda column: column["rank"][0]),
        "groups": {name: _over_seeds(study, equal, [label(m) if label(m) in names else m for m in members])
                   for name, members in study.groups.items()} if study.relative_to else {},
    }  # fmt: skip


def _of_column(
    study: BlackBox, name: str, found: dict[str, np.ndarray], values: dict[str, np.ndarray], seconds: Seconds
) -> dict[str, Any]:
    ours = found[name]
    at = {str(step): ours[:, step - 1] for step in study.steps}
    gaps = {}
    if study.reference and study.relative_to and name != study.reference:
        for step in study.steps:
            some = [found[n][:, step - 1] for n in (name, study.reference, study.relative_to)]
            gaps[str(step)] = as_json(statistics.bootstrap(_relative_gap, some, seed=study.seed))
    return {
        "regret": {step: as_json(regret) for step, regret in at.items()},
        "mean": {step: as_json(statistics.interval(regret)) for step, regret in at.items()},
        "curve": statistics.curve(ours),
        "gap": gaps,
        "seconds": {way: as_json([s])[0] for way, s in seconds[name].items()},
        "failed": int((~np.isfinite(values[name])).sum()),
    }


def _relative_gap(ours: np.ndarray, reference: np.ndarray, random: np.ndarray) -> np.ndarray:
    return (ours - reference) / random


def _columns_over_cells(
    study: BlackBox, found: Values, seconds: dict[str, Seconds], learned: list[Column]
) -> list[dict[str, Any]]:
    from scipy.stats import rankdata

    names = list(next(iter(found.values())))
    last = np.array([[of[name][:, study.steps[-1] - 1] for name in names] for of in found.values()])
    ranks = rankdata(last, axis=1).mean(0)  # [column, run], the mean over cells
    rows = []
    for i, name in enumerate(names):
        won = {}
        for ours in learned:
            if ours.name != name:
                pairs = {s: [np.concatenate([of[n][:, s - 1] for of in found.values()]) for n in (ours.name, name)]
                         for s in study.steps}  # fmt: skip
                compared = {s: statistics.paired(*pair) for s, pair in pairs.items()}
                won[ours.name] = {
                    str(s): [c["win_rate"], c["win_rate_low"], c["win_rate_high"]] for s, c in compared.items()
                }
        rows.append(
            {
                "name": name,
                "rank": as_json(statistics.interval(ranks[i])),
                "ratio": {str(s): as_json([_ratio_of_regrets(study, found, name, s)])[0] for s in study.steps},
                "won": won,
                "seconds": {
                    way: as_json([np.mean([of[name][way] for of in seconds.values()])])[0] for way in ("alone", "batch")
                },
            }
        )
    return rows


def _ratio_of_regrets(study: BlackBox, found: Values, name: str, step: int) -> float:
    """Mean regret over that of `relative_to`, the geometric mean over cells; NaN where there is none."""
    if study.relative_to is None:
        return np.nan
    with np.errstate(invalid="ignore"):  # infinite over infinite
        ratios = [of[name][:, step - 1].mean() / of[study.relative_to][:, step - 1].mean() for of in found.values()]
    return float(np.exp(np.mean(np.log(ratios))))


def _over_seeds(study: BlackBox, found: Values, members: list[str]) -> dict[str, list[float | None]]:
    """Over meta-training seeds: the ratio to `relative_to`, its geometric mean and interval, by step."""
    logs = {s: np.log([_ratio_of_regrets(study, found, member, s) for member in members]) for s in study.steps}
    return {str(s): as_json(np.exp(statistics.interval(of))) for s, of in logs.items()}
