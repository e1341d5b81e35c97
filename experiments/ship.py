"""Ship a trained optimizer: copy a run's artifact into the zoo, with its scores on held-out tasks."""

import json
import re
from pathlib import Path
from typing import Any

import l2o
from experiments import page as report
from experiments.study.blackbox import report as report_blackbox
from experiments.study.imitation import report as report_imitation
from experiments.study.population import report as report_population
from experiments.study.prediction import report as report_prediction
from experiments.study.tuning import report as report_tuning
from l2o.errors import UserError
from l2o.loaded import ZOO


def scores(results: dict[str, Any]) -> dict[str, Any]:
    """What a study says, short enough for provenance: its table, and the learning rates it tuned."""
    study = results["study"]
    if study.get("kind") == "grid":
        header, rows = report.grid_table(results)
        return {
            "study": {name: study[name] for name in ("description", "seed", "runs", "task", "tune", "floor")},
            "cells": ["-".join(map(str, cell.values())) for cell in results["cells"]],
            "table": [dict(zip(header, row, strict=True)) for row in rows],
        }
    if study.get("kind") in ("blackbox", "population"):
        if study["kind"] == "population":
            tables, size = report_population.tables(results), ("generations", "population_size")
        else:
            tables, size = {"over all cells": report_blackbox.overall(results)}, ("evaluations",)
            tables |= {cell["cell"]: report_blackbox.of_cell(results, cell) for cell in results["cells"]}
        return {
            "study": {name: study[name] for name in ("description", "seed", "runs", *size, "tasks")},
            "tables": {
                n: [dict(zip(header, row, strict=True)) for row in rows] for n, (header, rows) in tables.items()
            },
        }
    if study.get("kind") == "imitation":
        tables = {name: report_imitation.overall(results, name) for name in results["learned"]}
        return {
            "study": {name: study[name] for name in ("description", "seed", "instances", "trials", "task")},
            "tables": {
                n: [dict(zip(header, row, strict=True)) for row in rows] for n, (header, rows) in tables.items()
            },
        }
    if study.get("kind") == "prediction":
        tables = {
            f"{name} on {group}": report_prediction.overall(results, group, name)
            for group, by_model in results["groups"].items() for name in by_model
        }  # fmt: skip
        return {
            "study": {name: study[name] for name in ("description", "seed", "steps", "trials", "groups")},
            "tables": {
                n: [dict(zip(header, row, strict=True)) for row in rows] for n, (header, rows) in tables.items()
            },
        }
    if study.get("kind") == "tuning":
        return {
            "study": {name: study[name] for name in ("description", "seed", "runs", "trials", "tasks")},
            "tables": {
                title: [dict(zip(header, row, strict=True)) for row in rows]
                for title, (header, rows) in report_tuning.tables(results).items()
            },
        }
    header, rows = report.summary(results)
    return {
        "study": {name: study[name] for name in ("description", "seed", "runs", "horizon", "task")},
        "table": [dict(zip(header, row, strict=True)) for row in rows],
        "comparisons": results["comparisons"],
    }


def results_of(study: Path) -> dict[str, Any]:
    """What a finished study found.

    Raises:
      UserError: the directory holds none.
    """
    path = study / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{study} holds no finished study: results.json is missing") from None
    except ValueError:
        results = None
    if not isinstance(results, dict) or not isinstance(results.get("study"), dict):
        raise UserError(f"{path} is damaged, expected what l2o study wrote")
    return results


def ship(run: Path, study: Path, name: str, description: str) -> Path:
    """Write l2o/zoo/<name> from a run directory and the study that measured it.

    Raises:
      UserError: the run or the study is unfinished, the study did not include the run, or the name cannot be one.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"the name: found {name!r}, expected small letters, digits, - and _")
    if not description.strip() or len(description.splitlines()) != 1:
        raise UserError(f"the description: found {description!r:.80}, expected one line for l2o list")
    loaded = l2o.load(run)
    if not loaded.provenance.get("finished"):
        raise UserError(f"{run} is not finished, expected a run that l2o train completed")
    results = results_of(study)
    if loaded.sha256 not in results.get("sha256", {}).values():
        raise UserError(f"{study} does not measure this theta, expected a study run with --optimizer {run}")
    start = loaded.provenance["experiment"]["meta"].get("init")
    provenance = {"description": description, **loaded.provenance, "held_out": scores(results)}
    if start is not None and start not in l2o.names():
        provenance["started_from"] = l2o.load(start).provenance
    return l2o.save(ZOO / name, loaded.config, loaded.theta, provenance)
