"""The report of a study of tuning: best values by trial, differences, chosen settings, tables against real fits."""

from functools import partial
from typing import Any

import numpy as np

from experiments.page import colours, figure_of
from experiments.study.report import Figure, Report, Section, Table, bracketed, optional
from experiments.study.tuning.tasks import SAMPLES


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    learned = [f"{name} is an optimizer of kind {results['kinds'][name]}" for name in results["learned"]]
    lines = Figure("curves.png", "best value by trial", partial(curves, results))
    sections = [Section(figure=lines, sentences=learned, where="page")]
    for group in results["groups"]:
        compared = f"{group}, {results['study']['compared']} against the others"
        sections += [
            Section(group, tables=[overall(results, group)], sentences=sentences(results, group)),
            Section(compared, tables=[differences(results, group)]),
        ]
    sections.append(Section(notes=notes(results), sentences=results["left_out"]))
    if settings(results).rows:
        sections.append(Section("chosen settings", tables=[settings(results)]))
    if results["live"]:
        means, tasks = live(results)
        sections.append(Section("tried for real", tables=[means], notes=live_notes(results)))
        sections.append(Section(tables=[tasks], where="page"))
    return sections


def overall(results: dict[str, Any], group: str) -> Table:
    """The main table of a group: each column, that with the lowest value at the last step first."""
    steps = list(map(str, results["study"]["steps"]))
    columns = results["groups"][group]["columns"]
    order = sorted(columns, key=lambda name: columns[name]["mean"][steps[-1]][0])
    rows = []
    for name in order:
        of = columns[name]
        ranks = " / ".join(f"{of['rank'][s][0]:.1f}" for s in steps)
        rows.append([name, *(bracketed(of["mean"][s]) for s in steps), ranks])
        if "seconds" in of:
            rows[-1].append(f"{of['seconds']:.2g}")
    header = ["method", *(f"best at {s}" for s in steps), "mean ranks", "seconds"][: len(rows[0])]
    return Table(header, rows, ours=[results["study"]["compared"]])


def differences(results: dict[str, Any], group: str) -> Table:
    """The compared column against each other one."""
    study, rows = results["study"], []
    for name in results["groups"][group]["columns"]:
        row = [name]
        for c in results["groups"][group]["comparisons"]:
            if c["against"] == name:
                row.append(bracketed([c["difference"], c["low"], c["high"]], "+.3f"))
                row.append(bracketed([c["win_rate"], c["win_rate_low"], c["win_rate_high"]], ".0%"))
        if len(row) > 1:
            rows.append(row)
    header = [f"{study['compared']} against"]
    for step in study["steps"]:
        header += [f"difference at {step}", f"wins at {step}"]
    return Table(header, rows)


def settings(results: dict[str, Any]) -> Table:
    """What was chosen for the columns that have several settings."""
    rows = []
    for name, chosen in results["chosen"].items():
        if chosen["scores"]:
            tried = ", ".join(f"{_settings_as_text(s['settings'])}: {s['score']:.3f}" for s in chosen["scores"])
            rows.append([name, _settings_as_text(chosen["settings"]), tried])
    header = ["method", "chosen", "mean value on the tuning tasks"]
    return Table(header, rows, ours=[results["study"]["compared"]])


def live(results: dict[str, Any]) -> tuple[Table, Table]:
    """What the settings that columns found in tables are worth: means, and task by task."""
    found, ours = results["live"], [results["study"]["compared"]]
    names = list(found["columns"])
    means = [[name, bracketed(of["table"]), bracketed(of["live"])] for name, of in found["columns"].items()]
    rows = []
    for task, row in found["tasks"].items():
        of = row["columns"]
        pairs = [f"{optional(of[n]['table'], '.3f')} / {optional(of[n]['live'], '.3f')}" for n in names]
        rows.append([task, optional(row["best"], ".3f"), *pairs])
    header = ["task", "best row", *(f"{name}: table / live" for name in names)]
    return Table(["method", "by the table", "live"], means, ours=ours), Table(header, rows)


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


def notes(results: dict[str, Any]) -> str:
    """How to read the tables."""
    study = results["study"]
    counts = ", ".join(f"{len(of['tasks'])} of {name}" for name, of in results["groups"].items())
    seconds = (
        " Seconds are those of a suggestion, asking and telling in a loop on the host, the mean of a run on the first"
        " task of the group, compilation apart."
    )
    return (
        f"Tasks: {counts}; on each up to {study['runs']} runs of {study['trials']} trials, from the same seeds for"
        " every method. The best value so far, where 0 is the least value of the task (of a table its best row; of a"
        " BBOB function its minimum, which a mixed space may not hold) and 1 the median one (of the rows, or of"
        f" {SAMPLES} random points); worse ones count as 1. Means over runs and then over tasks, with 95 % intervals"
        " from a bootstrap over tasks and the runs on each; mean ranks over tasks, at the same steps. Differences are"
        f" paired, negative ones in favour of {study['compared']}, which wins a task where its mean over runs is lower;"
        " ties count half. Tasks that share data, a model or a function are alike, so that intervals speak of tasks"
        " like these alone." + (seconds if study["timed"] else "")
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


def curves(results: dict[str, Any]) -> Any:
    """The figure of best values by trial, a panel for each group."""
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
        _logarithmic_axis(axes, [v for column in found["columns"].values() for v in column["curve"]["mean"]])
    places[0].set_ylabel("best value so far")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def _logarithmic_axis(axes: Any, values: list[float]) -> None:
    """A logarithmic scale for means that are positive; bands may reach down to 0."""
    positive = [v for v in values if v > 0]
    if positive:
        axes.set(yscale="log", ylim=(min(positive) / 1.5, 1.1))


def _settings_as_text(choice: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in choice.items()) or "as it is"
