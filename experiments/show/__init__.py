"""What `l2o list` and `l2o show` tell: a document of plain values, and its lines for a person."""

import json
import math
from pathlib import Path
from typing import Any, cast

import jax

import l2o
import tasks
from experiments.data import Data, summary
from experiments.progress import aligned, duration
from experiments.run import Experiment
from experiments.show import log
from experiments.show.log import shown, table_of
from experiments.study import StudyConfig, provenance, results_of, text
from l2o.errors import UserError
from l2o.files import exists
from l2o.loaded import ZOO
from l2o.registry import kinds
from meta.curriculum import HorizonConfig
from meta.estimator import EstimatorConfig
from meta.learner.base import LearnerConfig
from meta.objective import ObjectiveConfig
from meta.recordings.rollouts import SourceConfig
from meta.recordings.trajectories import MANIFEST, read_manifest

JSONObject = dict[str, Any]
TITLES = {
    "shipped_optimizers": "shipped optimizers",
    "architectures": "architectures",
    "baselines": "baselines",
    "task_families": "task families",
    "datasets": "datasets",
    "corpora": "corpora",
    "objectives": "meta-losses (meta.objective)",
    "estimators": "estimators (meta.estimator)",
    "meta_optimizers": "meta-optimizers (meta.optimizer)",
    "horizons": "horizons (meta.horizon)",
    "sources": "sources of studies (source)",
    "configs": "configs (l2o train)",
    "studies": "studies (l2o study)",
    "recordings": "recordings (l2o data)",
}


def strict_json(document: Any) -> str:
    """JSON as the standard has it: a number that is not finite becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(name): plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(document), indent=2, allow_nan=False)


def listing() -> dict[str, list[JSONObject]]:
    """Everything that has a name, in groups."""
    baselines = l2o.kinds(l2o.BaselineConfig)
    built = {name: cast(Any, cls)().build(1.0) for name, cls in baselines.items() if cls.tuned and cls.reads_gradients}
    return {
        "shipped_optimizers": [
            {
                "name": name, "description": loaded.provenance.get("description", ""),
                "state_bytes_per_parameter": _state_bytes(loaded),
            }
            for name, loaded in ((name, l2o.load(name)) for name in l2o.names())
        ],
        "architectures": _room(l2o.OptimizerConfig),
        "baselines": [
            {**entry, "state_bytes_per_parameter": l2o.state_bytes(built[entry["name"]])}
            if entry["name"] in built
            else {**entry, "state_bytes_per_parameter": None}
            for entry in _room(l2o.BaselineConfig)
        ],
        "task_families": _room(tasks.FamilyConfig),
        "datasets": _room(tasks.DatasetConfig),
        "corpora": _room(tasks.CorpusConfig),
        "objectives": _room(ObjectiveConfig),
        "estimators": _room(EstimatorConfig),
        "meta_optimizers": _room(LearnerConfig),
        "horizons": _room(HorizonConfig),
        "sources": _room(SourceConfig),
        "configs": [{"name": name, "description": Experiment.load(name).description} for name in Experiment.names()],
        "studies": [
            {"name": name, "description": study.description, "kind": study.kind}
            for name, study in ((name, StudyConfig.load(name)) for name in StudyConfig.names())
        ],
        "recordings": [{"name": name, "description": Data.load(name).description} for name in Data.names()],
    }  # fmt: skip


def listing_lines(groups: dict[str, list[JSONObject]]) -> list[str]:
    """One line for each name, under the title of its group."""
    lines = []
    for group, entries in groups.items():
        lines.append(TITLES[group])
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            before = ""
            if "state_bytes_per_parameter" in entry:
                size = entry["state_bytes_per_parameter"]
                before = f"{'' if size is None else f'{size:4.0f} B/param':12}  "
            elif "kind" in entry:
                before = f"{entry['kind'] or '':10}  "
            lines.append(f"  {entry['name']:<{width}}  {before}{entry['description']}".rstrip())
    return lines


def _room(room: type[l2o.Config]) -> list[JSONObject]:
    return [{"name": name, "description": (cls.__doc__ or "").split("\n")[0]} for name, cls in kinds(room).items()]


def _state_bytes(loaded: l2o.Loaded) -> float | None:
    """Memory of an optimizer that reads gradients; what others keep does not grow with the parameters alone."""
    return None if loaded.learned.native is None else l2o.state_bytes(loaded.optimizer)


def kind_of(directory: Path) -> str:
    """Which command wrote a directory: "train", "finetune", "data" or "study".

    Raises:
      UserError: none of them, or its config cannot be read.
    """
    config = directory / "config.toml"
    found = StudyConfig.read(config)[0] if exists(config) else {}
    if "meta" in found:
        return "finetune" if exists(directory / "data" / MANIFEST) else "train"
    if "source" in found:
        return "data"
    if found.get("kind") in list(kinds(StudyConfig)) or {"task", "horizon", "runs"} <= found.keys():
        return "study"
    raise UserError(
        f"{directory} holds nothing that l2o wrote, expected a directory of l2o train, finetune, study or data"
    )


def describe(name: str) -> JSONObject:
    """What a shipped optimizer, a directory or the log of a study or search is; "what" in it says which.

    Raises:
      UserError: there is no such thing, it is something else, or it is damaged.
    """
    path = Path(name)
    if name in l2o.names() or not exists(path):
        return _optimizer(name, ZOO / name)
    if path.is_file():
        return log.read(path)
    if exists(path / "optimizer.json"):
        return _optimizer(name, path)
    command = kind_of(path)
    if command == "data":
        manifest = read_manifest(path) if exists(path / MANIFEST) else None
        return {
            "what": "recording", "directory": name, "description": Data.load(path / "config.toml").description,
            "finished": manifest is not None and len(manifest.shards) == manifest.planned,
            "manifest": manifest and manifest.model_dump(mode="json"),
        }  # fmt: skip
    if command == "study":
        study = StudyConfig.load(path / "config.toml")
        found: JSONObject = {
            "what": "study", "directory": name, "kind": study.kind,
            "description": study.description, "finished": exists(path / "results.json"),
        }  # fmt: skip
        if found["finished"]:
            results = results_of(path)
            found |= {"scores": provenance(results), "report": text(results).splitlines()}
        return found
    experiment = Experiment.load(path / "config.toml")
    return {
        "what": "training", "directory": name, "description": experiment.description, "finished": False,
        "kind": experiment.optimizer.kind, "experiment": experiment.model_dump(mode="json"),
    }  # fmt: skip


def lines_of(document: JSONObject) -> list[str]:
    """The lines of what `describe` found."""
    if document["what"] == "optimizer":
        return _optimizer_lines(document)
    if document["what"] == "log":
        return log.lines_of(document)
    where, description = document["directory"], document["description"]
    kind = f" of kind {document['kind']}" if document.get("kind") else ""
    lines = [f"{where}: a {document['what']}{kind}"]
    lines += [description] if description else []
    if document["what"] == "study" and document["finished"]:
        return [*lines, *document["report"], f"report: {Path(where) / 'report.html'}"]
    if document["what"] == "recording" and document["manifest"]:
        manifest = read_manifest(Path(where))
        lines += [*aligned(*summary(manifest)), f"{len(manifest.shards)} of {manifest.planned} shards"]
    return lines if document["finished"] else [*lines, f"not finished; go on with: l2o resume {where}"]


def _optimizer(name: str, directory: Path) -> JSONObject:
    loaded = l2o.load(name)
    made = loaded.provenance
    trained = (
        "command", "seed", "meta_steps", "finished", "validation_meta_loss", "validation_step", "skipped_meta_steps",
        "seconds", "device", "devices", "processes", "dtype", "versions", "date", "licence", "data", "finetuned",
        "configured",
    )  # fmt: skip
    return {
        "what": "optimizer",
        "name": name,
        "directory": str(directory),
        "description": made.get("description") or made.get("experiment", {}).get("description", ""),
        "kind": loaded.config.kind,
        "config": loaded.config.model_dump(mode="json"),
        "meta_parameters": sum(leaf.size for leaf in jax.tree.leaves(loaded.theta)),
        "state_bytes_per_parameter": _state_bytes(loaded),
        "training": {field: made[field] for field in trained if field in made},
        "experiment": made.get("experiment"),
        "held_out": made.get("held_out"),
        "use": usage(name, loaded),
    }


def usage(name: str, loaded: l2o.Loaded) -> list[str]:
    """Three lines of Python that use an optimizer, and run as they are."""
    name = json.dumps(name)
    if loaded.learned.native is not None:
        return [
            "import l2o, jax.numpy as jnp",
            f"tx = l2o.load({name}).optax(horizon=1000)  # a transformation of optax",
            'state = tx.init({"w": jnp.zeros(3)})  # then tx.update(gradients, state, params, value=loss)',
        ]
    if loaded.config.kind == "optformer":
        return [
            "import l2o",
            f'study = l2o.Study({{"x": {{"kind": "float", "low": 0, "high": 1}}}}, optimizer={name})',
            "trial = study.suggest()  # then study.observe(trial, value), and again",
        ]
    return [
        "import l2o",
        f"best = l2o.minimize(lambda x: (x[0] - 0.3) ** 2, [(-1.0, 1.0)], {name}, budget=40)",
        "print(best.x, best.fun)",
    ]


def _optimizer_lines(document: JSONObject) -> list[str]:
    made, held_out = document["training"], document["held_out"]
    size = document["state_bytes_per_parameter"]
    config = _settings({name: value for name, value in document["config"].items() if name != "kind"})
    lines = [f"{document['name']}: {document['description']}".rstrip(": ")]
    lines += _facts(
        {
            "kind": document["kind"],
            "config": config,
            "meta-parameters": f"{document['meta_parameters']:,}",
            "state": None if size is None else f"{size:.0f} bytes for each parameter",
            "directory": document["directory"],
        }
    )
    if made:
        loss, step = made.get("validation_meta_loss"), made.get("validation_step")
        steps = made.get("meta_steps")
        unfinished = "" if made.get("finished", True) else f", not finished: l2o resume {document['name']}"
        lines += ["trained"]
        lines += _facts(
            {
                "command": made.get("command"),
                "task": document["experiment"] and document["experiment"]["task"]["kind"],
                "seed": made.get("seed"),
                "meta-steps": None if steps is None else f"{steps:,}{unfinished}",
                "time": duration(made["seconds"]) if "seconds" in made else None,
                "device": made.get("device"),
                "date": made.get("date"),
                "with": ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()),
                "validation": None if loss is None else f"meta-loss {loss:.4g} at meta-step {step}",
                "licence": made.get("licence"),
                "changed after it": _settings(made.get("configured", {})),
            }
        )
    if held_out:
        study = held_out.get("study", {})
        runs = f" {study['runs']} runs, seed {study['seed']}." if {"runs", "seed"} <= study.keys() else ""
        lines.append(f"held-out scores: {study.get('description', '')}{runs}")
        for title, rows in held_out.get("tables", {"": held_out.get("table", [])}).items():
            lines += [f"  {title}:"] if title else []
            lines += [f"  {line}" for line in table_of(rows)]
    else:
        lines.append(f"held-out scores: none; measure it with: l2o study STUDY --optimizer {document['name']}")
    return [*lines, "use it", *(f"  {line}" for line in document["use"])]


def _settings(settings: JSONObject) -> str:
    return ", ".join(f"{name} = {shown(value)}" for name, value in settings.items())


def _facts(facts: JSONObject) -> list[str]:
    known = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    width = max((len(name) for name in known), default=0)
    return [f"  {name:<{width}}  {value}" for name, value in known.items()]
