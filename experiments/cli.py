"""The command line: `l2o --help` lists its commands."""

import contextlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import jax
import typer

from experiments.bench.commands import app as bench
from experiments.document import import_modules
from experiments.progress import print_table, say, terminal
from l2o.errors import UserError
from l2o.files import is_text
from meta.credentials import without_password

app = typer.Typer(
    no_args_is_help=True, help="Meta-train optimizers, compare them, use them.",
    epilog="Results go to standard output, progress to standard error. Example: l2o train lstm_digits",
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. meta.steps=500; repeatable."),
]
Import = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Import a module that registers kinds; repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Output directory; by default a fresh runs/<config>-<n>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
app.add_typer(bench, name="bench", epilog="Example: l2o bench update --quick")


@app.command(epilog="Example: l2o train lstm_digits --set meta.steps=500 --out runs/mine")
def train(
    config: Annotated[str, typer.Argument(help="A config's name or TOML file, or a run directory with --resume.")],
    overrides: Set = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of a directory.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard events there.")] = False,
    modules: Import = None,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where process 0 listens.")] = None,
    num_processes: Annotated[int | None, typer.Option(help="How many processes there are.")] = None,
    process_id: Annotated[int | None, typer.Option(help="Which of them this one is, from 0.")] = None,
    coordinator_timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="How long to wait.")] = 300,
) -> None:
    """Meta-train an optimizer. It runs on all devices of this or of several processes."""
    from experiments import run
    from experiments.directory import fresh_directory
    from experiments.run import Experiment
    from meta import parallel

    import_modules(modules)
    parallel.use_cores()
    parallel.start(coordinator, num_processes, process_id, coordinator_timeout)
    directory = Path(config)
    if resume and out is None:
        if not directory.is_dir():
            raise UserError(f"--resume: {config} is not a run directory, expected one that l2o train wrote")
        experiment, out = run.resumed_experiment(directory, overrides or []), directory
    elif directory.is_dir() and not resume and config not in Experiment.names():
        raise UserError(f"{config} is a directory: expected a config, or --resume to go on with the run in it")
    else:
        experiment = Experiment.load(config, overrides or [])
    out = out or Path(parallel.agree(lambda: str(fresh_directory(directory.stem))))
    if parallel.writes():
        print(f"run directory: {out}", flush=True)
    result = run.train(experiment, out, resume=resume, tensorboard=tensorboard)
    if not parallel.writes():
        raise typer.Exit(0 if result is None or result.finished else 130)
    if result is None:
        print(f"{out} is finished; nothing to do")
    elif not result.finished:
        again = shlex.join(["l2o", "train", str(out), "--resume", *(f"--import={name}" for name in modules or [])])
        print(f"stopped at step {result.step} of {experiment.meta.steps}; go on with: {again}")
        raise typer.Exit(130)
    else:
        print(
            f"finished: validation meta-loss {result.validation:.4f} at step {result.validation_step};"
            f" see {out / 'report.html'}"
        )


@app.command(epilog="Example: l2o study digits --optimizer runs/mine --optimizer mlp")
def study(
    config: Annotated[str, typer.Argument(help="A study's name or TOML file.")],
    optimizer: Annotated[
        list[str] | None, typer.Option(help="A shipped optimizer, a baseline or a run directory; repeatable.")
    ] = None,
    overrides: Set = None,
    out: Out = None,
    modules: Import = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in --out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the contents of results.json, and all else to standard error.")
    ] = False,
) -> None:
    """Compare optimizers on held-out tasks, each baseline tuned."""
    from experiments import study as studies
    from experiments.directory import fresh_directory

    import_modules(modules)
    chosen = studies.StudyConfig.load(config, overrides or [])
    if optimizer:
        chosen = chosen.model_copy(update={"optimizers": tuple(optimizer)})
    if resume and out is None:
        raise UserError("--resume goes on with a study: expected its directory as --out")
    out = out or fresh_directory(f"study_{Path(config).stem}")
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        results = studies.run(chosen, out, say=say, resume=resume)
        print(f"{studies.text(results)}\nreport: {out / 'report.html'}")
    if as_json:
        print(json.dumps(results))


@app.command(epilog="Example: l2o data bbob_tiny --out runs/data/mine")
def data(
    config: Annotated[str, typer.Argument(help="A recording's name or TOML file, or its directory with --resume.")],
    overrides: Set = None,
    out: Annotated[Path | None, typer.Option("--out", help="Output directory; by default runs/data/<config>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the shards that are there, make the rest.")] = False,
    modules: Import = None,
) -> None:
    """Record studies to train on. They are of teachers on random tasks, or read from files."""
    from experiments import data as recording
    from meta import parallel

    import_modules(modules)
    parallel.use_cores()
    directory = Path(config)
    if resume and out is None and directory.is_dir():
        chosen, out = recording.resumed(directory, overrides or []), directory
    else:
        chosen = recording.Data.load(config, overrides or [])
        out = out or Path("runs") / "data" / directory.stem
    print(f"data directory: {out}", flush=True)
    try:
        manifest = chosen.record(out, resume=resume)
    except KeyboardInterrupt:
        again = shlex.join(["l2o", "data", str(out), "--resume", *(f"--import={name}" for name in modules or [])])
        print(f"stopped; go on with: {again}")
        raise typer.Exit(130) from None
    print_table(*recording.summary(manifest))
    print(f"finished: {manifest.studies:,} studies in {len(manifest.shards)} shards")


@app.command(epilog="Example: l2o finetune sqlite:///mine.db --study first --steps 500")
def finetune(
    storage: Annotated[str, typer.Argument(help="URL of an Optuna storage, or a run directory with --resume.")],
    optimizer: Annotated[str, typer.Option(help="A shipped optimizer or a run directory.")] = "optformer",
    studies: Annotated[list[str] | None, typer.Option("--study", help="Name of one; repeatable; default all.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Meta-steps.")] = 300,
    overrides: Set = None,
    out: Annotated[Path | None, typer.Option(help="Output directory; by default a fresh runs/finetune-<n>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in a directory.")] = False,
) -> None:
    """Train an OptFormer further, on studies of an Optuna storage."""
    from experiments import finetune as tuning
    from experiments import run
    from experiments.directory import fresh_directory
    from meta import parallel

    parallel.use_cores()
    if resume:
        out = out or Path(storage)
        outcome = tuning.resumed(run.resumed_experiment(out, overrides or []), out)
    else:
        out = out or fresh_directory("finetune")
        print(f"run directory: {out}", flush=True)
        outcome = tuning.finetune(
            storage, out, optimizer=optimizer, studies=studies or (), steps=steps, overrides=overrides or []
        )
    if outcome is None:
        print(f"{out} is finished; nothing to do")
        return
    if outcome.before is None or outcome.after is None:
        again = shlex.join(["l2o", "finetune", str(out), "--resume"])
        print(f"stopped at step {outcome.steps}; go on with: {again}")
        raise typer.Exit(130)
    print_table(
        ["held-out studies, nats per token", "before", "after"],
        [
            [what, f"{outcome.before[name]:.3f}", f"{outcome.after[name]:.3f}"]
            for what, name in {"parameters": "validation_x", "values": "validation_y"}.items()
        ],
    )
    if outcome.after["validation"] >= outcome.before["validation"]:
        print("it did not get better: more studies, or a smaller meta.optimizer.learning_rate, may help")
    print(f"finished: l2o.OptFormerSampler(optimizer={str(out)!r}) uses it; see {out / 'report.html'}")


@app.command(epilog="Example: l2o resume runs/lstm_digits-1")
def resume(
    directory: Annotated[Path, typer.Argument(help="What l2o train, finetune, study or data wrote.")],
    overrides: Set = None,
    modules: Import = None,
) -> None:
    """Go on with what is in a directory. It is what --resume does of the command that wrote it."""
    from experiments.show import kind_of

    import_modules(modules)
    command = kind_of(directory)
    if command == "train":
        events = (directory / "tensorboard").is_dir()
        train(str(directory), overrides=overrides, resume=True, tensorboard=events, modules=modules)
    elif command == "finetune":
        finetune(str(directory), overrides=overrides, resume=True)
    elif command == "data":
        data(str(directory), overrides=overrides, resume=True, modules=modules)
    else:
        study(str(directory / "config.toml"), overrides=overrides, out=directory, modules=modules, resume=True)


@app.command(epilog="Example: l2o show mlp")
def show(
    name: Annotated[str, typer.Argument(help="A shipped optimizer, a directory that l2o wrote, or a study.jsonl.")],
    modules: Import = None,
    as_json: Json = False,
) -> None:
    """Tell what something is. How an optimizer was made and is used, what a study found, the trials of a log."""
    from experiments import show

    import_modules(modules)
    found = show.describe(name)
    print(show.strict_json(found) if as_json else "\n".join(show.lines_of(found)))


@app.command("list", epilog="Example: l2o list --json")
def list_(modules: Import = None, as_json: Json = False) -> None:
    """List what has a name, one line each. Shipped optimizers, baselines, tasks, configs, studies and so on."""
    from experiments import show

    import_modules(modules)
    found = show.listing()
    print(show.strict_json(found) if as_json else "\n".join(show.listing_lines(found)))


@app.command(epilog="Example: l2o configure runs/mine --set farthest=0.7 --out runs/narrowed")
def configure(
    name: Annotated[str, typer.Argument(help="A shipped optimizer, or a directory of a trained one.")],
    overrides: Set = None,
    out: Out = None,
) -> None:
    """Write a trained optimizer with other settings. What was trained stays as it is."""
    from experiments import ship
    from experiments.directory import fresh_directory

    print(f"configured: {ship.configure(name, out or fresh_directory(Path(name).resolve().name), overrides or [])}")


@app.command(epilog='Example: l2o ship runs/mine-1 runs/study_mine-1 mine "a line on what it is for"')
def ship(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    study: Annotated[Path, typer.Argument(help="A finished study that measured it.")],
    name: Annotated[str, typer.Argument(help="What it will be called.")],
    line: Annotated[str, typer.Argument(help="What l2o list says of it.")],
) -> None:
    """Make a trained optimizer one of the shipped ones. Its scores come along, and l2o.load(NAME) has it."""
    from experiments import ship

    print(f"shipped: {ship.ship(run, study, name, line)}")


@app.command(epilog="Example: l2o doctor")
def doctor(as_json: Json = False) -> None:
    """Tell what is installed and what is missing. Versions, devices, data and the compilation cache."""
    from experiments import doctor, show

    found = doctor.examine()
    print(show.strict_json(found) if as_json else "\n".join(doctor.lines_of(found)))
    raise typer.Exit(1 if found["broken"] else 0)


def main() -> None:
    """Run the command line; bad input is one sentence and exit code 2."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2o" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    with terminal():
        try:
            for argument in sys.argv[1:]:
                if not is_text(argument):
                    raise UserError(f"the argument {argument!r:.80} is not UTF-8 text, expected some that is")
            app(prog_name="l2o")
        except UserError as error:
            print(f"error: {without_password(str(error))}", file=sys.stderr)
            sys.exit(2)
