"""The report of a study of evolution strategies: runtime distributions, a heatmap, ranks, win rates, measures."""

import math
from functools import partial
from typing import Any

import numpy as np

from experiments.page import colours, figure_of, panels
from experiments.study.report import Figure, Report, Section, Table, bracketed, optional, plus_minus, with_unit

ACROSS = 3  # panels of the figure


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    ecdf = Section(figure=Figure("ecdf.png", "runtime distributions", partial(distributions, results)), where="page")
    heat = Section(figure=Figure("heatmap.png", "cell by cell", partial(heatmap, results)), where="page")
    sections = [ecdf, heat] if results["ecdf"] else [heat]
    sections.append(Section("Over all cells", tables=[overall(results)], notes=notes(results)))
    for name in results["learned"]:
        sections.append(Section(f"{name}: share of runs won", tables=[wins(results, name)]))
    for measure in results["study"]["measures"]:
        title = measure.replace("_", " ")
        sections.append(Section(title, tables=[measured(results, measure)]))
        for name in results["learned"]:
            sections.append(Section(f"{name}: {title}, run by run", tables=[differences(results, name, measure)]))
    return [section for section in sections if section.figure or any(table.rows for table in section.tables)]


def overall(results: dict[str, Any]) -> Table:
    """The main table: each column over all cells, best rank first, and what it was run with."""
    study, first = results["study"], next(iter(results["learned"]), None)
    header = ["optimizer", "mean rank", "ECDF area", *([f"{first} wins"] if first else []), "per evaluation"]
    header += [f"sigma, rate on {task}" for task in results["chosen"]]
    rows = []
    for column in results["columns"]:
        row = [column["name"], f"{column['rank']:.2f}", optional(column["area"], ".3f", "-")]
        if first:
            won = column["won"].get(first, {}).get("all cells")
            row.append("-" if won is None else _win_rate(won[str(study["steps"][-1])]))
        row.append(with_unit(column["seconds"]))
        rows.append([*row, *(_choice_as_text(of[column["name"]]) for of in results["chosen"].values())])
    return Table(header, rows, ours=results["learned"])


def wins(results: dict[str, Any], name: str) -> Table:
    """The share of runs that a learned optimizer wins, by set of cells and generation."""
    others = [column for column in results["columns"] if name in column["won"]]
    parts = list(others[0]["won"][name]) if others else []
    steps = list(map(str, results["study"]["steps"]))
    header = [f"{name} against", *(f"{part} at {s}" for part in parts for s in steps)]
    rows = [[c["name"], *(_win_rate(c["won"][name][part][s]) for part in parts for s in steps)] for c in others]
    return Table(header, rows, ours=results["learned"])


def measured(results: dict[str, Any], measure: str) -> Table:
    """The means of a measure with 95 % intervals, cell by cell."""
    cells = [cell for cell in results["cells"] if measure in next(iter(cell["columns"].values()))["measures"]]
    names = [column["name"] for column in results["columns"]]
    found = [[cell["columns"][n]["measures"][measure]["mean"] for cell in cells] for n in names]
    rows = [[n, *(plus_minus(mean, ".4g") for mean in of)] for n, of in zip(names, found, strict=True)]
    return Table([measure, *(cell["cell"] for cell in cells)], rows, ours=results["learned"])


def differences(results: dict[str, Any], name: str, measure: str) -> Table:
    """Paired differences of a measure, a learned optimizer minus the others, and the share of runs it is better in."""
    pairs = [c for c in results["comparisons"] if (c["optimizer"], c["measure"]) == (name, measure)]
    cells = list(dict.fromkeys(c["cell"] for c in pairs))
    rows: dict[str, list[str]] = {}
    for c in pairs:
        gap = bracketed([c["difference"], c["low"], c["high"]], "+.3g", "a run failed")
        rows.setdefault(c["against"], [c["against"]]).append(f"{gap}, better in {c['win_rate']:.0%}")
    return Table([f"{measure}, {name} minus", *cells], list(rows.values()), ours=results["learned"])


def notes(results: dict[str, Any]) -> str:
    """How to read the tables."""
    study = results["study"]
    tuned, trained = study["tune"], study["trained"]
    last = study["steps"][-1]
    held = "; held out is what meta-training never saw" if trained["functions"] or trained["dimensions"] else ""
    parts = [
        f"{len(results['cells'])} cells, {study['runs']} runs in each of {study['generations']} generations of"
        f" {study['population_size']}, on the same tasks and starts for every optimizer{held}. Compared is the lowest"
        f" value so far; regrets below {study['floor']:g} are equal. What asks for another number of points at a time"
        " gets as many evaluations.",
        f"Rank: after {last} generations, the mean over cells and runs. Wins: the share of runs in which the value is"
        " lower, ties count half, with 95 % intervals over resampled functions, because runs on one function are not"
        " independent.",
        "Every optimizer, learned ones too, runs with the initial standard deviation (a factor of the task's, among"
        f" {', '.join(f'{s:g}' for s in tuned['scales'])}) and, where it has one that is left open, the learning rate"
        f" (among {', '.join(f'{r:g}' for r in tuned['learning_rates'])}) of the best mean rank on other tasks:"
        " instances of the functions that meta-training saw, or the training split. A star marks the edge of a grid.",
        "Per evaluation: the time of a compiled run, its function included, several of them side by side.",
    ]
    if results["ecdf"]:
        parts.append(
            "ECDF: the share of 51 targets, log-uniform from 1e2 to 1e-8 above the minimum, that are reached; its area"
            " is the mean over the logarithm of the number of generations. Values have single precision, so on some"
            " functions nobody reaches the last targets."
        )
    if study["measures"]:
        better = "higher" if study["higher"] else "lower"
        parts.append(f"Measures are those of the best member of the last generation; {better} is better.")
    return " ".join(parts)


def distributions(results: dict[str, Any]) -> Any:
    """The figure of runtime distributions, a panel for each dimension."""
    found = results["ecdf"]
    across = min(ACROSS, len(found))
    figure, places = panels(len(found), across, 4, 3.2, beside=2.5)
    for axes, (title, panel) in zip(places, found.items(), strict=True):
        axes.set_prop_cycle(color=colours("tab20"))
        for name, share in panel["columns"].items():
            axes.step(panel["x"], share, where="post", lw=2.4 if name in results["learned"] else 1.2, label=name)
        axes.set(xscale="log", ylim=(0, 1), title=title, xlabel="evaluations / dimension")
    places[0].set_ylabel("share of functions, targets and runs")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def heatmap(results: dict[str, Any]) -> Any:
    """The figure of median final regrets, or ranks where some minima are unknown; what was held out has a star."""
    study, cells, names = results["study"], results["cells"], [column["name"] for column in results["columns"]]
    regrets = all(cell["known"] for cell in cells)
    by_dimension: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        by_dimension.setdefault(f"d = {cell['dimension']}" if cell["function"] else "", []).append(cell)
    groups = list(by_dimension.values())
    figure = figure_of(2.5 + len(groups) * (0.8 + 0.26 * len(names)), 2.6 + 0.2 * max(map(len, groups)))
    places = figure.subplots(1, len(groups), squeeze=False).flat
    for axes, (title, group) in zip(places, by_dimension.items(), strict=True):
        shown = np.array(
            [[_colour_of_cell(cell["columns"][n], regrets, study["floor"]) for n in names] for cell in group]
        )
        limits = (math.log10(study["floor"]), 4) if regrets else (1, len(names))
        axes.imshow(shown, cmap="viridis_r", vmin=limits[0], vmax=limits[1], aspect="auto")
        axes.set_title(f"{title}{_star_if_held_out(group, 'held-out dimensions')}", fontsize=9)
        labels = [
            f"{cell['function'] or cell['cell']}{_star_if_held_out([cell], 'held-out functions')}" for cell in group
        ]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(group)), labels, fontsize=7)
    label = "log10 of the median final regret" if regrets else "mean rank"
    held = " (* held out)" if study["trained"]["functions"] or study["trained"]["dimensions"] else ""
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label=label + held)
    return figure


def _colour_of_cell(column: dict[str, Any], regrets: bool, floor: float) -> float:
    if not regrets:
        return column["rank"]
    return math.inf if column["median"] is None else math.log10(max(column["median"], floor))


def _star_if_held_out(cells: list[dict[str, Any]], part: str) -> str:
    return " *" if all(part in cell["parts"] for cell in cells) else ""


def _choice_as_text(choice: dict[str, Any]) -> str:
    rate = choice["learning_rate"]
    return f"{choice['scale']:g}{'' if rate is None else f', {rate:g}'}{' *' if choice['edge'] else ''}"


def _win_rate(won: dict[str, Any]) -> str:
    interval = won["functions"]
    return f"{won['rate']:.0%}" if interval is None else bracketed([won["rate"], *interval], ".0%")
