"""What a study over workloads reports: ratios to references by workload, over the suite, by group, along ladders."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.columns import checksums
from experiments.study.losses import final, log_loss, smoothed
from experiments.study.time_to_result import profile_scores, steps_to
from experiments.study.workloads.config import Workloads
from experiments.study.workloads.run import Found, Plan, label
from experiments.study.workloads.settings import RATE, Setting, ends, settings

Ratio = list[float]  # a geometric mean over runs with its 95 % interval


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """results.json.

    Returns:
      "references": names of their columns. "targets": the final loss of the first of them on each workload.
      "workloads": what they are. "left_out": sentences on what was not run. "chosen": settings that are best over the
      suite and on each workload. "ends": those at an end of what was tried. "columns": for each its numbers over the
      suite and by group, against each reference, and for each of its "cells", one a workload. "ladders": ratios by
      scale. "curves": smoothed losses of some columns on each workload.
    """
    study, names, rows = plan.study, found.workloads, found.rows
    suite = [index for index, name in enumerate(names) if study.workloads[name].in_suite]
    learned = [column.name for column in plan.columns if column.learned]
    tuned = [column.name for column in plan.tuned]
    references = {name: label(name, "each") if name in tuned else name for name in study.references}
    logs = {name: np.stack([log_loss(final(r["value"]), study.floor) for r in of]) for name, of in rows.items()}
    held = {name: np.stack([_heldout(r, study) for r in of]) for name, of in rows.items()}
    targets = np.exp(next(logs[column] for column in references.values()).mean(1))
    grouped = groups(study, names, suite)
    ways = {label(column.name, way): (column.name, way) for column in plan.columns for way in ("", "suite", "each")}
    table = []
    for name, runs in rows.items():
        against = {reference: logs[name] - logs[column] for reference, column in references.items()}
        heldout = {reference: held[name] - held[column] for reference, column in references.items()}
        diverged = [int((~np.isfinite(r["value"]).all(1)).sum()) for r in runs]
        reached = [np.median(steps_to(r["value"], target)) for r, target in zip(runs, targets, strict=True)]
        table.append(
            {
                "name": name, "column": ways[name][0], "way": ways[name][1], "learned": ways[name][0] in learned,
                "loss": over(logs[name], suite),
                "ratio": {reference: over(ratio, suite) for reference, ratio in against.items()},
                "heldout_ratio": {reference: over(ratio, suite) for reference, ratio in heldout.items()},
                "won": {reference: int((ratio[suite].mean(1) < 0).sum()) for reference, ratio in against.items()},
                "worst": {reference: _worst(names, ratio, suite) for reference, ratio in against.items()},
                "groups": {
                    group: {reference: over(ratio, which) for reference, ratio in against.items()}
                    for group, which in grouped.items()
                },
                "diverged": sum(diverged[i] for i in suite),
                "microseconds": float(np.exp(np.mean([np.log(float(runs[i]["seconds"]) * 1e6) for i in suite]))),
                "cells": [
                    {
                        "workload": workload, "setting": r["setting"],
                        "loss": over(logs[name], [i]), "heldout_loss": over(held[name], [i]),
                        "ratio": {reference: over(ratio, [i]) for reference, ratio in against.items()},
                        "heldout_ratio": {reference: over(ratio, [i]) for reference, ratio in heldout.items()},
                        "diverged": diverged[i],
                        "steps": float(reached[i]) if np.isfinite(reached[i]) else None,
                        "seconds": float(reached[i] * r["seconds"]) if np.isfinite(reached[i]) else None,
                        "microseconds": float(r["seconds"]) * 1e6,
                    }
                    for i, (workload, r) in enumerate(zip(names, runs, strict=True))
                ],
            }
        )  # fmt: skip
    of_suite = [column | {"cells": [column["cells"][i] for i in suite]} for column in table]
    for column, scores in zip(table, profile_scores(of_suite, rivals(of_suite)), strict=True):
        column["profile"] = scores
    return {
        "references": list(references.values()),
        "targets": targets.tolist(),
        "workloads": [
            {
                "name": name, "horizon": study.updates(name), "in_suite": study.workloads[name].in_suite,
                "ladders": study.workloads[name].ladders, "scale": study.workloads[name].scale,
                "group": study.workloads[name].group,
            }
            for name in names
        ],
        "left_out": found.left_out,
        **checksums(plan.columns),
        "chosen": found.chosen,
        "ends": at_ends(plan, found),
        "columns": table,
        "ladders": ladders(study, names, logs, references),
        "curves": {
            column["name"]: [smoothed(r["value"], study.floor) for r in rows[column["name"]]]
            for column in table if column["way"] == "" or column["name"] in references.values()
        },
    }  # fmt: skip


def rivals(columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns that one setting serves on all workloads."""
    return [column for column in columns if column["way"] != "each"]


def over(logs: np.ndarray, which: Sequence[int]) -> Ratio | None:
    """A geometric mean over some of the workloads, from logarithms [workload, run], with its interval over runs.

    Each run counts as the mean of its logarithms. Workloads without numbers are left out; None where none has any.
    """
    there = [i for i in which if not np.isnan(logs[i]).any()]
    return [float(np.exp(value)) for value in statistics.interval(logs[there].mean(0))] if there else None


def groups(study: Workloads, names: Sequence[str], suite: Sequence[int]) -> dict[str, list[int]]:
    """The groups of the suite, and which workloads they have."""
    found: dict[str, list[int]] = {}
    for index in suite:
        group = study.workloads[names[index]].group
        if group:
            found.setdefault(group, []).append(index)
    return found


def ladders(
    study: Workloads, names: Sequence[str], logs: dict[str, np.ndarray], references: dict[str, str]
) -> dict[str, Any]:
    """For each ladder its "scales", ascending, the "workloads" of each of them, and the "ratios" of each column to each
    reference there."""
    found: dict[str, dict[float, list[int]]] = {}
    for index, name in enumerate(names):
        for ladder in study.workloads[name].ladders:
            found.setdefault(ladder, {}).setdefault(study.workloads[name].scale, []).append(index)
    return {
        ladder: {
            "scales": sorted(rungs),
            "workloads": [[names[i] for i in rungs[scale]] for scale in sorted(rungs)],
            "ratios": {
                name: {
                    reference: [over(of_column - logs[column], rungs[scale]) for scale in sorted(rungs)]
                    for reference, column in references.items()
                }
                for name, of_column in logs.items()
            },
        }
        for ladder, rungs in found.items()
    }


def at_ends(plan: Plan, found: Found) -> list[dict[str, str]]:
    """The best settings with a number that is the smallest or the largest tried; "on" is a workload or "the suite"."""
    ended = []
    for column in plan.tuned:
        chosen, tried = found.chosen[column.name], settings(plan.study, column)
        bests: dict[str, Setting] = {"the suite": chosen["suite"]}
        bests |= {name: setting for name, setting in chosen["each"].items() if name in found.workloads}
        for on, best in bests.items():
            for field, end in ends(tried, best).items():
                what = "rate" if field == RATE else field
                ended.append({"column": column.name, "what": what, "end": end, "on": on})
    return ended


def _heldout(row: dict[str, Any], study: Workloads) -> np.ndarray:
    """Logarithms of held-out losses [run]; NaN where the tasks hold nothing out."""
    if "heldout_loss" not in row:
        return np.full(len(row["value"]), np.nan)
    return log_loss(row["heldout_loss"], study.floor)


def _worst(names: Sequence[str], ratio: np.ndarray, which: Sequence[int]) -> dict[str, Any]:
    """The workload with the largest geometric mean of ratios, from their logarithms [workload, run]."""
    index = max(which, key=lambda i: ratio[i].mean())
    return {"workload": names[index], "ratio": float(np.exp(ratio[index].mean()))}
