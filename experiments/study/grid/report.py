"""The report of a grid: ratios to the reference over the grid and by cell, where columns fail, times, curves."""

from functools import partial
from typing import Any

import numpy as np

from experiments.study import figures
from experiments.study.grid.cells import GridCell
from experiments.study.grid.ways import rivals
from experiments.study.report import Figure, Report, Section, Shown, Table, bracketed
from experiments.study.time_to_result import LARGEST


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    by_cell, held_out = final_losses(results), held_out_losses(results)
    heat = Figure("heatmap.png", "log ratio of final loss per cell", partial(heatmap, results), dpi=110)
    profiles = Figure("profile.png", "performance profiles", partial(profile_figure, results["columns"]), dpi=110)
    lines = Figure("curves.png", "training loss by step in every cell", partial(curves, results), dpi=80)
    return [
        Section(figure=heat, where="page"),
        Section("Over the grid", tables=[overall(results)]),
        Section(notes=notes(results), where="page"),
        Section("Where they fail", sentences=sentences(results)),
        Section("Time to result", profiles, [times(results)], notes=profile_notes(results), where="page"),
        Section("Curves", lines, where="page"),
        Section("Final loss by cell", tables=[by_cell], where="page"),
        Section("Held-out loss and accuracy by cell", tables=[held_out], where="page"),
        *(over_seeds_section(results, name) for name in results["groups"]),
    ]


def names_of_cells(results: dict[str, Any]) -> list[str]:
    """Names of the cells, in their order."""
    return [GridCell(**cell).name for cell in results["cells"]]


def best_first(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns by their ratio to the reference."""
    return sorted(results["columns"], key=lambda column: column["ratio"][0])


def learned(results: dict[str, Any]) -> list[str]:
    """Names of the learned columns."""
    return [column["name"] for column in results["columns"] if column["learned"]]


def overall(results: dict[str, Any]) -> Table:
    """The main table: each column against the reference over all cells, best first."""
    header = [
        "optimizer", "rate", "final loss", "ratio to reference", "held-out ratio", "steps ratio", "runs won",
        "worst cell", "diverged", "accuracy", "profile (steps)", "profile (seconds)", "us/step",
    ]  # fmt: skip
    rows = []
    for c in best_first(results):
        rates = sorted({cell["rate"] for cell in c["cells"] if cell["rate"] is not None})
        rate = "learned" if c["learned"] else f"{rates[0]:.3g}" if len(rates) == 1 else "each" if rates else "-"
        ratios_to_reference = [bracketed(c[of], ".3g") for of in ("ratio", "heldout_ratio", "steps_ratio")]
        rows.append(
            [
                c["name"], rate, f"{c['loss'][0]:.3g}", *ratios_to_reference,
                bracketed(np.clip(c["win_rate"], 0, 1).tolist(), ".0%"),
                f"{c['worst']['ratio']:.3g} ({c['worst']['cell']})", str(c["diverged"]), f"{c['accuracy']:.4f}",
                f"{c['profile']['steps']:.2f}", f"{c['profile']['seconds']:.2f}", f"{c['microseconds']:.0f}",
            ]
        )  # fmt: skip
    return Table(header, rows, ours=learned(results))


def times(results: dict[str, Any]) -> Table:
    """Steps and time to the target of every cell."""
    some = rivals(best_first(results))

    def time(cell: dict[str, Any]) -> str | Shown:
        return "never" if cell["steps"] is None else Shown(f"{cell['steps']:.0f}", f"{1e3 * cell['seconds']:.0f} ms")

    rows = [
        [name, f"{target:.3g}", *(time(c["cells"][i]) for c in some)]
        for i, (name, target) in enumerate(zip(names_of_cells(results), results["targets"], strict=True))
    ]
    return Table(["workload", "target", *(c["name"] for c in some)], rows)


def final_losses(results: dict[str, Any]) -> Table:
    """Final losses and their ratios to the reference, cell by cell."""
    columns = best_first(results)
    rows = [
        [name, *(Shown(f"{c['cells'][i]['loss']:.3g}", f"{c['cells'][i]['ratio'][0]:.2g}x") for c in columns)]
        for i, name in enumerate(names_of_cells(results))
    ]
    return Table(["cell", *(c["name"] for c in columns)], rows)


def held_out_losses(results: dict[str, Any]) -> Table:
    """Held-out losses and accuracies, cell by cell."""
    columns = best_first(results)
    rows = [
        [name, *(Shown(f"{c['cells'][i]['heldout_loss']:.3g}", f"{c['cells'][i]['accuracy']:.3f}") for c in columns)]
        for i, name in enumerate(names_of_cells(results))
    ]
    return Table(["cell", *(c["name"] for c in columns)], rows)


def over_seeds_section(results: dict[str, Any], name: str) -> Section:
    """A group of meta-training seeds, cell by cell."""
    pairs = zip(names_of_cells(results), results["groups"][name], strict=True)
    table = Table(["cell", "ratio"], [[cell, bracketed(ratio, ".3g")] for cell, ratio in pairs])
    said = f"Ratio to {results['reference']}, 95 % interval over seeds."
    return Section(f"{name}, over meta-training seeds", tables=[table], notes=said, where="page")


def sentences(results: dict[str, Any]) -> list[str]:
    """A sentence per optimizer on where it fails: groups of seeds, learned ones, and the others at their grid rate."""
    found = [over_seeds(results, name) for name in results["groups"]]
    centre = results["reference"].replace("(grid)", "(centre)")
    for column in rivals(results["columns"]):
        if column["name"] == results["reference"]:
            continue
        line = failures(column)
        if column["learned"]:
            worst = column["worst_by_centre"]
            line += f"; against {centre} at worst {worst['ratio']:.3g} times its loss, on {worst['cell']}"
        found.append(line)
    return found


def failures(column: dict[str, Any]) -> str:
    """One sentence on where an optimizer is worse than the reference, with an interval that excludes a tie."""
    worse = [c["cell"] for c in column["cells"] if c["ratio"][1] > 1]
    gone = [c["cell"] for c in column["cells"] if c["diverged"]]
    parts = []
    if worse:
        parts.append(f"worse than the reference on {', '.join(worse)}")
    if gone:
        parts.append(f"runs diverged on {', '.join(gone)}")
    return f"{column['name']}: {'; '.join(parts) or 'nowhere worse than the reference'}"


def over_seeds(results: dict[str, Any], name: str) -> str:
    """One sentence on where a group of meta-training seeds is better and worse than the reference."""
    named = [("better", []), ("worse", []), ("undecided", [])]
    for cell, (_, low, high) in zip(results["cells"], results["groups"][name], strict=True):
        named[0 if high < 1 else 1 if low > 1 else 2][1].append(GridCell(**cell).name)
    seeds = len(results["study"]["groups"][name])
    return f"{name}, {seeds} meta-training seeds: " + "; ".join(f"{w} on {', '.join(n)}" for w, n in named if n)


def notes(results: dict[str, Any]) -> str:
    """How to read the main table."""
    study, reference = results["study"], results["reference"]
    tune = study["tune"]
    return (
        f"{len(results['cells'])} cells, {study['runs']} runs each; geometric means, 95 % intervals over runs; lower is"
        f" better. Final loss: mean over the last 20th of a run, clipped to [{study['floor']:g}, 1000]. Ratios are to "
        f"{reference}. Steps ratio: steps until the smoothed loss reaches the reference's final loss, against the "
        "reference; twice the horizon where it never does. Runs won: share of runs below the reference's. Learning"
        " rates were chosen on the training split among "
        f"{tune['per_decade']} per decade from {tune['low']:g} to {tune['high']:g}: on the centre cell, at the one rate"
        " best over the grid, and on each cell itself. us/step: microseconds for one step of one run, in batches."
    )


def profile_notes(results: dict[str, Any]) -> str:
    """How to read times and profiles."""
    return (
        "Steps and time until the smoothed training loss reaches the target, medians over runs. The target of a"
        f" workload is the final loss of {results['reference']}. Shown are learned optimizers, and others at their one"
        " rate for the whole grid; a workload that none of them finishes is left out. In the table over the grid, the"
        f" score of a profile is the area under it from 1 to {LARGEST:g}, between 0 and 1."
    )


def heatmap(results: dict[str, Any]) -> Any:
    """The figure of ratios to the reference, by column and cell."""
    ratios = {column["name"]: [cell["ratio"][0] for cell in column["cells"]] for column in best_first(results)}
    return figures.heatmap(names_of_cells(results), ratios, f"log10 of final loss / {results['reference']}")


def profile_figure(columns: list[dict[str, Any]]) -> Any:
    """The figure of the shares of workloads that are finished within a multiple of the shortest time."""
    return figures.profiles(rivals(columns))


def curves(results: dict[str, Any]) -> Any:
    """The figure of training losses in every cell."""
    return figures.curves(names_of_cells(results), results["curves"], learned(results))
