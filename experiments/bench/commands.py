"""`l2o bench NAME`: measure, print, save; `l2o bench --help` lists the names."""

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from experiments.directory import fresh_directory
from l2o.errors import UserError
from l2o.files import write_whole
from meta import parallel

app = typer.Typer(no_args_is_help=True, help="Measure speed and bias, print it, and save it as JSON.")
Quick = Annotated[bool, typer.Option("--quick", help="Smallest sizes only, to see that it runs.")]
Out = Annotated[Path | None, typer.Option("--out", help="Output directory; by default a fresh runs/bench_<name>-<n>.")]


def save(name: str, out: Path | None, measure: Any) -> None:
    """Run a measurement and write its rows, with what they were taken on."""
    out = out or fresh_directory(f"bench_{name}")
    out.mkdir(parents=True, exist_ok=True)
    devices = jax.devices()
    found = measure(out)
    machine = {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    write_whole(out / f"{name}.json", json.dumps({"machine": machine, **found}, indent=1) + "\n")
    print(f"saved: {out / f'{name}.json'}")


@app.command()
def suggestion(quick: Quick = False, out: Out = None) -> None:
    """Latency of an OptFormer's suggestion by the trials it has read."""
    from experiments.bench import suggestion

    save("suggestion", out, lambda out: suggestion.run(quick))


@app.command()
def update(quick: Quick = False, out: Out = None) -> None:
    """Cost of one update per parameter, against optax.adam and a plain haiku DeepRNN."""
    from experiments.bench import update

    save("update", out, lambda out: update.run(quick))


@app.command()
def rules(quick: Quick = False, out: Out = None) -> None:
    """Cost of one update of rules for whole tensors, beside optax.contrib.muon."""
    from experiments.bench import rules

    save("rules", out, lambda out: rules.run(quick))


@app.command()
def collectives(quick: Quick = False, out: Out = None) -> None:
    """What four devices send each other in an update of rules for whole tensors, beside optax.contrib.muon."""
    from experiments.bench import collectives

    parallel.use_cores(collectives.DEVICES)
    save("collectives", out, lambda out: collectives.run(quick))


@app.command("meta_step")
def meta_step(
    quick: Quick = False,
    out: Out = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="A config's name or TOML file, to measure its meta-steps alone."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the config; repeatable."),
    ] = None,
    cpu_devices: Annotated[int | None, typer.Option(min=1, help="CPU devices; by default one per core.")] = None,
) -> None:
    """Meta-steps per second, against a Python loop over a jitted step, or those of a config."""
    from experiments.bench import meta_step
    from experiments.run import Experiment

    if overrides and config is None:
        raise UserError("--set changes a field of a config: name one with --config")
    experiment = None if config is None else Experiment.load(config, overrides or [])
    parallel.use_cores(cpu_devices)
    save(
        "meta_step", out,
        lambda out: meta_step.run(quick) if experiment is None else meta_step.run_config(experiment, quick),
    )  # fmt: skip


@app.command()
def scaling(quick: Quick = False, out: Out = None) -> None:
    """Time and memory of a meta-step against tasks, window length and parameters."""
    from experiments.bench import scaling

    save("scaling", out, lambda out: scaling.run(quick))


@app.command()
def bias(
    quick: Quick = False,
    out: Out = None,
    figure: Annotated[Path | None, typer.Option(help="Where to draw; by default into the output directory.")] = None,
) -> None:
    """Mean estimates and learning curves on the influence-balancing example."""
    from experiments.bench import bias

    save("bias", out, lambda out: bias.run(quick, figure or out / "influence_balancing.png"))


@app.command()
def proposal(quick: Quick = False, out: Out = None) -> None:
    """Time of a black-box proposal, from Python and inside a compiled run, beside GP-EI."""
    from experiments.bench import proposal

    save("proposal", out, lambda out: proposal.run(quick))


@app.command()
def generation(quick: Quick = False, out: Out = None) -> None:
    """Generations per second of evolution strategies beside evosax's, and evaluations per second of meta-training."""
    from experiments.bench import generation

    save("generation", out, lambda out: generation.run(quick))


@app.command()
def tuners(quick: Quick = False, out: Out = None) -> None:
    """Latency of a suggestion after 40 trials, beside GP-UCB and samplers of Optuna."""
    from experiments.bench import tuners

    save("tuners", out, lambda out: tuners.run(quick))
