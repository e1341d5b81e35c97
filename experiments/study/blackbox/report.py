"""The report of a study of black-box optimizers: a panel for each cell, tables, and sentences on who is below whom."""

import math
from functools import partial
from typing import Any

import numpy as np

from experiments.page import colours, panels
from experiments.study.report import Figure, Report, Section, Table, bracketed, optional, plus_minus, verdict, with_unit

ACROSS = 3  # panels of the figure
TIMES = ["per proposal", "in a batch"]


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    figure = Figure("curves.png", "regret by evaluation", partial(curves, results))
    sections = [
        Section(figure=figure, where="page"),
        Section("Over all cells", None, [overall(results)], over_seeds(results), notes(results)),
    ]
    for name in results["learned"]:
        sections.append(Section(f"{name}, run by run against the others", sentences=sayings(results, name)))
    for cell in results["cells"]:
        sections.append(Section(cell["cell"], tables=[of_cell(results, cell)], where="page and provenance"))
    return sections


def overall(results: dict[str, Any]) -> Table:
    """The main table: each column over all cells, best rank first."""
    study, first = results["study"], next(iter(results["learned"]), None)
    steps = list(map(str, study["steps"])) if study["relative_to"] else []
    header = ["optimizer", *(f"regret at {s} / {study['relative_to']}" for s in steps), "rank"]
    header += [f"{first} wins"] if first else []
    rows = []
    for column in results["columns"]:
        row = [column["name"], *(optional(column["ratio"][s]) for s in steps), bracketed(column["rank"], ".2f")]
        if first:
            won = column["won"].get(first, {}).get(str(study["steps"][-1]))
            row.append(bracketed(won, ".0%", "-"))
        rows.append([*row, *_times_of_proposals(column)])
    return Table([*header, *TIMES], rows, ours=results["learned"])


def of_cell(results: dict[str, Any], cell: dict[str, Any]) -> Table:
    """The table of a cell: mean regrets, the gaps to the reference, seconds per proposal."""
    study = results["study"]
    header = ["optimizer", *(f"regret at {s}" for s in study["steps"])]
    header += [f"gap at {s}" for s in study["steps"]] if study["reference"] else []
    rows = []
    for name in (column["name"] for column in results["columns"]):
        found = cell["columns"][name]
        row = [name]
        row += [plus_minus(found["mean"][str(s)]) for s in study["steps"]]
        for step in study["steps"] if study["reference"] else []:
            gap = found["gap"].get(str(step))
            row.append("-" if gap is None else bracketed(gap, "+.3f"))
        rows.append([*row, *_times_of_proposals(found), str(found["failed"])])
    return Table([*header, *TIMES, "failed"], rows, ours=results["learned"])


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
        parts = [f"{bracketed(rate, '.0%')} against {other}" for other, rate in won.items()]
        found.append(f"{name} at {step} wins {', '.join(parts)}")
    return found


def gaps(results: dict[str, Any], name: str) -> list[str]:
    """For each step, how far a learned optimizer is from the reference in each cell."""
    study, found = results["study"], []
    for step in map(str, study["steps"]):
        of = {cell["cell"]: cell["columns"][name]["gap"].get(step) for cell in results["cells"]}
        parts = [f"{bracketed(gap, '+.3f')} on {cell}" for cell, gap in of.items() if gap is not None]
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
        + ", ".join(f"{bracketed(ratio, '.3g')} at {step}" for step, ratio in ratios.items())
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


def curves(results: dict[str, Any]) -> Any:
    """The figure of mean regrets by evaluation, a panel for each cell."""
    cells, floor = results["cells"], results["study"]["floor"]
    across = min(ACROSS, len(cells))
    figure, places = panels(len(cells), across, 4, 3, beside=2)
    for axes, cell in zip(places, cells, strict=True):
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
    return figure


def _times_of_proposals(column: dict[str, Any]) -> list[str]:
    alone, batch = column["seconds"]["alone"], column["seconds"]["batch"]
    return [with_unit(alone), "-" if batch is None else with_unit(batch)]
