"""The files of trained optimizers: JSON and safetensors, never pickle. Loading an artifact executes nothing from it.

An artifact is a directory with

  optimizer.json      format version, the architecture's config, provenance, checksum, a stored five-step output
  theta.safetensors   the meta-parameters, one tensor per leaf
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from l2o.core import LearnedOptimizer, OptimizerConfig, Problem, Task, Theta
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.registry import Config, parse
from l2o.space.domain import Space
from l2o.unroll import unroll

FORMAT: Literal["l2o-optimizer"] = "l2o-optimizer"
VERSION = 1


def five_steps(learned: LearnedOptimizer, theta: Theta) -> list[float | None]:
    """Values along five steps on a fixed quadratic bowl, None where not finite: what pins an artifact's behaviour.

    The bowl has four coordinates and no bounds for gradient-based families; for the others one coordinate, in [-2, 2].
    """
    optimizer, bounded = learned.bind(theta), learned.native is None
    curvature, start = jnp.array([0.1, 0.5, 1.0, 4.0]), jnp.array([1.0, -1.0, 0.5, 0.25])
    curvature, start = (curvature[:1], start[:1]) if bounded else (curvature, start)
    space = Space.box(jnp.array([-2.0]), jnp.array([2.0])) if bounded else Space.free()
    problem = Problem(space, start, horizon=jnp.asarray(5))
    task = Task.from_loss(lambda key, x: 0.5 * jnp.sum(curvature * x**2), problem)
    init_key, run_key = jax.random.split(jax.random.key(0))
    state = optimizer.init(init_key, problem)
    _, trajectory = jax.jit(lambda s: unroll(optimizer, task, s, run_key, 6))(state)
    values = np.min(np.asarray(trajectory.evaluation.value), axis=-1)
    return [float(v) if np.isfinite(v) else None for v in values]


def _flat(theta: Theta) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    return {jax.tree_util.keystr(path, simple=True, separator="//"): leaf for path, leaf in leaves}


def save(path: str | Path, config: OptimizerConfig, theta: Theta, provenance: dict[str, Any] | None = None) -> Path:
    """Write an artifact into a directory, replacing one that is there.

    Args:
      path: directory, created if missing.
      config: the architecture's configuration.
      theta: meta-parameters that fit it.
      provenance: anything JSON can hold.

    Returns:
      The directory.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    blob = safetensors.numpy.save({name: np.asarray(leaf, order="C") for name, leaf in _flat(theta).items()})
    header = _Header(
        format=FORMAT,
        version=VERSION,
        config=config.model_dump(mode="json"),
        theta_sha256=hashlib.sha256(blob).hexdigest(),
        five_steps=five_steps(config.build(), theta),
        provenance=provenance or {},
    )
    for name, data in (
        ("theta.safetensors", blob),
        ("optimizer.json", (header.model_dump_json(indent=2) + "\n").encode()),
    ):
        write_whole(path / name, data)
    return path


class Saved(NamedTuple):
    """What an artifact holds; the attributes are those of `l2o.Loaded`."""

    config: OptimizerConfig
    theta: Theta
    provenance: dict[str, Any]
    check: list[float | None]
    sha256: str


def read(path: Path) -> Saved:
    """Read an artifact from a directory.

    Raises:
      UserError: a file is missing, damaged, truncated, foreign, or of a newer format.
    """
    header = _read_header(path / "optimizer.json")
    try:
        config = parse(OptimizerConfig, header.config)
    except ValidationError as error:
        raise UserError(f"{path / 'optimizer.json'}: config.{reason(error)}") from None
    except PydanticCustomError as error:
        own = "; the module of a kind of your own must be imported first" if error.type == "kind_unknown" else ""
        raise UserError(f"{path / 'optimizer.json'}: config: {error}{own}") from None
    theta = _read_theta(path / "theta.safetensors", config, header.theta_sha256)
    return Saved(config, theta, header.provenance, header.five_steps, header.theta_sha256)


class _Header(Config):
    """optimizer.json."""

    format: Literal["l2o-optimizer"]
    version: int
    config: Any
    theta_sha256: str
    five_steps: list[float | None]
    provenance: dict[str, Any]


def _read_header(file: Path) -> _Header:
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file.parent} holds no optimizer: optimizer.json is missing") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    try:
        header = _Header.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{file} is damaged or not an l2o optimizer: {reason(error)}") from None
    if header.version != VERSION:
        raise UserError(f"{file} has format version {header.version}; this l2o reads version {VERSION}")
    return header


def reason(error: ValidationError) -> str:
    """The first thing that is wrong with a configuration, in one line: where, and what."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _read_theta(file: Path, config: OptimizerConfig, checksum: str) -> Theta:
    try:
        blob = file.read_bytes()
    except OSError:
        raise UserError(f"{file} is missing or cannot be read") from None
    if hashlib.sha256(blob).hexdigest() != checksum:
        raise UserError(f"{file} is damaged or truncated: its checksum differs from the one in optimizer.json")
    try:
        tensors = safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that numpy does not have
        raise UserError(f"{file} is not a safetensors file of a known dtype: {error}") from None
    template = jax.eval_shape(config.build().init, jax.random.key(0))
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in _flat(template).items()}
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise UserError(
            f"{file} does not fit its config: tensor {wrong[0]!r} is {found.get(wrong[0], 'missing')}, "
            f"expected {expected.get(wrong[0], 'absent')}"
        )
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(tensors[name]) for name in expected])
