"""The report of a study of tuning: best values by trial, differences, chosen settings, tables against real fits."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page import colours, figure_of, image, page, save_figure, table
from experiments.progress import duration
from experiments.study.tuning.tasks import SAMPLES
from l2o.files import write_whole

Text = tuple[list[str], list[list[str]]]


def overall(results: dict[str, Any], group: str) -> Text:
    """The main table of a group as text: each column, that with the lowest value at the last step first."""
    steps = list(map(str, results["study"]["steps"]))
    columns = results["groups"][group]["columns"]
    order = sorted(columns, key=lambda name: columns[name]["mean"][steps[-1]][0])
    rows = [[name, *(_mean(columns[name]["mean"][s]) for s in steps)] for name in order]
    return ["method", *(f"best at {s}" for s in steps)], rows


def differences(results: dict[str, Any], group: str) -> Text:
    """The compared column against each other one, as text."""
    study, rows = results["study"], []
    for name in results["groups"][group]["columns"]:
        row = [name]
        for c in results["groups"][group]["comparisons"]:
            if c["against"] == name:
                row.append("{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**c))
                row.append("{win_rate:.0%} [{win_rate_low:.0%}, {win_rate_high:.0%}]".format(**c))
        if len(row) > 1:
            rows.append(row)
    header = [f"{study['compared']} against"]
    for step in study["steps"]:
        header += [f"difference at {step}", f"wins at {step}"]
    return header, rows


def settings(results: dict[str, Any]) -> Text:
    """What was chosen for the columns that have several settings."""
    rows = []
    for name, chosen in results["chosen"].items():
        if chosen["scores"]:
            tried = ", ".join(f"{_setting(s['settings'])}: {s['score']:.3f}" for s in chosen["scores"])
            rows.append([name, _setting(chosen["settings"]), tried])
    return ["method", "chosen", "mean value on the tuning tasks"], rows


def live(results: dict[str, Any]) -> dict[str, Text]:
    """What the settings that columns found in tables are worth: means, and task by task; none where nobody looked."""
    found = results["live"]
    if found is None:
        return {}
    names = list(found["columns"])
    means = [[name, _mean(of["table"]), _mean(of["live"])] for name, of in found["columns"].items()]
    rows = []
    for task, row in found["tasks"].items():
        pairs = [f"{_number(row['columns'][n]['table'])} / {_number(row['columns'][n]['live'])}" for n in names]
        rows.append([task, _number(row["best"]), *pairs])
    return {
        "means": (["method", "by the table", "live"], means),
        "tasks": (["task", "best row", *(f"{name}: table / live" for name in names)], rows),
    }


def sentences(results: dict[str, Any], group: str) -> list[str]:
    """For each step, which columns the compared one is better and worse than."""
    study, found = results["study"], []
    for step in study["steps"]:
        pairs = [c for c in results["groups"][group]["comparisons"] if c["step"] == step]
        parts = [
            ("better than", [c["against"] for c in pairs if c["high"] < 0]),
            ("worse than", [c["against"] for c in pairs if c["low"] > 0]),
            ("undecided against", [c["against"] for c in pairs if c["low"] <= 0 <= c["high"]]),
        ]
        said = "; ".join(f"{how} {', '.join(names)}" for how, names in parts if names)
        if said:
            found.append(f"{study['compared']} on {group} at {step}: {said}")
    return found


def tables(results: dict[str, Any]) -> dict[str, Text]:
    """All tables but those of single tasks, by title."""
    found = {}
    for group in results["groups"]:
        found[group] = overall(results, group)
        found[f"{group}, {results['study']['compared']} against the others"] = differences(results, group)
    if settings(results)[1]:
        found["chosen settings"] = settings(results)
    if results["live"]:
        found["tried for real"] = live(results)["means"]
    return found


def sayings(results: dict[str, Any]) -> list[str]:
    """All sentences, and how to read the tables."""
    found = [line for group in results["groups"] for line in sentences(results, group)]
    return [*found, notes(results), *([live_notes(results)] if results["live"] else [])]


def notes(results: dict[str, Any]) -> str:
    """How to read the tables."""
    study = results["study"]
    counts = ", ".join(f"{len(of['tasks'])} of {name}" for name, of in results["groups"].items())
    return (
        f"Tasks: {counts}; on each up to {study['runs']} runs of {study['trials']} trials, from the same seeds for"
        " every method. The best value so far, where 0 is the least value of the task (of a table its best row; of a"
        " BBOB function its minimum, which a mixed space may not hold) and 1 the median one (of the rows, or of"
        f" {SAMPLES} random points); worse ones count as 1. Means over runs and then over tasks, with 95 % intervals"
        " from a bootstrap over tasks. Differences are paired by task, negative ones in favour of"
        f" {study['compared']}, which wins a task where its mean over runs is lower; ties count half. Tasks"
        " that share data, a model or a function are alike, so that intervals speak of tasks like these alone."
    )


def live_notes(results: dict[str, Any]) -> str:
    """How to read what was tried for real."""
    of = results["study"]["live"]
    return (
        f"The best setting of the first {of['trial']} trials of the first run on each of"
        f" {len(results['live']['tasks'])} tasks of {of['group']}: its value by the table, in which it lies between"
        " rows, and that of the model fitted with it. Normalised as above, but a fit that is better than all rows is"
        " below 0."
    )


def write(out: Path, results: dict[str, Any]) -> None:
    """curves.png and report.html."""
    _curves(out / "curves.png", results)
    ours = {results["study"]["compared"]}

    def shown(text: Text) -> str:
        header, rows = text
        return table(header, [[html.escape(cell) for cell in row] for row in rows], ours)

    body = [f"<p>{html.escape(results['study']['description'])}</p>"]
    body += [f"<p>The OptFormer is {html.escape(name)}.</p>" for name in results["learned"]]
    body += [image(out / "curves.png", "best value by trial"), f"<p><small>{html.escape(notes(results))}</small></p>"]
    for group in results["groups"]:
        body.append(f"<h2>{html.escape(group)}</h2>{shown(overall(results, group))}")
        body += [f"<p>{html.escape(line)}.</p>" for line in sentences(results, group)]
        body.append(shown(differences(results, group)))
    if settings(results)[1]:
        body.append(f"<h2>Chosen settings</h2>{shown(settings(results))}")
    for title, text in live(results).items():
        said = f"<h2>Tried for real</h2><p>{html.escape(live_notes(results))}</p>" if title == "means" else ""
        body.append(said + shown(text))
    body.append(f"<p><small>The study took {duration(results['seconds'])}.</small></p>")
    write_whole(out / "report.html", page(f"Study {out.name}", "".join(body)))


def _curves(path: Path, results: dict[str, Any]) -> None:
    groups = results["groups"]
    figure = figure_of(5.2 * len(groups) + 1.6, 4.2)
    places = list(figure.subplots(1, len(groups), squeeze=False).flat)
    for axes, (group, found) in zip(places, groups.items(), strict=True):
        axes.set_prop_cycle(color=colours("tab10"))
        for name, column in found["columns"].items():
            mean, low, high = (np.array(column["curve"][k]) for k in ("mean", "low", "high"))
            at = np.arange(1, len(mean) + 1)
            (line,) = axes.plot(at, mean, lw=2.4 if name == results["study"]["compared"] else 1.2, label=name)
            axes.fill_between(at, low, high, color=line.get_color(), alpha=0.12, lw=0)
        axes.set(title=f"{group}, {len(found['tasks'])} tasks", xlabel="trials")
        _logarithmic(axes, [v for column in found["columns"].values() for v in column["curve"]["mean"]])
    places[0].set_ylabel("best value so far")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    save_figure(figure, path, dpi=100)


def _logarithmic(axes: Any, values: list[float]) -> None:
    """A logarithmic scale for means that are positive; bands may reach down to 0."""
    positive = [v for v in values if v > 0]
    if positive:
        axes.set(yscale="log", ylim=(min(positive) / 1.5, 1.1))


def _mean(values: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def _setting(choice: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in choice.items()) or "as it is"


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.3f}"
