"""The report of a study of prediction: log densities, calibration, what was tuned, and a sentence on each."""

from functools import partial
from typing import Any

import numpy as np

from experiments.page import figure_of
from experiments.study.report import Figure, Report, Section, Table, bracketed

NAMES = {"model": "told the algorithm", "unknown": "not told", "gp": "Gaussian process", "truncated": "truncated GP"}
COLOURS = {"model": "tab:blue", "unknown": "tab:cyan", "gp": "tab:grey", "truncated": "tab:olive"}
BEST_FITS = 12  # rows of the table of fits


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    sections = []
    for group, by_model in results["groups"].items():
        for name, found in by_model.items():
            drawn = Figure(
                f"predictions-{group}-{name}.png", "log density by trial, and distributions of transforms",
                partial(figure, found["columns"]),
            )  # fmt: skip
            by = [parts(results, group, name, by) for by in ("by_step", "by_teacher")]
            sections += [
                Section(
                    f"{name} on {group}", tables=[overall(results, group, name)],
                    sentences=sentences(results, group, name), notes=notes(),
                ),
                Section(figure=drawn, tables=[*by, *tuned(results, group, name)], where="page"),
            ]  # fmt: skip
    return sections


def overall(results: dict[str, Any], group: str, name: str) -> Table:
    """The main table of a model and a group of tasks as a table: a row for each forecaster."""
    rows = []
    for column, row in results["groups"][group][name]["columns"].items():
        process = column == "gp"
        rows.append(
            [
                NAMES[column], _as_interval(row["log_density"]), "-" if process else _as_difference(row["difference"]),
                "-" if column == "truncated" else _as_difference(row["difference_truncated"]), _as_interval(row["ece"]),
                "-" if process else _as_difference(row["ece_difference"]), _as_interval(row["ece_likeliest"]),
                f"{row['distance']:.3f}",
            ]
        )  # fmt: skip
    header = [
        "", "log density", "less GP's", "less truncated GP's", "ECE %", "ECE less GP's", "ECE %, likeliest",
        "PIT distance",
    ]  # fmt: skip
    return Table(header, rows)


def parts(results: dict[str, Any], group: str, name: str, by: str) -> Table:
    """Log densities "by_step" or "by_teacher"."""
    columns = results["groups"][group][name]["columns"]
    rows = []
    for part in columns["gp"][by]:
        values = [_as_interval(column[by][part]["log_density"]) for column in columns.values()]
        differences = [_as_difference(column[by][part]["difference"]) for c, column in columns.items() if c != "gp"]
        rows.append([part, *values, *differences])
    header = [by.removeprefix("by_"), *(NAMES[c] for c in columns)]
    return Table([*header, *(f"{NAMES[c]} less GP" for c in columns if c != "gp")], rows)


def tuned(results: dict[str, Any], group: str, name: str) -> list[Table]:
    """What was tried on other tasks, with mean log densities there."""
    found = results["groups"][group][name]["tuned"]
    fits = [[*_settings_of_process(process), f"{process['score']:.3f}"] for process in found["processes"][:BEST_FITS]]
    temperatures = [[f"{t:g}", f"{score:.3f}"] for t, score in found["temperatures"]]
    header = ["fit", "mass beyond", "inflation", "uniform share", "log density"]
    start = "On tasks to tune on, the"
    return [
        Table(["temperature", "log density"], temperatures, f"{start} temperatures of the model"),
        Table(header, fits, f"{start} Gaussian processes, the best ones"),
    ]


def sentences(results: dict[str, Any], group: str, name: str) -> list[str]:
    """What is found about a model on a group of tasks."""
    found = results["groups"][group][name]
    columns, tuned = found["columns"], found["tuned"]
    model, process, truncated = (columns[name] for name in ("model", "gp", "truncated"))
    fit, beyond, inflation, uniform = _settings_of_process(tuned["process"])

    def verdict(difference: list[float]) -> str:
        mean, low, high = difference
        return "the same within the interval as" if low <= 0 <= high else "higher than" if mean > 0 else "lower than"

    return [
        f"{name} on {group}: its log density is {verdict(model['difference'])} the process's,"
        f" {_as_interval(model['log_density'])} against {_as_interval(process['log_density'])}; the difference is"
        f" {_as_difference(model['difference'])}, on {found['predictions']} values of {found['tasks']} tasks; the"
        f" truncated process has {_as_interval(truncated['log_density'])}",
        f"{name} on {group}: its calibration error is {verdict(model['ece_difference'])} the process's,"
        f" {model['ece'][0]:.2f} % against {process['ece'][0]:.2f} %",
        f"{name} on {group}: chosen on other tasks are temperature {tuned['temperature']:g}, and for the process"
        f" {fit}, mass beyond the interval {beyond}, deviation times {inflation}, uniform share {uniform}"
        + f"; {found['beyond']:.1%} of the values lie beyond it, {found['left_out']} failed or had no range before",
    ]  # fmt: skip


def notes() -> str:
    """How to read the main table."""
    return (
        "Log density: mean log-probability of the bin of the truth, in nats, on the unit interval, where the uniform"
        " distribution has 0; values beyond the interval count as in the first or last bin. So does the mass of the"
        " process that lies there, or it is cut off, as for the truncated one. ECE: expected calibration error of the"
        " events that the truth lies in each of 100 equal intervals, in 10 confidence bins, which cannot exceed 2 %;"
        " and of the likeliest interval alone. PIT distance: Kolmogorov and Smirnov's, of the truths' positions in"
        " their predicted distributions from uniform ones. In brackets 95 % bootstrap intervals over tasks; differences"
        " are those on the same predictions."
    )


def figure(columns: dict[str, Any]) -> Any:
    """The figure of log density by trial, and of the transforms: their histogram, and their distribution."""
    drawn = figure_of(12, 3.8)
    density, histogram, distribution = drawn.subplots(1, 3)
    for name, row in columns.items():
        style = {"color": COLOURS[name], "label": NAMES[name], "lw": 1.6}
        steps = {int(t): part["log_density"] for t, part in row["by_step"].items() if part["log_density"]}
        at, (mean, low, high) = list(steps), np.array(list(steps.values())).reshape(-1, 3).T
        density.plot(at, mean, marker="o", ms=4, **style)
        density.fill_between(at, low, high, color=COLOURS[name], alpha=0.15, lw=0)
        edges = np.linspace(0.0, 1.0, len(row["pit"]) + 1)
        histogram.stairs(np.array(row["pit"]) * len(row["pit"]), edges, **style)
        distribution.plot(edges, np.append(0.0, np.cumsum(row["pit"])), **style)
    histogram.axhline(1.0, color="black", lw=0.8, ls=":")
    distribution.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    density.set(xlabel="trial that is predicted", ylabel="log density, nats")
    histogram.set(xlabel="probability integral transform", ylabel="density", ylim=(0, None))
    distribution.set(xlabel="probability integral transform", ylabel="share below")
    density.legend(fontsize=9)
    return drawn


def _settings_of_process(process: dict[str, Any]) -> list[str]:
    kept = "cut off" if process["truncated"] else "kept"
    return [process["surrogate"], kept, f"{process['inflation']:g}", f"{process['uniform']:g}"]


def _as_interval(values: list[float] | None) -> str:
    return bracketed(values, ".3f", "-")


def _as_difference(values: list[float] | None) -> str:
    return bracketed(values, "+.3f", "-")
