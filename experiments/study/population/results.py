"""What a study of evolution strategies reports: choices, ranks, runtime distributions, who wins where, measures."""

from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.columns import checksums
from experiments.study.population.choice import clipped
from experiments.study.population.config import Population
from experiments.study.population.run import Found, Plan
from experiments.study.statistics import as_json

TARGETS = 10.0 ** np.linspace(2, -8, 51)  # above the minimum, as COCO's
BUDGETS = 100  # points of the runtime distribution over all dimensions
RunsByCell = dict[str, dict[str, dict[str, np.ndarray]]]  # by cell and by column: "best" [runs, generations], ...
Facts = dict[str, tuple[str, str, int, bool]]  # by cell: task, function, dimension, whether its minima are known


def reached(regret: np.ndarray) -> np.ndarray:
    """The share of targets and runs that are reached after each generation, from regrets [runs, generations]."""
    return (clipped(regret, None)[..., None] <= TARGETS).mean((0, 2))


def area(share: np.ndarray) -> float:
    """The mean of `reached` over the logarithm of the number of generations; the last one counts as the others do."""
    g = np.arange(1, len(share) + 1)
    return float(share @ np.log((g + 1) / g) / np.log(len(share) + 1))


def ecdf(study: Population, facts: Facts, runs: RunsByCell, names: list[str]) -> dict[str, dict[str, Any]]:
    """Runtime distributions, by the title of a panel: "x", evaluations per dimension, and "columns", a series for each.

    Only of cells whose minima are known. In the panel of all dimensions, a cell whose runs are over stays as it is.
    """
    known = [cell for cell in facts if facts[cell][3]]
    shares = {cell: {n: reached(runs[cell][n]["best"]) for n in names} for cell in known}
    dimensions = sorted({facts[cell][2] for cell in known})
    evaluations = np.arange(1, study.generations + 1) * study.population_size
    panels = {}
    for d in dimensions:
        mine = [cell for cell in known if facts[cell][2] == d]
        series = {n: np.mean([shares[c][n] for c in mine], axis=0).tolist() for n in names}
        panels[f"d = {d}"] = {"x": (evaluations / d).tolist(), "columns": series}
    if len(dimensions) > 1:
        x = np.geomspace(evaluations[0] / dimensions[-1], evaluations[-1] / dimensions[0], BUDGETS)
        # relative to rounding, so that the first and the last generation are found
        at = {c: np.floor(x * facts[c][2] / study.population_size * (1 + 1e-9)).astype(int) for c in known}
        series = {
            n: np.mean([np.append(0, shares[c][n])[np.minimum(at[c], study.generations)] for c in known], axis=0)
            for n in names
        }
        panels["all dimensions"] = {"x": x.tolist(), "columns": {n: s.tolist() for n, s in series.items()}}
    return panels


def parts(study: Population, facts: Facts) -> dict[str, list[str]]:
    """The sets of cells that comparisons are made over, without empty ones."""
    seen = study.trained
    functions = [c for c in facts if facts[c][1] and seen.functions and facts[c][1] not in seen.functions]
    dimensions = [c for c in facts if facts[c][1] and seen.dimensions and facts[c][2] not in seen.dimensions]
    found = {
        "all cells": list(facts),
        "held-out functions": functions,
        "held-out dimensions": dimensions,
        "both held out": [c for c in functions if c in dimensions],
    }
    return {name: some for name, some in found.items() if some}


def won(study: Population, facts: Facts, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Who of two is lower, over pairs of values [runs] in some cells; ties are half a win.

    Returns:
      "rate"; "wilson", its interval as if all runs were independent; and "functions", its interval over resampled
      functions (cells where they have none), whose runs are not: None where there is only one.
    """
    ours, theirs = (np.concatenate([pair[i] for pair in pairs.values()]) for i in (0, 1))
    paired = statistics.paired(ours, theirs)
    wins: dict[str, list[np.ndarray]] = {}
    for cell, (a, b) in pairs.items():
        wins.setdefault(facts[cell][1] or cell, []).append((a < b) + (a == b) / 2)
    groups = [np.concatenate(some) for some in wins.values()]
    interval = None
    if len(groups) > 1:
        sums = [np.array([w.sum() for w in groups]), np.array([len(w) for w in groups])]
        interval = list(statistics.bootstrap(lambda w, n: w / n, sums, seed=study.seed)[1:])
    return {
        "rate": paired["win_rate"], "wilson": [paired["win_rate_low"], paired["win_rate_high"]], "functions": interval,
    }  # fmt: skip


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json.

    Returns:
      "cells": for each its name, task, function, dimension, in which `parts` it is, whether its minima are "known", and
      for each column "final" values of every run at the steps (regrets where known), their "median" at the last, its
      mean "rank" then, and "measures" of every run with mean and interval.
      "columns": over all cells, best rank first: "rank", "area" under the runtime distribution, "won" by learned
      optimizer, part and step, see `won`, "seconds" per evaluation in a batch.
      "chosen": factor of sigma and learning rate, by task and column. "ecdf": see there.
      "comparisons": of measures, of each learned optimizer with each other column, cell by cell.
    """
    from scipy.stats import rankdata

    study, (runs, known, chosen) = plan.study, found
    facts: Facts = {c.name: (c.task, c.function, c.dimension, known[c.name]) for c in plan.cells}
    learned = [column for column in plan.columns if column.learned]
    names = list(next(iter(runs.values())))
    # below the floor, rounding decides which of two is lower
    values = {
        cell: {n: clipped(of[n]["best"], study.floor if facts[cell][3] else None) for n in names}
        for cell, of in runs.items()
    }
    ranks = {
        cell: rankdata([of[n][:, study.steps[-1] - 1] for n in names], axis=0).mean(1) for cell, of in values.items()
    }
    some, evaluations = parts(study, facts), study.runs * study.generations * study.population_size
    columns = [
        {
            "name": n,
            "rank": float(np.mean([ranks[cell][i] for cell in facts])),
            "area": _mean_or_none([area(reached(runs[cell][n]["best"])) for cell in facts if facts[cell][3]]),
            "seconds": float(np.mean([runs[cell][n]["seconds"] for cell in facts]) / evaluations),
            "won": {
                ours.name: _won_by_part(study, facts, values, some, ours.name, n) for ours in learned if ours.name != n
            },
        }
        for i, n in enumerate(names)
    ]
    return {
        **checksums(learned),
        "chosen": {
            task: {n: {**c._asdict(), "edge": c.edge(study.tune)} for n, c in of.items()} for task, of in chosen.items()
        },
        "cells": [
            {
                "cell": cell, "task": task, "function": function, "dimension": dimension, "known": known,
                "parts": [name for name, members in some.items() if cell in members],
                "columns": {n: _column_in_cell(study, runs[cell][n], ranks[cell][i]) for i, n in enumerate(names)},
            }
            for cell, (task, function, dimension, known) in facts.items()
        ],
        "columns": sorted(columns, key=lambda column: column["rank"]),
        "ecdf": ecdf(study, facts, runs, names),
        "comparisons": [
            {"optimizer": ours.name, "against": n, "cell": cell, "measure": measure,
             **_better_wins(study, runs[cell][ours.name][f"measure {measure}"], runs[cell][n][f"measure {measure}"])}
            for ours in learned for measure in study.measures for cell in facts for n in names
            if n != ours.name and f"measure {measure}" in runs[cell][n]
        ],
    }  # fmt: skip


def _won_by_part(
    study: Population,
    facts: Facts,
    values: dict[str, dict[str, np.ndarray]],
    some: dict[str, list[str]],
    a: str,
    b: str,
) -> dict[str, dict[str, Any]]:
    return {
        part: {
            str(s): won(
                study, facts, {cell: (values[cell][a][:, s - 1], values[cell][b][:, s - 1]) for cell in members}
            )
            for s in study.steps
        }
        for part, members in some.items()
    }


def _column_in_cell(study: Population, ours: dict[str, np.ndarray], rank: float) -> dict[str, Any]:
    measured = {name: ours[f"measure {name}"] for name in study.measures if f"measure {name}" in ours}
    return {
        "final": {str(s): as_json(ours["best"][:, s - 1]) for s in study.steps},
        "median": as_json([np.median(clipped(ours["best"][:, study.steps[-1] - 1], None))])[0],
        "rank": float(rank),
        "measures": {
            name: {"runs": as_json(v), "mean": as_json(statistics.interval(v))} for name, v in measured.items()
        },
    }  # fmt: skip


def _better_wins(study: Population, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """As `statistics.paired`, in the measure's own sign: the better one wins."""
    if not study.higher:
        return statistics.paired(ours, theirs)
    found = statistics.paired(*(np.where(np.isfinite(v), -v, np.inf) for v in (ours, theirs)))
    if found["difference"] is not None:
        found |= {"difference": -found["difference"], "low": -found["high"], "high": -found["low"]}
    return found


def _mean_or_none(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
