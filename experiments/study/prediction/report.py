"""The report of a study of prediction: log densities, calibration, what was tuned, and a sentence on each."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page import figure_of, image, page, save_figure, table
from experiments.progress import duration
from l2o.files import write_whole

NAMES = {"model": "told the algorithm", "unknown": "not told", "gp": "Gaussian process", "truncated": "truncated GP"}
COLOURS = {"model": "tab:blue", "unknown": "tab:cyan", "gp": "tab:grey", "truncated": "tab:olive"}
BEST_FITS = 12  # rows of the table of fits
Text = tuple[list[str], list[list[str]]]


def overall(results: dict[str, Any], group: str, name: str) -> Text:
    """The main table of a model and a group of tasks as text: a row for each forecaster."""
    rows = []
    for column, row in results["groups"][group][name]["columns"].items():
        process = column == "gp"
        rows.append(
            [
                NAMES[column], _interval(row["log_density"]), "-" if process else _difference(row["difference"]),
                "-" if column == "truncated" else _difference(row["difference_truncated"]), _interval(row["ece"]),
                "-" if process else _difference(row["ece_difference"]), _interval(row["ece_likeliest"]),
                f"{row['distance']:.3f}",
            ]
        )  # fmt: skip
    header = [
        "", "log density", "less GP's", "less truncated GP's", "ECE %", "ECE less GP's", "ECE %, likeliest",
        "PIT distance",
    ]  # fmt: skip
    return header, rows


def parts(results: dict[str, Any], group: str, name: str, by: str) -> Text:
    """Log densities "by_step" or "by_teacher"."""
    columns = results["groups"][group][name]["columns"]
    rows = []
    for part in columns["gp"][by]:
        values = [_interval(column[by][part]["log_density"]) for column in columns.values()]
        differences = [_difference(column[by][part]["difference"]) for c, column in columns.items() if c != "gp"]
        rows.append([part, *values, *differences])
    header = [by.removeprefix("by_"), *(NAMES[c] for c in columns)]
    return [*header, *(f"{NAMES[c]} less GP" for c in columns if c != "gp")], rows


def tuned(results: dict[str, Any], group: str, name: str) -> dict[str, Text]:
    """What was tried on other tasks, with mean log densities there."""
    found = results["groups"][group][name]["tuned"]
    fits = [[*_process(process), f"{process['score']:.3f}"] for process in found["processes"][:BEST_FITS]]
    return {
        "temperatures of the model": (
            ["temperature", "log density"], [[f"{t:g}", f"{score:.3f}"] for t, score in found["temperatures"]],
        ),
        "Gaussian processes, the best ones": (
            ["fit", "mass beyond", "inflation", "uniform share", "log density"], fits,
        ),
    }  # fmt: skip


def sentences(results: dict[str, Any], group: str, name: str) -> list[str]:
    """What is found about a model on a group of tasks."""
    found = results["groups"][group][name]
    columns, tuned = found["columns"], found["tuned"]
    model, process, truncated = (columns[name] for name in ("model", "gp", "truncated"))

    def verdict(difference: list[float]) -> str:
        mean, low, high = difference
        return "the same within the interval as" if low <= 0 <= high else "higher than" if mean > 0 else "lower than"

    return [
        f"{name} on {group}: its log density is {verdict(model['difference'])} the process's,"
        f" {_interval(model['log_density'])} against {_interval(process['log_density'])}; the difference is"
        f" {_difference(model['difference'])}, on {found['predictions']} values of {found['tasks']} tasks; the"
        f" truncated process has {_interval(truncated['log_density'])}",
        f"{name} on {group}: its calibration error is {verdict(model['ece_difference'])} the process's,"
        f" {model['ece'][0]:.2f} % against {process['ece'][0]:.2f} %",
        f"{name} on {group}: chosen on other tasks are temperature {tuned['temperature']:g}, and for the process"
        " {}, mass beyond the interval {}, deviation times {}, uniform share {}".format(*_process(tuned["process"]))
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


def write(out: Path, results: dict[str, Any]) -> None:
    """predictions-*.png of each model and group, and report.html."""
    body = [f"<p>{html.escape(results['study']['description'])}</p>"]

    def shown(shape: Text) -> str:
        header, rows = shape
        return table(header, [[html.escape(text) for text in row] for row in rows])

    for group, by_model in results["groups"].items():
        for name in by_model:
            path = out / f"predictions-{group}-{name}.png"
            _figure(path, by_model[name]["columns"])
            body += [f"<h2>{html.escape(f'{name} on {group}')}</h2>"]
            body += [f"<p>{html.escape(line)}.</p>" for line in sentences(results, group, name)]
            body += [
                shown(overall(results, group, name)), f"<p><small>{html.escape(notes())}</small></p>",
                image(path, "log density by trial, and distributions of transforms"),
                *(shown(parts(results, group, name, by)) for by in ("by_step", "by_teacher")),
            ]  # fmt: skip
            for title, text in tuned(results, group, name).items():
                body.append(f"<p>On tasks to tune on, the {html.escape(title)}:</p>{shown(text)}")
    body.append(f"<p><small>The study took {duration(results['seconds'])}.</small></p>")
    write_whole(out / "report.html", page(f"Study {out.name}", "".join(body)))


def _figure(path: Path, columns: dict[str, Any]) -> None:
    """Log density by trial, the histogram of the transforms, and their distribution against the diagonal."""
    figure = figure_of(12, 3.8)
    density, histogram, distribution = figure.subplots(1, 3)
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
    save_figure(figure, path, dpi=100)


def _process(process: dict[str, Any]) -> list[str]:
    kept = "cut off" if process["truncated"] else "kept"
    return [process["surrogate"], kept, f"{process['inflation']:g}", f"{process['uniform']:g}"]


def _interval(values: list[float] | None) -> str:
    return "-" if values is None else "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def _difference(values: list[float] | None) -> str:
    return "-" if values is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)
