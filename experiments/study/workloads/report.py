"""The report of a study over workloads: ratios to the references, where columns lose, groups, ladders, settings."""

from functools import partial
from typing import Any

import numpy as np

from experiments.page import colours, panels
from experiments.study import figures
from experiments.study.report import Figure, Report, Section, Shown, Table, bracketed
from experiments.study.time_to_result import LARGEST
from experiments.study.workloads.results import rivals
from experiments.study.workloads.settings import RATE, Setting

LOST = 1.1  # a ratio above which a loss is told of
ACROSS = 2  # panels of the figure of ladders


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    heat = Figure("heatmap.png", "log ratio of final loss by workload", partial(heatmap, results), dpi=110)
    profiles = Figure("profile.png", "performance profiles", partial(profile_figure, results), dpi=110)
    lines = Figure("curves.png", "training loss by step on every workload", partial(curves, results), dpi=80)
    return [
        Section(figure=heat, where="page"),
        Section("Over the suite", tables=[overall(results)], sentences=results["left_out"]),
        Section(notes=notes(results), where="page"),
        Section("Where they lose", sentences=sentences(results)),
        Section("By group", tables=by_group(results), where="page and provenance"),
        *ladders_section(results),
        Section("Time to result", profiles, [times(results)], notes=profile_notes(results), where="page"),
        Section("Curves", lines, where="page"),
        Section("By workload", tables=by_workload(results), where="page and provenance"),
        Section("Settings", tables=[settings_table(results)], sentences=end_sentences(results), where="page"),
        Section(sentences=edges(results)),
    ]


def references(results: dict[str, Any]) -> tuple[str, ...]:
    """The names of the references, without how their settings were chosen."""
    return tuple(results["study"]["references"])


def best_first(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns by their ratio to the first reference."""
    first = references(results)[0]
    return sorted(results["columns"], key=lambda column: column["ratio"][first][0])


def learned(results: dict[str, Any]) -> list[str]:
    """Names of the learned columns."""
    return [column["name"] for column in results["columns"] if column["learned"]]


def overall(results: dict[str, Any]) -> Table:
    """The main table: each column against the references over the suite, best first."""
    against = references(results)
    header = [
        "optimizer", "setting", *(f"ratio to {name}" for name in against), f"held-out ratio to {against[0]}",
        f"won against {against[0]}", f"worst against {against[0]}", "diverged", "profile (steps)", "profile (seconds)",
        "ms/step",
    ]  # fmt: skip
    suite = sum(workload["in_suite"] for workload in results["workloads"])
    rows = []
    for c in best_first(results):
        worst = c["worst"][against[0]]
        rows.append(
            [
                c["name"], setting_of(results, c), *(bracketed(c["ratio"][name], ".3g") for name in against),
                bracketed(c["heldout_ratio"][against[0]], ".3g", "-"), f"{c['won'][against[0]]} of {suite}",
                f"{worst['ratio']:.3g} ({worst['workload']})", str(c["diverged"]), f"{c['profile']['steps']:.2f}",
                f"{c['profile']['seconds']:.2f}", f"{c['microseconds'] / 1e3:.3g}",
            ]
        )  # fmt: skip
    return Table(header, rows, ours=learned(results))


def setting_of(results: dict[str, Any], column: dict[str, Any]) -> str:
    """The setting of a column in a table."""
    if column["learned"]:
        return "learned"
    if column["way"] == "each":
        return "each"
    return shown(results["chosen"][column["column"]]["suite"]) if column["way"] else "-"


def shown(setting: Setting) -> str:
    """A setting in a table: the learning rate, and what was tuned with it."""
    more = [f"{field} {value:.3g}" if isinstance(value, float) else f"{field} {value}"
            for field, value in setting.items() if field != RATE]  # fmt: skip
    return ", ".join([f"{setting[RATE]:.3g}", *more])


def sentences(results: dict[str, Any]) -> list[str]:
    """A sentence for each column that was not tuned, such as learned ones, on where it loses to the references."""
    return [losses(results, column) for column in results["columns"] if column["way"] == ""]


def losses(results: dict[str, Any], column: dict[str, Any]) -> str:
    """One sentence on where a column is worse than a reference by a tenth, with an interval that excludes a tie."""
    parts = []
    for reference in references(results):
        worse = [(cell["workload"], cell["ratio"][reference]) for cell in column["cells"]]
        worse = [f"{name} ({ratio:.3g})" for name, (ratio, low, _) in worse if low > 1 and ratio > LOST]
        parts += [f"loses to {reference} on {', '.join(worse)}"] if worse else []
    gone = [cell["workload"] for cell in column["cells"] if cell["diverged"]]
    parts += [f"runs diverged on {', '.join(gone)}"] if gone else []
    return f"{column['name']}: {'; '.join(parts) or 'loses nowhere'}"


def end_sentences(results: dict[str, Any]) -> list[str]:
    """Sentences on the best settings that are at an end of what was tried on single workloads."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for one in results["ends"]:
        if one["on"] != "the suite":
            found.setdefault((one["what"], one["column"], one["end"]), []).append(one["on"])
    return [f"the best {what} of {column} on {', '.join(on)} is the {end} tried"
            for (what, column, end), on in found.items()]  # fmt: skip


def edges(results: dict[str, Any]) -> list[str]:
    """Sentences on the best settings over the suite that are at an end of what was tried."""
    ended = [one for one in results["ends"] if one["on"] == "the suite"]
    return [f"the best {one['what']} of {one['column']} over the suite is the {one['end']} tried" for one in ended]


def by_workload(results: dict[str, Any]) -> list[Table]:
    """Final and held-out losses, each with its ratio to the first reference, by workload."""
    columns, against = best_first(results), references(results)[0]
    header = ["workload", *(column["name"] for column in columns)]

    def cell(of: dict[str, Any], loss: str, ratio: str) -> str | Shown:
        if of[loss] is None:
            return "-"
        return Shown(f"{of[loss][0]:.3g}", f"{of[ratio][against][0]:.2g}x")

    tables = []
    for title, loss, ratio in (
        ("Final loss", "loss", "ratio"),
        ("Held-out loss", "heldout_loss", "heldout_ratio"),
    ):
        rows = [
            [workload["name"], *(cell(column["cells"][i], loss, ratio) for column in columns)]
            for i, workload in enumerate(results["workloads"])
        ]
        tables.append(Table(header, rows, f"{title}, and its ratio to {against}"))
    return tables


def by_group(results: dict[str, Any]) -> list[Table]:
    """Ratios to each reference by group of workloads."""
    columns = best_first(results)
    names = list(columns[0]["groups"])
    return [
        Table(
            ["optimizer", *names],
            [[c["name"], *(bracketed(c["groups"][name][reference], ".3g") for name in names)] for c in columns]
            if names else [],
            f"Ratio to {reference} by group", learned(results),
        )
        for reference in references(results)
    ]  # fmt: skip


def ladders_section(results: dict[str, Any]) -> list[Section]:
    """The ratios along ladders, where there are any."""
    if not results["ladders"]:
        return []
    figure = Figure("ladders.png", "loss ratio against scale", partial(ladder_figure, results), dpi=110)
    tables = [
        Table(
            ["optimizer", *(f"x{scale:g}" for scale in ladder["scales"])],
            [[c["name"], *(bracketed(ratio, ".3g") for ratio in ladder["ratios"][c["name"]][reference])]
             for c in best_first(results)],
            f"{name}: ratio to {reference}", learned(results),
        )
        for name, ladder in results["ladders"].items() for reference in references(results)
    ]  # fmt: skip
    said = "At each scale, the geometric mean over the workloads of that scale; the references are tuned there, too."
    return [Section("Along the ladders", figure, tables, notes=said)]


def times(results: dict[str, Any]) -> Table:
    """Steps and time to the target of every workload."""
    some = rivals(best_first(results))

    def time(cell: dict[str, Any]) -> str | Shown:
        return "never" if cell["steps"] is None else Shown(f"{cell['steps']:.0f}", f"{cell['seconds']:.2g} s")

    rows = [
        [workload["name"], f"{target:.3g}", *(time(column["cells"][i]) for column in some)]
        for i, (workload, target) in enumerate(zip(results["workloads"], results["targets"], strict=True))
    ]
    return Table(["workload", "target", *(column["name"] for column in some)], rows)


def settings_table(results: dict[str, Any]) -> Table:
    """The best settings of every tuned column."""
    names = [workload["name"] for workload in results["workloads"]]
    rows = [
        [name, shown(chosen["suite"]), *(shown(chosen["each"][workload]) for workload in names)]
        for name, chosen in results["chosen"].items()
    ]
    return Table(["optimizer", "the suite", *names], rows)


def notes(results: dict[str, Any]) -> str:
    """How to read the main table."""
    study = results["study"]
    tune, suite = study["tune"], [workload for workload in results["workloads"] if workload["in_suite"]]
    return (
        f"{len(suite)} workloads, {study['runs']} runs each; geometric means, 95 % intervals over runs; lower is"
        f" better. Final loss: mean over the last 20th of a run, clipped to [{study['floor']:g}, 1000]. Ratios are to"
        f" {' and '.join(results['references'])}. Won: workloads on which the geometric mean of the loss is below."
        " Settings were chosen on the training split, by the mean log final loss of"
        f" {tune['runs']} runs, among {tune['per_decade']} rates per decade from {tune['low']:g} to {tune['high']:g}"
        " and what else was tuned with them: (suite) is the one that is best over all workloads, (each) the one that is"
        f" best on the workload itself. ms/step: milliseconds for one step of one run, {tune['runs']} side by side."
    )


def profile_notes(results: dict[str, Any]) -> str:
    """How to read times and profiles."""
    return (
        "Steps and time until the smoothed training loss reaches the target, medians over runs. The target of a"
        f" workload is the final loss of {results['references'][0]}. Shown are optimizers at one setting for all"
        " workloads; one that none of them finishes is left out. The score of a profile is the area under it from 1 to"
        f" {LARGEST:g}, between 0 and 1."
    )


def heatmap(results: dict[str, Any]) -> Any:
    """The figure of ratios to the first reference, by column and workload."""
    first, names = references(results)[0], [workload["name"] for workload in results["workloads"]]
    ratios = {c["name"]: [cell["ratio"][first][0] for cell in c["cells"]] for c in best_first(results)}
    return figures.heatmap(names, ratios, f"log10 of final loss / {results['references'][0]}", 1)


def profile_figure(results: dict[str, Any]) -> Any:
    """The figure of the shares of workloads of the suite that are finished within a multiple of the shortest time."""
    suite = [i for i, workload in enumerate(results["workloads"]) if workload["in_suite"]]
    return figures.profiles(
        [column | {"cells": [column["cells"][i] for i in suite]} for column in rivals(results["columns"])]
    )


def curves(results: dict[str, Any]) -> Any:
    """The figure of training losses on every workload."""
    names = [workload["name"] for workload in results["workloads"]]
    return figures.curves(names, results["curves"], learned(results))


def ladder_figure(results: dict[str, Any]) -> Any:
    """The figure of ratios to the first reference against scale, a panel a ladder."""
    first = references(results)[0]
    figure, places = panels(len(results["ladders"]), ACROSS, 5, 3.2, beside=2.5)
    for axes, (name, ladder) in zip(places, results["ladders"].items(), strict=True):
        axes.set_prop_cycle(color=colours("tab20"))
        for column in results["columns"]:
            values = np.array(ladder["ratios"][column["name"]][first]).T
            style = {"lw": 2.4} if column["learned"] else {"lw": 1.2}
            (line,) = axes.plot(ladder["scales"], values[0], "o-", ms=3, label=column["name"], **style)
            axes.fill_between(ladder["scales"], values[1], values[2], color=line.get_color(), alpha=0.1, lw=0)
        axes.set(xscale="log", yscale="log", title=name, xlabel="scale", ylabel=f"loss / {results['references'][0]}")
        axes.set_xticks(ladder["scales"], [f"x{scale:g}" for scale in ladder["scales"]])
        axes.minorticks_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure
