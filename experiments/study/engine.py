"""What runs a study of any kind: plan, pieces, results, report."""

import json
from pathlib import Path
from typing import Any

from experiments.directory import claim
from experiments.progress import Say, counted, say
from experiments.study import report as reports
from experiments.study.base import StudyConfig, kind_of, kind_of_results
from experiments.study.pieces import Pieces
from l2o.errors import UserError
from l2o.files import difference, write_whole


def run(study: StudyConfig, out: Path, say: Say = say, resume: bool = False) -> dict[str, Any]:
    """Run a study into a directory: config.toml, cells/, results.json, figures and report.html.

    Args:
      study: what is asked for.
      out: an empty directory or, with `resume`, that of a study which was killed or is to have other optimizers.
      say: tells a person how far it is.
      resume: keep the pieces that are there.

    Returns:
      The contents of results.json: the "study", what the summary of its kind has, and the "seconds" that it took.

    Raises:
      UserError: the directory is in use or holds another study, or the plan refuses what is asked for.
    """
    kind = kind_of(type(study))
    plan = kind.plan(study)
    begin(study, out, resume)
    say(plan.opening)
    with counted(plan.pieces, say) as counter:
        pieces = Pieces(out, counter)
        found = kind.run(plan, pieces)
    results = {
        "study": study.model_dump(mode="json"), **kind.summary(plan, found), "seconds": round(pieces.seconds, 1),
    }  # fmt: skip
    write_whole(out / "results.json", json.dumps(results) + "\n")
    reports.write(out, results, kind.report(results))
    return results


def begin(study: StudyConfig, out: Path, resume: bool) -> None:
    """Create the directory of a study, or check that the one that is there is to go on.

    Raises:
      UserError: the directory is in use, or holds another study.
    """
    if resume and (out / "config.toml").is_file():
        changed = difference(_identity(StudyConfig.load(out / "config.toml")), _identity(study))
        if changed:
            raise UserError(f"cannot resume {out}: {changed} since the study began")
    else:
        claim(out, "choose another --out, or --resume the study in it")
    write_whole(out / "config.toml", study.toml())


def _identity(study: StudyConfig) -> dict[str, Any]:
    """What a resumed study may not change: everything but the learned optimizers, which are known by their checksum."""
    return study.model_dump(mode="json", exclude={"description", "optimizers", "groups"}, exclude_none=True)


def results_of(directory: Path) -> dict[str, Any]:
    """What a finished study found.

    Raises:
      UserError: the directory holds none.
    """
    path = directory / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{directory} holds no finished study: results.json is missing") from None
    except ValueError:
        results = None
    if not isinstance(results, dict) or not isinstance(results.get("study"), dict):
        raise UserError(f"{path} is damaged, expected what l2o study wrote")
    return results


def text(results: dict[str, Any]) -> str:
    """What results.json says, for a terminal."""
    return reports.as_text(kind_of_results(results).report(results))


def provenance(results: dict[str, Any]) -> dict[str, Any]:
    """What results.json says, short enough to travel with a shipped optimizer: the study in short, and its tables."""
    kind, study = kind_of_results(results), results["study"]
    return {
        "study": {name: study[name] for name in kind.config.shipped},
        "tables": reports.as_tables(kind.report(results)),
        **{name: results[name] for name in kind.config.shipped_results},
    }
