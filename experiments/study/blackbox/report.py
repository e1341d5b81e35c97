"""The report of a study of black-box optimizers: a panel for each cell, tables, and sentences on who is below whom."""

import html
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from experiments.page import colours, figure_of, image, page, save_figure, table, verdict
from experiments.progress import duration
from l2o.files import write_whole

ACROSS = 3  # panels of the figure
TIMES = ["per proposal", "in a batch"]


def seconds_shown(seconds: float) -> str:
    """Two digits with a unit.

    >>> seconds_shown(0.0123)
    '12 ms'
    """
    unit, factor = ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{float(f'{seconds * factor:.2g}'):g} {unit}"


def overall(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The main table as text: each column over all cells, best rank first."""
    study, first = results["study"], next(iter(results["learned"]), None)
    steps = list(map(str, study["steps"])) if study["relative_to"] else []
    header = ["optimizer", *(f"regret at {s} / {study['relative_to']}" for s in steps), "rank"]
    header += [f"{first} wins"] if first else []
    rows = []
    for column in results["columns"]:
        rank, low, high = column["rank"]
        row = [column["name"], *(_number(column["ratio"][s]) for s in steps), f"{rank:.2f} [{low:.2f}, {high:.2f}]"]
        if first:
            won = column["won"].get(first, {}).get(str(study["steps"][-1]))
            row.append("-" if won is None else "{:.0%} [{:.0%}, {:.0%}]".format(*won))
        rows.append([*row, *_times(column)])
    return [*header, *TIMES], rows


def of_cell(results: dict[str, Any], cell: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of a cell as text: mean regrets, the gaps to the reference, seconds per proposal."""
    study = results["study"]
    header = ["optimizer", *(f"regret at {s}" for s in study["steps"])]
    header += [f"gap at {s}" for s in study["steps"]] if study["reference"] else []
    rows = []
    for name in (column["name"] for column in results["columns"]):
        found = cell["columns"][name]
        row = [name]
        for mean, low, high in (found["mean"][str(s)] for s in study["steps"]):
            row.append("failed" if mean is None else f"{mean:.3g} ± {(high - low) / 2:.2g}")
        for step in study["steps"] if study["reference"] else []:
            gap = found["gap"].get(str(step))
            row.append("-" if gap is None else _gap(gap))
        rows.append([*row, *_times(found), str(found["failed"])])
    return [*header, *TIMES, "failed"], rows


def sentences(results: dict[str, Any], name: str) -> list[str]:
    """For each cell and step, which columns a learned optimizer is below, with an interval that excludes zero."""
    found = []
    for cell in results["cells"]:
        for step in results["study"]["steps"]:
            pairs = [c for c in results["comparisons"]
                     if (c["optimizer"], c["cell"], c["step"]) == (name, cell["cell"], step)]  # fmt: skip
            found.append(f"{name} on {cell['cell']} at {step}: {verdict(pairs)}")
    return found


def wins(results: dict[str, Any], name: str) -> list[str]:
    """For each step, the share of runs over all cells that a learned optimizer wins against each column."""
    found = []
    for step in map(str, results["study"]["steps"]):
        won = {c["name"]: c["won"][name][step] for c in results["columns"] if name in c["won"]}
        parts = ["{:.0%} [{:.0%}, {:.0%}] against {}".format(*rate, other) for other, rate in won.items()]
        found.append(f"{name} at {step} wins {', '.join(parts)}")
    return found


def gaps(results: dict[str, Any], name: str) -> list[str]:
    """For each step, how far a learned optimizer is from the reference in each cell."""
    study, found = results["study"], []
    for step in map(str, study["steps"]):
        of = {cell["cell"]: cell["columns"][name]["gap"].get(step) for cell in results["cells"]}
        parts = [f"{_gap(gap)} on {cell}" for cell, gap in of.items() if gap is not None]
        if parts:
            found.append(f"({name} - {study['reference']}) / {study['relative_to']} at {step}: {', '.join(parts)}")
    return found


def sayings(results: dict[str, Any], name: str) -> list[str]:
    """All sentences on a learned optimizer."""
    return [*wins(results, name), *gaps(results, name), *sentences(results, name)]


def over_seeds(results: dict[str, Any]) -> list[str]:
    """A sentence for each group of meta-training seeds."""
    study = results["study"]
    return [
        f"{name}, {len(study['groups'][name])} meta-training seeds: regret over that of {study['relative_to']} "
        + ", ".join(f"{_interval(ratio)} at {step}" for step, ratio in ratios.items())
        for name, ratios in results["groups"].items()
    ]


def notes(results: dict[str, Any]) -> str:
    """How to read the tables."""
    study = results["study"]
    parts = [
        f"{len(results['cells'])} cells, {study['runs']} runs of {study['evaluations']} evaluations in each, on the"
        " same functions for every optimizer; 95 % intervals over runs; lower is better.",
        "Regret: the lowest value so far minus the minimum of the function. Rank: of the regret after"
        f" {study['steps'][-1]} evaluations among all optimizers, run by run. Wins: the share of runs in which the"
        f" regret is lower then; regrets below {study['floor']:g} are equal, and count half.",
    ]
    if study["relative_to"]:
        parts.append(
            f"Regrets over all cells: the mean over that of {study['relative_to']}, geometric mean over cells."
        )
    if study["reference"]:
        parts.append(
            f"Gap: (mean regret - that of {study['reference']}) / that of {study['relative_to']}, with a bootstrap over"
            " runs."
        )
    parts.append(
        "Per proposal: the mean time of an ask and a tell of one run, in a Python loop. In a batch: of a compiled"
        f" optimizer, the time of all its runs, {study['batch']} side by side and with the evaluation of the functions,"
        " over the number of all its proposals. Neither counts compilation."
    )
    return " ".join(parts)


def write(out: Path, results: dict[str, Any]) -> None:
    """curves.png and report.html."""
    _curves(out, results)
    learned = set(results["learned"])

    def shown(header, rows):
        return table(header, [[html.escape(text) for text in row] for row in rows], learned)

    body = [
        f"<p>{html.escape(results['study']['description'])}</p>", image(out / "curves.png", "regret by evaluation"),
        f"<h2>Over all cells</h2>{shown(*overall(results))}<p><small>{html.escape(notes(results))}</small></p>",
    ]  # fmt: skip
    body += [f"<p>{html.escape(line)}.</p>" for line in over_seeds(results)]
    for name in results["learned"]:
        body.append(f"<h2>{html.escape(name)}, run by run against the others</h2>")
        body += [f"<p>{html.escape(line)}.</p>" for line in sayings(results, name)]
    for cell in results["cells"]:
        body.append(f"<h2>{html.escape(cell['cell'])}</h2>{shown(*of_cell(results, cell))}")
    body.append(f"<p><small>The study took {duration(results['seconds'])}.</small></p>")
    write_whole(out / "report.html", page(f"Study {out.name}", "".join(body)))


def _curves(out: Path, results: dict[str, Any]) -> None:
    cells, floor = results["cells"], results["study"]["floor"]
    across = min(ACROSS, len(cells))
    down = -(-len(cells) // across)
    figure = figure_of(4 * across + 2, 3 * down)
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in places[len(cells) :]:
        axes.set_axis_off()
    for axes, cell in zip(places, cells, strict=False):
        axes.set_prop_cycle(color=colours("tab10"))
        for name, found in cell["columns"].items():
            series = ([math.nan if v is None else v for v in found["curve"][k]] for k in ("mean", "low", "high"))
            mean, low, high = (np.maximum(s, floor) for s in series)
            at = np.arange(1, len(mean) + 1)
            (line,) = axes.plot(at, mean, lw=2.4 if name in results["learned"] else 1.2, label=name)
            axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, lw=0)
        means = [v for found in cell["columns"].values() for v in found["curve"]["mean"] if v is not None]
        axes.set(yscale="log", title=cell["cell"])
        if means:  # bands may reach down to 0
            axes.set_ylim(max(floor, min(means)) / 2, max(means) * 2)
    for axes in places[max(len(cells) - across, 0) : len(cells)]:
        axes.set_xlabel("evaluations")
    places[0].set_ylabel("mean regret")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # log axes warn about curves that failed everywhere
        save_figure(figure, out / "curves.png", dpi=100)


def _times(column: dict[str, Any]) -> list[str]:
    alone, batch = column["seconds"]["alone"], column["seconds"]["batch"]
    return [seconds_shown(alone), "-" if batch is None else seconds_shown(batch)]


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.3g}"


def _gap(values: list[float | None]) -> str:
    return "failed" if None in values else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)


def _interval(values: list[float | None]) -> str:
    mean, low, high = map(_number, values)
    return f"{mean} [{low}, {high}]"
