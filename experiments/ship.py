"""Ship a trained optimizer: copy a run's artifact into the zoo, with its scores on held-out tasks."""

import re
from pathlib import Path

import l2o
from experiments import study as studies
from l2o.errors import UserError
from l2o.loaded import ZOO


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
    results = studies.results_of(study)
    if loaded.sha256 not in results.get("sha256", {}).values():
        raise UserError(f"{study} does not measure this theta, expected a study run with --optimizer {run}")
    start = loaded.provenance["experiment"]["meta"].get("init")
    provenance = {"description": description, **loaded.provenance, "held_out": studies.provenance(results)}
    if start is not None and start not in l2o.names():
        provenance["started_from"] = l2o.load(start).provenance
    return l2o.save(ZOO / name, loaded.config, loaded.theta, provenance)
