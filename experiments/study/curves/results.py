"""What a study of losses reports: rows, curves, paired comparisons."""

from typing import Any

import numpy as np

from experiments.study import statistics
from experiments.study.columns import checksums
from experiments.study.curves.run import Found, Plan, at_the_edge, measures


def summary(plan: Plan, found: dict[str, Found]) -> dict[str, Any]:
    """results.json.

    Returns:
      The "chosen" learning rates, which of them are "at_the_edge" of what was tried, "measures", one of "rows" per
      optimizer and seed, "curves" of mean loss with 95 % intervals, and paired "comparisons" of each learned optimizer
      with every other one.
    """
    study, read, rows = plan.study, measures(plan.study), []
    last = f"step {study.steps[-1]}"
    for name, (_, runs) in found.items():
        scored = {measure: of(runs[measure]["value"]) for measure, of in read.items()}
        others = {key: value for key, value in runs[last].items() if key != "value"}
        for seed in range(study.runs):
            row = {"optimizer": name, "task": study.task.kind, "seed": seed}
            row |= {key: statistics.as_json([value[seed]])[0] for key, value in {**scored, **others}.items()}
            rows.append(row | {"diverged": bool(not np.isfinite(runs[last]["value"][seed]).all())})
    learned = [column.name for column in plan.columns if column.learned]
    tuned = [column.name for column in plan.columns if column.tuned]
    return {
        **checksums(plan.columns),
        "at_the_edge": [name for name in tuned if at_the_edge(study, found[name].rates)],
        "chosen": {name: rates for name, (rates, _) in found.items() if None not in rates.values()},
        "measures": list(read),
        "rows": rows,
        "curves": {name: statistics.curve(runs[last]["value"]) for name, (_, runs) in found.items()},
        "comparisons": compare(rows, list(found), learned, list(read)),
    }


def compare(
    rows: list[dict[str, Any]], names: list[str], learned: list[str], reported: list[str]
) -> list[dict[str, Any]]:
    """Paired comparisons, run by run, of each learned optimizer with every other one."""
    by_name = {name: [row for row in rows if row["optimizer"] == name] for name in names}
    found = []
    for ours in learned:
        for other in names:
            for measure in reported if other != ours else []:
                a, b = ([row[measure] for row in by_name[name]] for name in (ours, other))
                found.append({"optimizer": ours, "against": other, "measure": measure, **statistics.paired(a, b)})
    return found
