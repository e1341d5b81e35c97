"""The report of a study of losses: curves, a table of means, and who is below whom."""

import math
from functools import partial
from typing import Any

from experiments.page import figure_of
from experiments.study import statistics
from experiments.study.report import Figure, Report, Section, Shown, Table, bracketed, plus_minus, verdict


def report(results: dict[str, Any]) -> Report:
    """The sections of the report."""
    sections = [
        Section(figure=Figure("curves.png", "loss by step", partial(curves, results), dpi=130), where="page"),
        Section("Loss", tables=[means(results)], notes=notes(results)),
    ]
    for name in results["learned"]:
        title = f"{name}, run by run against the others"
        sections.append(Section(title, sentences=verdicts(results, name)))
        sections.append(Section(tables=[comparisons(results, name)], where="page"))
    return sections


def means(results: dict[str, Any]) -> Table:
    """The main table: per optimizer the mean of every measure, with 95 % intervals."""
    extra = [name for name in ("heldout_loss", "heldout_accuracy") if name in results["rows"][0]]
    columns = [*results["measures"], *extra]
    rows = []
    for name in results["curves"]:
        runs = [row for row in results["rows"] if row["optimizer"] == name]
        rates = sorted(set(results["chosen"].get(name, {}).values()))
        cells = [name, " / ".join(f"{rate:.3g}" for rate in rates)]
        cells[1] = cells[1] or ("learned" if name in results["learned"] else "-")
        for column in columns:
            cells.append(plus_minus(statistics.interval([row[column] for row in runs]), ".4g", "diverged"))
        rows.append([*cells, str(sum(row["diverged"] for row in runs))])
    header = ["optimizer", "learning rate", *(c.replace("_", " ") for c in columns), "diverged"]
    return Table(header, rows, ours=results["learned"])


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
    """Sentences: for each measure, which optimizers a learned one is below, with an interval that excludes zero."""
    sentences = []
    for measure in results["measures"]:
        pairs = [c for c in results["comparisons"] if c["optimizer"] == name and c["measure"] == measure]
        sentences.append(f"{name} at {measure}: {verdict(pairs)}")
    return sentences


def comparisons(results: dict[str, Any], name: str) -> Table:
    """Paired differences of a learned optimizer from the others, and the shares of runs that it wins."""
    rows = []
    for c in (c for c in results["comparisons"] if c["optimizer"] == name):
        difference = bracketed([c["difference"], c["low"], c["high"]], "+.3g", "a run diverged")
        known = c["difference"] is not None
        tone = "good" if known and c["high"] < 0 else "bad" if known and c["low"] > 0 else ""
        interval = f"[{c['win_rate_low']:.0%}, {c['win_rate_high']:.0%}]"
        rows.append([c["against"], c["measure"], Shown(difference, tone=tone), Shown(f"{c['win_rate']:.0%}", interval)])
    return Table(["against", "measure", "paired difference", "runs won"], rows)


def curves(results: dict[str, Any]) -> Any:
    """The figure of mean losses by step."""
    figure = figure_of()
    axes = figure.subplots()
    for name, curve in results["curves"].items():
        mean, low, high = ([math.nan if v is None else v for v in curve[k]] for k in ("mean", "low", "high"))
        (line,) = axes.plot(mean, lw=2.2 if name in results["learned"] else 1.2, label=name)
        axes.fill_between(range(len(mean)), low, high, color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="mean over runs, 95 % interval")
    axes.legend(fontsize=9)
    return figure
