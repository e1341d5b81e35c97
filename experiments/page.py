"""Figures and self-contained HTML reports, readable on a phone."""

import base64
import html
import io
import math
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from experiments.progress import duration
from experiments.study import statistics
from experiments.study.grid.time_to_result import LARGEST, MEASURES, profile, ratios, rivals
from l2o.files import write_whole
from meta.checkpoints import read_metrics
from meta.trainer import TrainingResult

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
img { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.ours td { font-weight: 600; } .good { color: #1a7f37; } .bad { color: #b42318; } small { color: #59636e; }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


def number(value: float | None) -> str:
    """Four significant digits; "diverged" for what is not finite."""
    return f"{value:.4g}" if value is not None and math.isfinite(value) else "diverged"


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    write_whole(path, buffer.getvalue())


def page(title: str, body: str) -> str:
    """A complete HTML document with nothing outside itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def table(header: list[str], rows: list[list[str]], ours: Collection[str] = ()) -> str:
    """An HTML table; cells are HTML already. Rows whose first cell is in `ours` are set off."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=ours' if row[0] in ours else ''}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def image(path: Path, alt: str) -> str:
    """A PNG embedded in the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def figure_of(width: float = 8.0, height: float = 4.5) -> Any:
    """An empty figure, of a size in inches, that needs no display and leaves pyplot's backend and figures alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colours(name: str) -> Any:
    """Those of a map of distinct ones."""
    import matplotlib

    return matplotlib.colormaps[name].colors  # pyright: ignore[reportAttributeAccessIssue]


def training(out: Path, experiment: Any, result: TrainingResult) -> None:
    """curves.png and report.html of a finished training."""
    rows = read_metrics(out / "metrics.jsonl")
    figure = figure_of()
    loss_axes, final_axes = figure.subplots(1, 2)
    loss_axes.plot([r["step"] for r in rows], [r["meta_loss"] for r in rows], lw=1, label="meta-loss, training")
    checked = [r for r in rows if "validation" in r]
    steps = [r["step"] for r in checked]
    loss_axes.plot(steps, [r["validation"] for r in checked], "o-", ms=3, label="validation, averaged theta")
    if result.validation_step:
        loss_axes.axvline(result.validation_step, color="grey", ls=":", lw=1, label="theta that is kept")
    unit = "nats per token" if "loss_x" in rows[-1] else "mean meta-loss per inner step"
    loss_axes.set(xlabel="meta-step", ylabel=unit)
    loss_axes.legend(fontsize=8)
    parts = [name for name in checked[-1] if name.startswith("validation_")] if checked else []
    for name in parts:
        label = {"validation_final": "loss at the end of a run", "validation_x": "parameters", "validation_y": "values"}
        final_axes.plot(steps, [r[name] for r in checked], "o-", ms=3, label=label.get(name, name))
    imitates = "validation_x" in parts
    final_axes.set(xlabel="meta-step", ylabel="validation: nats per token" if imitates else "validation")
    final_axes.legend(fontsize=8)
    finals = [r[name] for r in checked for name in parts if r[name] is not None]
    if finals and min(finals) > 0 and not imitates:
        final_axes.set_yscale("log")
    save_figure(figure, out / "curves.png", dpi=130)
    facts = table(
        ["", ""],
        [
            ["meta-steps", str(result.step)],
            [
                "best validation meta-loss",
                f"{number(result.validation)} <small>(step {result.validation_step})</small>",
            ],
            ["meta-steps skipped", str(result.skipped)],
            ["time", duration(result.seconds)],
            *([["tokens per second", number(rows[-1]["tokens_per_second"])]] if "tokens" in rows[-1] else []),
            ["seed", str(experiment.seed)],
        ],
    )
    body = (
        f"<p>{html.escape(experiment.description)}</p>{facts}{image(out / 'curves.png', 'meta-training curves')}"
        f"<h2>Use it</h2><pre>{html.escape(use(out, experiment))}</pre>"
        f"<p>Compare it: <code>l2o study STUDY --optimizer {html.escape(str(out))}</code></p>"
        f"<h2>Config</h2><pre>{html.escape(experiment.toml())}</pre>"
    )
    write_whole(out / "report.html", page(f"Meta-training {out.name}", body))


def use(out: Path, experiment: Any) -> str:
    """Code that uses what an experiment trained."""
    if experiment.optimizer.build().native is None:
        return f"import l2o\nbest = l2o.minimize(f, bounds, optimizer={str(out)!r})"
    return f"import l2o\ntx = l2o.load({str(out)!r}).optax()"


def summary(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The main table of a study as text: per optimizer the mean of every measure, with 95 % intervals."""
    extra = [name for name in ("heldout_loss", "heldout_accuracy") if name in results["rows"][0]]
    columns = [*results["measures"], *extra]
    rows = []
    for name in results["curves"]:
        runs = [row for row in results["rows"] if row["optimizer"] == name]
        rates = sorted(set(results["chosen"].get(name, {}).values()))
        cells = [name, " / ".join(f"{rate:.3g}" for rate in rates)]
        cells[1] = cells[1] or ("learned" if name in results["learned"] else "-")
        for column in columns:
            mean, low, high = statistics.interval([row[column] for row in runs])
            cells.append(f"{mean:.4g} ± {(high - low) / 2:.2g}" if math.isfinite(mean) else "diverged")
        rows.append([*cells, str(sum(row["diverged"] for row in runs))])
    return ["optimizer", "learning rate", *(c.replace("_", " ") for c in columns), "diverged"], rows


def notes(results: dict[str, Any]) -> str:
    """How to read the table: what was held out, and how the learning rates were chosen."""
    study = results["study"]
    measure = study["tune"]["measure"]
    rule = {"each": "one for each measure", "mean": "one, for the mean loss of a run"}.get(
        measure, f"one, for the loss at step {measure}, used for all columns"
    )
    edge = f" At the edge of the grid: {', '.join(results['at_the_edge'])}." if results["at_the_edge"] else ""
    return (
        f"Means over {study['runs']} runs with 95 % intervals; lower is better. Starts, minibatches and, for images, "
        "the data are ones that neither meta-training nor tuning saw, the same for every optimizer. Learning rates "
        f"were chosen on the training family, {rule}.{edge}"
    )


def verdicts(results: dict[str, Any], name: str) -> list[str]:
    """Sentences: for each measure, which optimizers a learned one is below, with an interval that excludes zero.

    Where the interval of the mean difference leaves it open, often because of a single run that went astray, the
    share of runs won stands beside the name.
    """
    sentences = []
    for measure in results["measures"]:
        pairs = [c for c in results["comparisons"] if c["optimizer"] == name and c["measure"] == measure]
        sentences.append(f"{name} at {measure}: {verdict(pairs)}")
    return sentences


def verdict(pairs: list[dict[str, Any]]) -> str:
    """Part of a sentence on the paired comparisons of one optimizer with others: "below adam; above sgd"."""
    below = [c["against"] for c in pairs if c["high"] is not None and c["high"] < 0]
    above = [c["against"] for c in pairs if c["low"] is not None and c["low"] > 0]
    rest = [f"{c['against']} ({_why(c)})" for c in pairs if c["against"] not in below + above]
    named = (("below", below), ("above", above), ("undecided against", rest))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in named if names)


def _why(comparison: dict[str, Any]) -> str:
    won = f"{comparison['win_rate']:.0%} of runs won"
    return f"a run diverged, {won}" if comparison["difference"] is None else won


def study(out: Path, results: dict[str, Any]) -> None:
    """curves.png and report.html of a study."""
    figure = figure_of()
    axes = figure.subplots()
    for name, curve in results["curves"].items():
        mean, low, high = ([math.nan if v is None else v for v in curve[k]] for k in ("mean", "low", "high"))
        (line,) = axes.plot(mean, lw=2.2 if name in results["learned"] else 1.2, label=name)
        axes.fill_between(range(len(mean)), low, high, color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="mean over runs, 95 % interval")
    axes.legend(fontsize=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # log axes warn about curves that diverged everywhere
        save_figure(figure, out / "curves.png", dpi=130)

    header, rows = summary(results)
    learned = set(results["learned"])
    body = [f"<p>{html.escape(results['study']['description'])}</p>", image(out / "curves.png", "loss by step")]
    body.append(f"<h2>Loss</h2>{table(header, rows, learned)}")
    body.append(f"<p><small>{html.escape(notes(results))}</small></p>")
    for name in results["learned"]:
        body.append(f"<h2>{html.escape(name)}, run by run against the others</h2>")
        body.append("".join(f"<p>{html.escape(sentence)}.</p>" for sentence in verdicts(results, name)))
        body.append(_comparisons(results, name))
    body.append(f"<p><small>The study took {duration(results['seconds'])}.</small></p>")
    write_whole(out / "report.html", page(f"Study {out.name}", "".join(body)))


def _comparisons(results: dict[str, Any], name: str) -> str:
    pairs = [c for c in results["comparisons"] if c["optimizer"] == name]
    rows = []
    for c in pairs:
        if c["difference"] is None:
            difference = "a run diverged"
        else:
            kind = "good" if c["high"] < 0 else "bad" if c["low"] > 0 else ""
            difference = f'<span class="{kind}">{c["difference"]:+.3g} [{c["low"]:+.3g}, {c["high"]:+.3g}]</span>'
        wins = f"{c['win_rate']:.0%} <small>[{c['win_rate_low']:.0%}, {c['win_rate_high']:.0%}]</small>"
        rows.append([html.escape(c["against"]), html.escape(c["measure"]), difference, wins])
    return table(["against", "measure", "paired difference", "runs won"], rows)


def grid_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The main table of a grid as text: each column against the reference over all cells, best first."""

    header = [
        "optimizer", "rate", "final loss", "ratio to reference", "held-out ratio", "steps ratio", "runs won",
        "worst cell", "diverged", "accuracy", "profile (steps)", "profile (seconds)", "us/step",
    ]  # fmt: skip
    rows = []
    for c in sorted(results["columns"], key=lambda column: column["ratio"][0]):
        rates = sorted({cell["rate"] for cell in c["cells"] if cell["rate"] is not None})
        rate = "learned" if c["learned"] else f"{rates[0]:.3g}" if len(rates) == 1 else "each" if rates else "-"
        rows.append(
            [
                c["name"], rate, f"{c['loss'][0]:.3g}", _shown(c["ratio"]), _shown(c["heldout_ratio"]),
                _shown(c["steps_ratio"]), "{:.0%} [{:.0%}, {:.0%}]".format(*np.clip(c["win_rate"], 0, 1)),
                f"{c['worst']['ratio']:.3g} ({c['worst']['cell']})", str(c["diverged"]), f"{c['accuracy']:.4f}",
                f"{c['profile']['steps']:.2f}", f"{c['profile']['seconds']:.2f}", f"{c['microseconds']:.0f}",
            ]
        )  # fmt: skip
    return header, rows


def grid(out: Path, study: Any, results: dict[str, Any], rows: dict[str, list[dict[str, Any]]], cells: list) -> None:
    """heatmap.png, curves.png, profile.png and report.html of a grid."""
    columns = sorted(results["columns"], key=lambda column: column["ratio"][0])
    names = [column["name"] for column in columns]
    ratios = np.log10([[max(cell["ratio"][0], 1e-30) for cell in column["cells"]] for column in columns])
    figure = figure_of(4 + 0.42 * len(cells), 2.5 + 0.3 * len(columns))
    axes = figure.subplots()
    drawn = axes.imshow(np.clip(ratios, -3, 3), cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
    axes.set_xticks(range(len(cells)), [cell.name for cell in cells], rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(drawn, label=f"log10 of final loss / {results['reference']}")
    save_figure(figure, out / "heatmap.png", dpi=110)

    _profile_figure(out, results["columns"])
    learned = [column["name"] for column in columns if column["learned"]]
    shown = [*learned, results["reference"], *[n for n in names if n.endswith("-cosine (grid)")]]
    across = 4
    down = -(-len(cells) // across)
    figure = figure_of(4 * across, 2.6 * down)
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in places[len(cells) :]:
        axes.set_axis_off()
    for axes, (index, cell) in zip(places, enumerate(cells), strict=False):
        for name in shown:
            values = np.nan_to_num(rows[name][index]["value"].astype(float), nan=1e3, posinf=1e3)
            width = max(1, cell.horizon // 50)
            smooth = np.log(np.clip(values[:, 1:], study.floor, 1e3))
            smooth = smooth[:, : smooth.shape[1] // width * width].reshape(len(values), -1, width).mean((0, 2))
            axes.plot(np.arange(len(smooth)) * width, np.exp(smooth), lw=1.8 if name in learned else 1, label=name)
        axes.set(yscale="log", title=cell.name)
        axes.title.set_fontsize(9)
    figure.axes[0].legend(fontsize=6)
    save_figure(figure, out / "curves.png", dpi=80)

    header, body_rows = grid_table(results)
    body = [
        f"<p>{html.escape(study.description)}</p>", image(out / "heatmap.png", "log ratio of final loss per cell"),
        f"<h2>Over the grid</h2>{table(header, [[html.escape(c) for c in row] for row in body_rows], learned)}",
        f"<p><small>{_grid_notes(study, results)}</small></p>",
        "<h2>Where they fail</h2>",
        *(f"<p>{html.escape(line)}.</p>" for line in sentences(results)),
        f"<h2>Time to result</h2>{image(out / 'profile.png', 'performance profiles')}",
        f"<p><small>{_profile_notes(results)}</small></p>{table(*_times(columns, cells, results), learned)}",
        f"<h2>Curves</h2>{image(out / 'curves.png', 'training loss by step in every cell')}",
        "<h2>Final loss by cell</h2>",
    ]  # fmt: skip
    cell_rows = []
    for index, cell in enumerate(cells):
        values = [
            f"{c['cells'][index]['loss']:.3g} <small>{c['cells'][index]['ratio'][0]:.2g}x</small>" for c in columns
        ]
        cell_rows.append([cell.name, *values])
    body.append(table(["cell", *names], cell_rows))
    body.append("<h2>Held-out loss and accuracy by cell</h2>")
    cell_rows = []
    for index, cell in enumerate(cells):
        some = [c["cells"][index] for c in columns]
        cell_rows.append([cell.name, *(f"{s['heldout_loss']:.3g} <small>{s['accuracy']:.3f}</small>" for s in some)])
    body.append(table(["cell", *names], cell_rows))
    for name, found in results["groups"].items():
        body.append(f"<h2>{html.escape(name)}, over meta-training seeds</h2>")
        body.append(f"<p><small>Ratio to {html.escape(results['reference'])}, 95 % interval over seeds.</small></p>")
        body.append(table(["cell", "ratio"], [[c.name, _shown(r)] for c, r in zip(cells, found, strict=True)]))
    body.append(f"<p><small>The study took {duration(results['seconds'])}.</small></p>")
    write_whole(out / "report.html", page(f"Study {out.name}", "".join(body)))


def sentences(results: dict[str, Any]) -> list[str]:
    """A sentence per optimizer on where it fails: groups of seeds, learned ones, and the others at their grid rate."""
    from experiments.study.grid.run import failures, over_seeds

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


def _profile_figure(out: Path, columns: list[dict[str, Any]]) -> None:
    """profile.png: the share of workloads finished within a multiple of the shortest time."""
    figure = figure_of(11, 3.8)
    at = np.geomspace(1, LARGEST, 200)
    shown = [column["name"] for column in rivals(columns)]
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), MEASURES, strict=True):
        axes.set_prop_cycle(color=colours("tab20"))
        for column, ratio in zip(columns, ratios(columns, measure), strict=True):
            if column["name"] in shown:
                style = {"lw": 2.4} if column["learned"] else {"lw": 1.2}
                axes.step(at, profile(ratio, at), where="post", label=column["name"], **style)
        axes.set(xscale="log", xlabel=f"{measure} to the target / the fewest", xlim=(1, LARGEST), ylim=(0, 1.02))
        axes.set_xticks([1, 2, 3, 4], ["1", "2", "3", "4"])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("share of workloads")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    save_figure(figure, out / "profile.png", dpi=110)


def _times(columns: list[dict[str, Any]], cells: list, results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    some = rivals(columns)

    def time(cell):
        return (
            "never" if cell["steps"] is None else f"{cell['steps']:.0f} <small>{1e3 * cell['seconds']:.0f} ms</small>"
        )

    rows = [
        [cell.name, f"{results['targets'][i]:.3g}", *(time(c["cells"][i]) for c in some)]
        for i, cell in enumerate(cells)
    ]
    return ["workload", "target", *(c["name"] for c in some)], rows


def _profile_notes(results: dict[str, Any]) -> str:
    return (
        f"Steps and time until the smoothed training loss reaches the target, medians over runs. The target of a"
        f" workload is the final loss of {html.escape(results['reference'])}. Shown are learned optimizers, and others"
        " at their one rate for the whole grid; a workload that none of them finishes is left out. In the table over"
        f" the grid, the score of a profile is the area under it from 1 to {LARGEST:g}, between 0 and 1."
    )


def _shown(values: list[float]) -> str:
    return f"{values[0]:.3g} [{values[1]:.3g}, {values[2]:.3g}]"


def _grid_notes(study: Any, results: dict[str, Any]) -> str:
    tune, reference = study.tune, html.escape(results["reference"])
    return (
        f"{len(results['cells'])} cells, {study.runs} runs each; geometric means, 95 % intervals over runs; lower is"
        f" better. Final loss: mean over the last 20th of a run, clipped to [{study.floor:g}, 1000]. Ratios are to "
        f"{reference}. Steps ratio: steps until the smoothed loss reaches the reference's final loss, against the "
        "reference; twice the horizon where it never does. Runs won: share of runs below the reference's. Learning"
        " rates were chosen on the training split among "
        f"{tune.per_decade} per decade from {tune.low:g} to {tune.high:g}: on the centre cell, at the one rate best "
        "over the grid, and on each cell itself. us/step: microseconds for one step of one run, in batches."
    )
