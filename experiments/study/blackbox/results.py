"""What a study of black-box optimizers reports: regrets, paired comparisons, ranks, gaps to a reference."""

from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.base import BlackBox
from experiments.study.curves.run import Column, label

Values = dict[str, dict[str, np.ndarray]]  # by cell and by column
Seconds = dict[str, dict[str, float]]  # per proposal, by column and by way of running it


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


def summary(
    study: BlackBox, values: Values, optima: dict[str, np.ndarray], seconds: dict[str, Seconds],
    learned: list[Column],
) -> dict[str, Any]:  # fmt: skip
    """results.json.

    Returns:
      "cells": for each its name, and for each column "regret" of every run at the reported steps, "mean" of them with
      intervals, "curve", "gap" to the reference with an interval, "seconds" per proposal and "failed" evaluations.
      "comparisons": of each learned optimizer with each other column, run by run, for each cell and step.
      "columns": over all cells, best rank first: mean "rank" at the last step, "ratio" of mean regrets to that of
      `relative_to` (geometric mean over cells) and "won", the share of runs that each learned optimizer wins, by step.
    """
    found = {cell: regrets(values[cell], optima[cell]) for cell in values}
    names = list(next(iter(found.values())))
    # below the floor, rounding decides which of two is lower
    equal = {cell: {name: np.maximum(r, study.floor) for name, r in of.items()} for cell, of in found.items()}
    return {
        "study": study.model_dump(mode="json"),
        "learned": [column.name for column in learned],
        "sha256": {column.name: column.sha256 for column in learned},
        "cells": [
            {"cell": cell, "columns": {n: _column(study, n, found[cell], values[cell], seconds[cell]) for n in names}}
            for cell in found
        ],
        "comparisons": [
            {"optimizer": ours.name, "against": other, "cell": cell, "step": step,
             **statistics.paired(of[ours.name][:, step - 1], of[other][:, step - 1])}
            for ours in learned for cell, of in equal.items() for step in study.steps for other in names
            if other != ours.name
        ],
        "columns": sorted(_over_cells(study, equal, seconds, learned), key=lambda column: column["rank"][0]),
        "groups": {name: _group(study, equal, [label(m) if label(m) in names else m for m in members])
                   for name, members in study.groups.items()} if study.relative_to else {},
    }  # fmt: skip


def _column(
    study: BlackBox, name: str, found: dict[str, np.ndarray], values: dict[str, np.ndarray], seconds: Seconds
) -> dict[str, Any]:
    ours = found[name]
    at = {str(step): ours[:, step - 1] for step in study.steps}
    gaps = {}
    if study.reference and study.relative_to and name != study.reference:
        for step in study.steps:
            some = [found[n][:, step - 1] for n in (name, study.reference, study.relative_to)]
            gaps[str(step)] = _json(statistics.bootstrap(_gap, some, seed=study.seed))
    return {
        "regret": {step: _json(regret) for step, regret in at.items()},
        "mean": {step: _json(statistics.interval(regret)) for step, regret in at.items()},
        "curve": statistics.curve(ours),
        "gap": gaps,
        "seconds": {way: _json([s])[0] for way, s in seconds[name].items()},
        "failed": int((~np.isfinite(values[name])).sum()),
    }


def _gap(ours: np.ndarray, reference: np.ndarray, random: np.ndarray) -> np.ndarray:
    return (ours - reference) / random


def _over_cells(
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
                "rank": _json(statistics.interval(ranks[i])),
                "ratio": {str(s): _json([_ratio(study, found, name, s)])[0] for s in study.steps},
                "won": won,
                "seconds": {
                    way: _json([np.mean([of[name][way] for of in seconds.values()])])[0] for way in ("alone", "batch")
                },
            }
        )
    return rows


def _ratio(study: BlackBox, found: Values, name: str, step: int) -> float:
    """Mean regret over that of `relative_to`, the geometric mean over cells; NaN where there is none."""
    if study.relative_to is None:
        return np.nan
    with np.errstate(invalid="ignore"):  # infinite over infinite
        ratios = [of[name][:, step - 1].mean() / of[study.relative_to][:, step - 1].mean() for of in found.values()]
    return float(np.exp(np.mean(np.log(ratios))))


def _group(study: BlackBox, found: Values, members: list[str]) -> dict[str, list[float | None]]:
    """Over meta-training seeds: the ratio to `relative_to`, its geometric mean and interval, by step."""
    logs = {s: np.log([_ratio(study, found, member, s) for member in members]) for s in study.steps}
    return {str(s): _json(np.exp(statistics.interval(of))) for s, of in logs.items()}


def _json(values: Any) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
