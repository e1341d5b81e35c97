"""The command line: l2o train, l2o study, l2o data, l2o finetune, l2o list."""

import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import jax
import typer

import l2o
from experiments.progress import say, terminal
from l2o.errors import UserError
from l2o.files import is_text
from meta.credentials import without_password

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Meta-train optimizers, compare them, use them.",
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


def import_modules(modules: list[str] | None) -> None:
    """Import a user's modules, which may lie in the working directory.

    Raises:
      UserError: there is no such module.
    """
    for name in modules or []:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(name)
        except (
            ModuleNotFoundError,
            ValueError,
            TypeError,
        ) as error:  # not there, or a kind that is taken
            raise UserError(f"--import {name}: {error}, expected a module on the path or in this directory") from None


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A config's name or TOML file, or a run directory with --resume.")],
    overrides: Set = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of a run directory.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard events into the run directory.")
    ] = False,
    modules: Import = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Several processes: where process 0 listens.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(help="Several processes: how many.")] = None,
    process_id: Annotated[int | None, typer.Option(help="Several processes: which this one is, from 0.")] = None,
    coordinator_timeout: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="How long to wait for the other processes.")
    ] = 300,
) -> None:
    """Meta-train an optimizer from a config, on all devices of this or of several processes."""
    from experiments import run
    from experiments.study.base import Experiment
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
    out = out or Path(parallel.agree(lambda: str(run.fresh_directory(directory.stem))))
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


@app.command()
def study(
    config: Annotated[str, typer.Argument(help="A study's name or TOML file.")],
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer",
            help="A shipped optimizer, a baseline or a run directory; repeatable.",
        ),
    ] = None,
    overrides: Set = None,
    out: Out = None,
    modules: Import = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study of many cells in --out.")] = False,
) -> None:
    """Compare optimizers on held-out tasks, each baseline tuned."""
    from experiments import page as report
    from experiments import run
    from experiments.study.base import STUDIES, BlackBox, Imitation, Population, Prediction, Study, Tuning, load_study
    from experiments.study.blackbox import report as report_blackbox
    from experiments.study.blackbox import run as blackbox
    from experiments.study.curves import run as studies
    from experiments.study.grid import run as grid
    from experiments.study.imitation import report as report_imitation
    from experiments.study.imitation import run as imitation
    from experiments.study.population import report as report_population
    from experiments.study.population import run as population
    from experiments.study.prediction import report as report_prediction
    from experiments.study.prediction import run as prediction
    from experiments.study.tuning import report as report_tuning
    from experiments.study.tuning import run as tuning

    import_modules(modules)
    chosen = load_study(config, overrides or [])
    if optimizer:
        chosen = chosen.model_copy(update={"optimizers": tuple(optimizer)})
    if resume and (out is None or isinstance(chosen, Study)):
        raise UserError(
            f"--resume goes on with a study of kind {', '.join(STUDIES)}: expected one, and its directory as --out"
        )
    out = out or run.fresh_directory(f"study_{Path(config).stem}")

    if isinstance(chosen, BlackBox):
        found = blackbox.run(chosen, out, say=say, resume=resume)
        print_table(*report_blackbox.overall(found))
        print(report_blackbox.notes(found))
        lines = report_blackbox.over_seeds(found)
        for name in found["learned"]:
            lines += report_blackbox.sayings(found, name)
        print("\n".join([*lines, f"report: {out / 'report.html'}"]))
        return
    if isinstance(chosen, Population):
        found = population.run(chosen, out, say=say, resume=resume)
        for title, shown in report_population.tables(found).items():
            print(f"{title}:")
            print_table(*shown)
        print(report_population.notes(found))
        print(f"report: {out / 'report.html'}")
        return
    if isinstance(chosen, Imitation):
        found = imitation.run(chosen, out, say=say, resume=resume)
        for name in found["learned"]:
            print(f"{name}:")
            print_table(*report_imitation.overall(found, name))
            print("\n".join(report_imitation.sentences(found, name)))
        print(report_imitation.notes())
        print(f"report: {out / 'report.html'}")
        return
    if isinstance(chosen, Prediction):
        found = prediction.run(chosen, out, say=say, resume=resume)
        for group, by_model in found["groups"].items():
            for name in by_model:
                print(f"{name} on {group}:")
                print_table(*report_prediction.overall(found, group, name))
                print("\n".join(report_prediction.sentences(found, group, name)))
        print(report_prediction.notes())
        print(f"report: {out / 'report.html'}")
        return
    if isinstance(chosen, Tuning):
        found = tuning.run(chosen, out, say=say, resume=resume)
        for title, shown in report_tuning.tables(found).items():
            print(f"{title}:")
            print_table(*shown)
        print("\n".join(report_tuning.sayings(found)))
        print(f"report: {out / 'report.html'}")
        return
    if not isinstance(chosen, Study):
        found = grid.run(chosen, out, say=say, resume=resume)
        print_table(*report.grid_table(found))
        for sentence in report.sentences(found):
            print(sentence)
        print(f"report: {out / 'report.html'}")
        return
    results = studies.run(chosen, out, say=say)
    header, rows = report.summary(results)
    print_table(header, rows)
    print(report.notes(results))
    for name in results["learned"]:
        for sentence in report.verdicts(results, name):
            print(sentence)
    print(f"report: {out / 'report.html'}")


@app.command()
def data(
    config: Annotated[str, typer.Argument(help="A recording's name or TOML file, or its directory with --resume.")],
    overrides: Set = None,
    out: Annotated[Path | None, typer.Option("--out", help="Output directory; by default runs/data/<config>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the shards that are there, make the rest.")] = False,
    modules: Import = None,
) -> None:
    """Record studies, of teachers on random tasks or from files, to train on."""
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


@app.command()
def finetune(
    storage: Annotated[str, typer.Argument(help="URL of an Optuna storage, or a run directory with --resume.")],
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="A shipped optimizer or a run directory.")
    ] = "optformer",
    studies: Annotated[
        list[str] | None, typer.Option("--study", help="Name of a study; repeatable; all by default.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Meta-steps.")] = 300,
    overrides: Set = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output directory; by default a fresh runs/finetune-<n>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in a directory.")] = False,
) -> None:
    """Train an OptFormer further, on the studies of an Optuna storage."""
    from experiments import finetune as tuning
    from experiments import run
    from meta import parallel

    parallel.use_cores()
    if resume:
        out = out or Path(storage)
        outcome = tuning.resumed(run.resumed_experiment(out, overrides or []), out)
    else:
        out = out or run.fresh_directory("finetune")
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


@app.command("list")
def list_(modules: Import = None) -> None:
    """Shipped optimizers, baselines, task families, configs and studies, one line each."""
    import tasks
    from experiments.data import Data
    from experiments.study.base import Experiment, Study, load_study
    from l2o.baselines.optax import TunedConfig
    from l2o.core import BaselineConfig, OptimizerConfig
    from meta.curriculum import HorizonConfig
    from meta.estimator import EstimatorConfig
    from meta.learner.base import LearnerConfig
    from meta.objective import ObjectiveConfig
    from meta.recordings.rollouts import SourceConfig

    import_modules(modules)
    groups: dict[str, dict[str, str]] = {
        "shipped optimizers": {name: _shipped(l2o.load(name)) for name in l2o.names()},
        "architectures": _first_lines(OptimizerConfig),
        "baselines": {
            name: f"{_state(cast(Any, cls)().build(1.0) if issubclass(cls, TunedConfig) else None)}  {line}"
            for (name, line), cls in zip(
                _first_lines(BaselineConfig).items(), l2o.kinds(BaselineConfig).values(), strict=True
            )
        },
        "task families": _first_lines(tasks.FamilyConfig),
        "datasets": _first_lines(tasks.DatasetConfig),
        "meta-losses (meta.objective)": _first_lines(ObjectiveConfig),
        "estimators (meta.estimator)": _first_lines(EstimatorConfig),
        "meta-optimizers (meta.optimizer)": _first_lines(LearnerConfig),
        "horizons (meta.horizon)": _first_lines(HorizonConfig),
        "sources of studies (source)": _first_lines(SourceConfig),
        "configs (l2o train)": {name: Experiment.load(name).description for name in Experiment.names()},
        "studies (l2o study)": {
            name: f"{'' if isinstance(study, Study) else study.kind:10}  {study.description}"
            for name, study in ((name, load_study(name)) for name in Study.names())
        },
        "recordings (l2o data)": {name: Data.load(name).description for name in Data.names()},
    }
    for title, entries in groups.items():
        print(title)
        width = max((len(name) for name in entries), default=0)
        for name, description in entries.items():
            print(f"  {name:<{width}}  {description}".rstrip())


def _state(optimizer: l2o.Optimizer | None) -> str:
    """Memory of an optimizer that reads gradients; what others keep does not grow with the parameters alone."""
    shown = "" if optimizer is None else f"{l2o.state_bytes(optimizer):4.0f} B/param"
    return f"{shown:12}"


def _shipped(loaded: l2o.Loaded) -> str:
    optimizer = None if loaded.learned.native is None else loaded.optimizer
    return f"{_state(optimizer)}  {loaded.provenance.get('description', '')}"


def _first_lines(room: type[l2o.Config]) -> dict[str, str]:
    return {name: (cls.__doc__ or "").split("\n")[0] for name, cls in l2o.kinds(room).items()}


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Run the command line; bad input is one sentence and exit code 2."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2o" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    with terminal():
        try:
            for argument in sys.argv[1:]:
                if not is_text(argument):
                    raise UserError(
                        f"the argument {argument!r:.80} is not UTF-8 text, expected text and names that are"
                    )
            app()
        except UserError as error:
            print(f"error: {without_password(str(error))}", file=sys.stderr)
            sys.exit(2)
