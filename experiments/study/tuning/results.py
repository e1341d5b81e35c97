"""What a study of tuning reports: normalised best values by trial, paired differences, and a check of the tables."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from experiments.study import statistics
from experiments.study.tuning.columns import TuningColumn
from experiments.study.tuning.config import Tuning
from experiments.study.tuning.live import Tried
from experiments.study.tuning.run import Found, Plan
from experiments.study.tuning.score import by_run
from experiments.study.tuning.tasks import TuningCell

CURVES = 1000  # resamples for each point of a curve


def mean(values: Float[np.ndarray, "n *m"], seed: int, resamples: int = 4000) -> list[float]:
    """Mean with its 95 % bootstrap interval over tasks and, where there are several, the runs on each."""
    return list(statistics.bootstrap(lambda a: a, [values], seed=seed, resamples=resamples))


def compared(ours: Float[np.ndarray, "n m"], theirs: Float[np.ndarray, "n k"], seed: int) -> dict[str, float]:
    """The mean of `ours - theirs` with its 95 % bootstrap interval over tasks and runs, and the share of tasks won."""
    difference, low, high = statistics.bootstrap(lambda a, b: a - b, [ours, theirs], seed=seed)
    return {"difference": difference, "low": low, "high": high, **statistics.wins(ours.mean(1), theirs.mean(1))}


def ranks(values: dict[str, Float[np.ndarray, "n"]]) -> dict[str, Float64[np.ndarray, "n"]]:
    """The rank of each column on each task by its value, 1 for the lowest; those that are level share their ranks."""
    from scipy.stats import rankdata

    return dict(zip(values, rankdata(np.stack(list(values.values())), axis=0), strict=True))


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json.

    Returns:
      "groups": for each its "tasks", and for each column "mean" of the normalised best values at the reported steps
      with intervals, "by_task", "curve", mean "rank" at these steps with intervals, and of a study that takes times
      "seconds" of a suggestion; "comparisons" of `study.compared` with each other column. "chosen" settings with the
      scores of all. "live", see `_results_of_live`. "left_out": sentences on columns that could not be run.
    """
    study, optimizers, cells = plan.study, plan.optimizers, plan.reported
    groups = {group: [cell for cell in cells if cell.group == group] for group in study.tasks}
    return {
        "learned": list(optimizers),
        "sha256": {name: loaded.fingerprint for name, loaded in optimizers.items()},
        "kinds": {name: loaded.config.kind for name, loaded in optimizers.items()},
        "chosen": {column.name: _chosen_setting(column, found) for column in plan.columns},
        "groups": {group: _results_of_group(plan, some, found) for group, some in groups.items()},
        "live": _results_of_live(study, found.live) if study.live else None,
        "left_out": plan.left_out,
    }


def _chosen_setting(column: TuningColumn, found: Found) -> dict[str, Any]:
    scores = zip(column.settings, found.scores[column.name], strict=False)
    return {
        "settings": found.best[column.name].choice,
        "scores": [{"settings": setting.choice, "score": score} for setting, score in scores],
    }


def _results_of_group(plan: Plan, cells: list[TuningCell], found: Found) -> dict[str, Any]:
    study, (group,) = plan.study, {cell.group for cell in cells}
    made, names = found.runs[group], [column.name for column in plan.columns]
    values = {name: by_run(cells, [made[cell.name][name]["y"] for cell in cells]) for name in names}
    ours, steps = values[study.compared], study.steps
    ranked = {s: ranks({name: of[..., s - 1].mean(1) for name, of in values.items()}) for s in steps}
    return {
        "tasks": [cell.name for cell in cells],
        "columns": {
            name: {
                "mean": {str(s): mean(of[..., s - 1], study.seed) for s in steps},
                "by_task": {str(s): of[..., s - 1].mean(1).tolist() for s in steps},
                "rank": {str(s): mean(ranked[s][name], study.seed) for s in steps},
                "curve": dict(
                    zip(
                        ("mean", "low", "high"),
                        np.transpose([mean(of[..., t], study.seed, CURVES) for t in range(of.shape[2])]).tolist(),
                        strict=True,
                    )
                ),
                **({"seconds": found.seconds[group][name]} if study.timed else {}),
            }
            for name, of in values.items()
        },
        "comparisons": [
            {"against": name, "step": s, **compared(ours[..., s - 1], of[..., s - 1], study.seed)}
            for name, of in values.items()
            if name != study.compared
            for s in steps
        ],
    }


def _results_of_live(study: Tuning, found: list[Tried]) -> dict[str, Any]:
    """What tables say of the settings found in them, and what they are really worth.

    Returns:
      "tasks": for each its "metric", the "best" value of a row of its table, and for each column what the "table" says
      and what the model is "live", in the metric's own units. "columns": for each, means of both, normalised as all
      values but not cut at 0, since a model may be better than all rows, with intervals over tasks.
    """
    assert study.live is not None
    tasks: dict[str, Any] = {}
    scaled: dict[str, list[tuple[float, float]]] = {name: [] for name in study.live.columns}
    for cell, column, arrays in found:
        about, sign = cell.about or {}, 1.0 if (cell.about or {})["goal"] == "minimize" else -1.0
        table, live = float(arrays["table"]), float(arrays["live"])
        row = tasks.setdefault(
            cell.name, {"metric": about["metric"], "goal": about["goal"], "best": sign * cell.least, "columns": {}}
        )
        row["columns"][column] = dict(zip(("table", "live"), statistics.as_json([table, live]), strict=True))
        both = np.array([table, live]) * sign - cell.least
        share = both / (cell.median - cell.least) if cell.median > cell.least else np.where(both > 0, 1.0, 0.0)
        scaled[column].append(tuple(np.where(np.isfinite(share), np.minimum(share, 1.0), 1.0).tolist()))
    return {
        "tasks": tasks,
        "columns": {
            name: dict(zip(("table", "live"), (mean(v, study.seed) for v in np.array(pairs).T), strict=True))
            for name, pairs in scaled.items()
        },
    }
