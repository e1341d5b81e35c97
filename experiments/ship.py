"""Trained optimizers after their training: other settings, and a place in the zoo with scores on held-out tasks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import l2o
from experiments import study as studies
from experiments.directory import claim
from experiments.document import assign
from l2o.errors import UserError
from l2o.loaded import ZOO


def configure(name: str | Path, out: Path, overrides: Sequence[str]) -> Path:
    """Write the artifact of an optimizer with the same meta-parameters and other settings.

    Its provenance says what was changed, as "configured", and has no held-out scores.

    Args:
      name: a shipped optimizer, a run or an artifact directory.
      out: an empty or a new directory.
      overrides: settings of its architecture, such as "farthest=0.7"; at least one.

    Raises:
      UserError: there is no such optimizer or setting, or the meta-parameters do not fit it.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        assign(changes, override)
    if not changes:
        raise UserError("nothing to configure: expected --set FIELD=VALUE, a setting of the optimizer")
    loaded = l2o.load(name)
    config = loaded.configured(**changes).config
    before = {field: value for field, value in loaded.provenance.items() if field != "held_out"}
    claim(out)
    return l2o.save(out, config, loaded.theta, before | {"configured": before.get("configured", {}) | changes})


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
    if loaded.fingerprint not in results.get("sha256", {}).values():
        raise UserError(
            f"{study} does not measure this theta and these settings, expected a study run with --optimizer {run}"
        )
    start = loaded.provenance["experiment"]["meta"].get("init")
    provenance = {"description": description, **loaded.provenance, "held_out": studies.provenance(results)}
    if start is not None and start not in l2o.names():
        provenance["started_from"] = l2o.load(start).provenance
    return l2o.save(ZOO / name, loaded.config, loaded.theta, provenance)
