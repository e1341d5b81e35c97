"""The trials in the log of a study or a search, for `l2o show`."""

from pathlib import Path
from typing import Any

from experiments.progress import aligned
from l2o.errors import UserError
from l2o.host.log import VERSION, Added, Asked, Format, events_in, parsed
from l2o.host.loop import Trial
from l2o.space.parameter import plain_category

JSONObject = dict[str, Any]


def _named(given: Any) -> dict[str, Any] | None:
    return given if isinstance(given, dict) else None


def _numbered(x: Any) -> dict[str, Any] | None:
    return {f"x[{i}]": value for i, value in enumerate(x)} if isinstance(x, list) else None


FORMS = {  # as any study or search has them; nothing is written
    form.name: form
    for form in (
        Format("l2o-study", "study", "l2o.Study", "parameters", several=True, encode=_named, decode=_named),
        Format("l2o-search", "search", "l2o.minimize", "x", several=False, encode=_named, decode=_numbered),
    )
}


def read(path: Path) -> JSONObject:
    """The trials of a log that `l2o.Study` or `l2o.minimize` writes; a line that a kill tore is left out.

    Raises:
      UserError: it is no log, or one that is damaged or of another version.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    header = parsed(lines[0]) if lines else None
    if header is None or header.get("format") not in list(FORMS):
        raise UserError(f"{path} is no log, expected one that l2o.Study or l2o.minimize wrote, or a directory")
    if header.get("version") != VERSION:
        raise UserError(f"{path} has format version {header.get('version')}; this l2o reads version {VERSION}")
    if len(lines) > 1 and parsed(lines[-1]) is None:
        lines.pop()
    form = FORMS[header["format"]]
    trials: list[tuple[Trial, str]] = []
    for event in events_in(lines[1:], form, path):
        if isinstance(event, Asked):
            origin = "guess" if event.own else "asked"
            trials += [(Trial(number, point), origin) for number, point in enumerate(event.points, event.number)]
            continue
        if isinstance(event, Added):
            trials.append((Trial(event.number, event.point), "known"))
        trial, _ = trials[event.number]
        trial.value, trial.error, trial.seconds = event.value, event.error, event.seconds
    about = {name: value for name, value in header.items() if name not in ("format", "version")}
    return {
        "what": "log", "file": str(path), "of": form.owner, "about": about,
        "trials": [
            {"number": trial.number, "parameters": trial.parameters, "value": trial.value, "error": trial.error,
             "seconds": trial.seconds, "origin": origin, "state": trial.state}
            for trial, origin in trials
        ],
    }  # fmt: skip


def lines_of(document: JSONObject) -> list[str]:
    """The lines of what `read` found: the run, a table of its trials, the best one."""
    about, trials = document["about"], document["trials"]
    goal, metric = about.get("goal", "minimize"), about.get("metric") or "value"
    named = f" {about['name']!r}" if about.get("name") else ""
    budget = f", budget {about['budget']}" if about.get("budget") else ""
    lines = [f"{document['file']}: a {document['of']}{named}, {goal} {metric}",
             f"optimizer {about.get('optimizer')}, seed {about.get('seed')}{budget}, {len(trials)} trials"]  # fmt: skip
    rows = []
    for trial in trials:
        parameters = {name: shown(plain_category(value)) for name, value in trial["parameters"].items()}
        seconds = {"seconds": trial["seconds"]} if any(each["seconds"] is not None for each in trials) else {}
        state = trial["state"] if trial["error"] is None else f"{trial['state']}: {trial['error']}"
        rows.append(
            {"trial": trial["number"], **parameters, metric: trial["value"], **seconds, "from": trial["origin"],
             "state": state}
        )  # fmt: skip
    lines += table_of(rows)
    complete = [trial for trial in trials if trial["state"] == "complete"]
    if complete:
        best = (max if goal == "maximize" else min)(complete, key=lambda trial: trial["value"])
        lines.append(f"best: {metric} {shown(best['value'])} of trial {best['number']}")
    return lines


def table_of(rows: list[JSONObject]) -> list[str]:
    """The lines of a table, with a column for each name of the rows."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return aligned(header, [[shown(row.get(name)) for name in header] for row in rows]) if rows else []


def shown(value: Any) -> str:
    """A value in six digits, "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
