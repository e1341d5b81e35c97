"""What a grid reports: for each column and cell, and for each column over the grid, ratios to the reference."""

from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.columns import checksums, label
from experiments.study.grid.cells import GridCell
from experiments.study.grid.config import Grid
from experiments.study.grid.run import Found, Plan
from experiments.study.grid.ways import WAYS, rivals
from experiments.study.losses import final, log_loss, smoothed
from experiments.study.time_to_result import profile_scores, steps_to

HELDOUT_FLOOR = 1e-4


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json.

    Returns:
      "columns": for each its numbers over the grid, against the reference, and for each of its "cells". "rates" that
      are best on the centre and over the grid. "groups": ratios with intervals over meta-training seeds. "curves":
      smoothed losses of some columns on each cell, one value "every" so many steps.
    """
    grid, settings, rows, rates = plan.study, plan.cells, found.rows, found.rates
    learned = [column for column in plan.columns if column.learned]
    reference, centre = (f"{grid.reference} ({way})" for way in ("grid", "centre"))
    logs = {name: np.stack([log_loss(final(r["value"]), grid.floor) for r in runs]) for name, runs in rows.items()}
    held = {name: np.stack([log_loss(r["heldout_loss"], HELDOUT_FLOOR) for r in runs]) for name, runs in rows.items()}
    targets = np.exp(logs[reference].mean(1))
    reached = {
        name: [steps_to(r["value"], target) for r, target in zip(runs, targets, strict=True)]
        for name, runs in rows.items()
    }
    table = []
    for name, runs in rows.items():
        ratio, heldout = logs[name] - logs[reference], held[name] - held[reference]
        speed = [np.log(_reached_or_twice(a, c) / _reached_or_twice(b, c)) for a, b, c in
                 zip(reached[name], reached[reference], settings, strict=True)]  # fmt: skip
        wins = (ratio < 0) + 0.5 * (ratio == 0)
        table.append(
            {
                "name": name,
                "learned": name in [column.name for column in learned],
                "loss": _exponential(statistics.interval(logs[name].mean(0))),
                "ratio": _exponential(statistics.interval(ratio.mean(0))),
                "heldout_ratio": _exponential(statistics.interval(heldout.mean(0))),
                "steps_ratio": _exponential(statistics.interval(np.stack(speed).mean(0))),
                "win_rate": list(statistics.interval(wins.mean(0))),
                "worst": _worst_cell(settings, ratio),
                "worst_by_centre": _worst_cell(settings, logs[name] - logs[centre]),
                "diverged": int(sum((~np.isfinite(r["value"]).all(1)).sum() for r in runs)),
                "accuracy": float(np.mean([r["heldout_accuracy"].mean() for r in runs])),
                "microseconds": float(np.exp(np.mean([np.log(r["seconds"] * 1e6) for r in runs]))),
                "cells": [
                    {
                        "cell": cell.name, "rate": r["rate"], "loss": float(np.exp(logs[name][i].mean())),
                        "ratio": _exponential(statistics.interval(ratio[i])),
                        "heldout_loss": float(np.exp(held[name][i].mean())),
                        "accuracy": float(r["heldout_accuracy"].mean()),
                        "diverged": int((~np.isfinite(r["value"]).all(1)).sum()),
                        "steps": _or_none(np.median(reached[name][i])),
                        "seconds": _or_none(np.median(reached[name][i]) * float(r["seconds"])),
                    }
                    for i, (cell, r) in enumerate(zip(settings, runs, strict=True))
                ],
            }
        )  # fmt: skip
    for column, scores in zip(table, profile_scores(table, rivals(table)), strict=True):
        column["profile"] = scores
    ratios = {name: (logs[name] - logs[reference]).mean(1) for name in rows}
    groups = {
        name: np.stack([ratios[m if m in ratios else label(m)] for m in members], axis=1)
        for name, members in grid.groups.items()
    }
    return {
        "reference": reference,
        "cells": [cell._asdict() for cell in settings],
        "targets": targets.tolist(),
        **checksums(learned),
        "rates": {name: dict(zip(WAYS[:2], chosen[:2, 0].tolist(), strict=True)) for name, chosen in rates.items()},
        "columns": table,
        "groups": {name: [_exponential(statistics.interval(r)) for r in of_cells] for name, of_cells in groups.items()},
        "curves": _curves(grid, rows, table, reference),
    }


def _curves(
    grid: Grid, rows: dict[str, list[dict[str, Any]]], table: list[dict[str, Any]], reference: str
) -> dict[str, list[dict[str, Any]]]:
    """Geometric mean losses of learned columns, the reference, and rules with a cosine schedule."""
    columns = sorted(table, key=lambda column: column["ratio"][0])
    names = [column["name"] for column in columns if column["learned"]]
    names += [reference, *(c["name"] for c in columns if c["name"].endswith("-cosine (grid)"))]
    return {name: [smoothed(row["value"], grid.floor) for row in rows[name]] for name in names}


def _worst_cell(settings: list[GridCell], ratio: np.ndarray) -> dict[str, Any]:
    """The cell with the largest geometric mean of ratios, from their logarithms [cell, run]."""
    means = ratio.mean(1)
    return {"cell": settings[int(means.argmax())].name, "ratio": float(np.exp(means.max()))}


def _reached_or_twice(steps: np.ndarray, cell: GridCell) -> np.ndarray:
    """Runs that never reach a target count as twice the horizon in a mean."""
    return np.where(np.isfinite(steps), steps, 2 * cell.horizon)


def _or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _exponential(values: tuple[float, float, float]) -> list[float]:
    return [float(np.exp(v)) for v in values]
