"""The trials in the log of a study or a search, for `l2o show`."""

import json
from pathlib import Path
from typing import Any

from experiments.progress import aligned
from l2o.errors import UserError
from l2o.host.log import VERSION
from l2o.space.parameter import plain_category

Document = dict[str, Any]
FORMATS = ("l2o-study", "l2o-search")


def read(path: Path) -> Document:
    """The trials of a log that `l2o.Study` or `l2o.minimize` writes; a line that a kill tore is left out."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    header, *events = [_parsed(line) for line in lines] or [None]
    if header is None or header.get("format") not in FORMATS:
        raise UserError(f"{path} is no log, expected one that l2o.Study or l2o.minimize wrote, or a directory")
    if header.get("version") != VERSION:
        raise UserError(f"{path} has format version {header.get('version')}; this l2o reads version {VERSION}")
    if events and events[-1] is None:
        events.pop()
    trials: dict[int, Document] = {}
    for number, event in enumerate(events, start=2):
        try:
            _happened(trials, event)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path}, line {number} is damaged, expected what a trial was asked or told") from None
    about = {name: value for name, value in header.items() if name not in ("format", "version")}
    return {"what": "log", "file": str(path), "of": header["format"].removeprefix("l2o-"), "about": about,
            "trials": [trials[number] for number in sorted(trials)]}  # fmt: skip


def _parsed(line: bytes) -> Any:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _happened(trials: dict[int, Document], event: Document) -> None:
    if "told" in event:
        trials[event["told"]] |= {
            "value": event["value"], "error": event.get("error"), "seconds": event.get("seconds"),
            "state": "done" if event["value"] is not None else "failed",
        }  # fmt: skip
        return
    added = "added" in event
    first = event["added"] if added else event["asked"]
    if "x" in event:
        some = [{f"x[{i}]": value for i, value in enumerate(event["x"])}]
    else:
        some = [event["parameters"]] if added else event["parameters"]
    for number, parameters in enumerate(some, start=first):
        value = event.get("value")
        trials[number] = {
            "number": number, "parameters": dict(parameters), "value": value, "error": event.get("error"),
            "seconds": event.get("seconds"), "origin": "known" if added else "guess" if event.get("guess") else "asked",
            "state": "open" if not added else "done" if value is not None else "failed",
        }  # fmt: skip


def lines_of(document: Document) -> list[str]:
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
        state = f"failed: {trial['error']}" if trial["state"] == "failed" else trial["state"]
        rows.append(
            {"trial": trial["number"], **parameters, metric: trial["value"], **seconds, "from": trial["origin"],
             "state": state}
        )  # fmt: skip
    lines += table_of(rows)
    done = [trial for trial in trials if trial["state"] == "done"]
    if done:
        best = (max if goal == "maximize" else min)(done, key=lambda trial: trial["value"])
        lines.append(f"best: {metric} {shown(best['value'])} of trial {best['number']}")
    return lines


def table_of(rows: list[Document]) -> list[str]:
    """The lines of a table, with a column for each name of the rows."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return aligned(header, [[shown(row.get(name)) for name in header] for row in rows]) if rows else []


def shown(value: Any) -> str:
    """A value in six digits, "-" where there is none."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
