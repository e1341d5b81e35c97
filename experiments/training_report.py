"""The report of a training: its curves, and how to use what was trained."""

import html
from pathlib import Path
from typing import Any

from experiments.page import figure_of, image, number, page, save_figure, table
from experiments.progress import duration
from l2o.files import write_whole
from meta.checkpoints import read_metrics
from meta.trainer import TrainingResult


def write(out: Path, experiment: Any, result: TrainingResult) -> None:
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
