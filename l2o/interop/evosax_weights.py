"""evosax's trained LES weights as ours. Its files are pickles, which could run anything; here they run nothing."""

import io
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from l2o.core import Theta
from l2o.errors import UserError
from l2o.evolution.les import LESConfig

SHIPPED = "algorithms/ckpt/les/2023_10_les_v2.pkl"  # what evosax's LearnedES uses unless it is told otherwise
LAYERS = {  # ours, then where evosax keeps it and whether it is there in parts
    "key": [("recomb_weights", "Dense_0")],
    "query": [("recomb_weights", "Dense_1")],
    "value": [("recomb_weights", "Dense_2")],
    "hidden": [("lrate_modulation", "Dense_0")],
    "rates": [("lrate_modulation", "Dense_1"), ("lrate_modulation", "Dense_2")],
}


def les_from_evosax(path: str | Path | None = None) -> tuple[LESConfig, Theta]:
    """Read a file of evosax's LES weights.

    Nothing in the file is executed: beside dictionaries it may hold arrays, and whatever else it names is refused.

    Args:
      path: the file; None for the one that the installed evosax ships and uses by default.

    Returns:
      A config with which `les` is the strategy of evosax, and its theta: `l2o.save(folder, config, theta)` makes an
      artifact of them.

    Raises:
      UserError: evosax is not installed, or the file is missing, damaged, names something else, or holds other weights.

    >>> config, theta = les_from_evosax()
    >>> theta["hidden"]["w"].shape
    (8, 19)
    """
    path = _shipped() if path is None else Path(path)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    tree = _Arrays(io.BytesIO(blob), path).read()
    theta = {name: _join(path, [_layer(path, tree, *place) for place in places]) for name, places in LAYERS.items()}
    keys, hidden = theta["key"]["w"].shape[0], theta["hidden"]["w"].shape[0]
    sizes = {"key": (keys, 3), "query": (keys, 3), "value": (1, 3), "hidden": (hidden, 19), "rates": (2, hidden)}
    for name, size in sizes.items():
        if theta[name]["w"].shape != size or theta[name]["b"].shape != size[:1]:
            raise UserError(f"{path} does not hold LES weights: layer {name} is {theta[name]['w'].shape}, not {size}")
    published = LESConfig(
        keys=keys, hidden=hidden, scaling="members", paths="absolute", scores="z", overall=False, restarts=False
    )
    return published, theta


def _shipped() -> Path:
    spec = find_spec("evosax")
    if spec is None or spec.origin is None:
        raise UserError("evosax is not installed, so its weights are not here: give the path of a file of them")
    return Path(spec.origin).parent / SHIPPED


def _layer(path: Path, tree: Any, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of one of evosax's layers."""
    where, layer = names
    try:
        found = tree[where]["params"][layer]
        kernel, bias = found["kernel"], found["bias"]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{path} does not hold LES weights: there is no {where}.params.{layer}") from None
    for value, axes in ((kernel, 2), (bias, 1)):
        if not (isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == axes):
            raise UserError(f"{path} does not hold LES weights: {where}.params.{layer} is no layer of numbers")
    return kernel, bias


def _join(path: Path, parts: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Layers of the same inputs as one; ours have outputs along the first axis."""
    kernels, biases = zip(*parts, strict=True)
    if len({kernel.shape[0] for kernel in kernels}) > 1:
        raise UserError(f"{path} does not hold LES weights: layers of the same inputs differ in their number")
    return {
        "w": jnp.asarray(np.concatenate(kernels, 1).T, jnp.float32),
        "b": jnp.asarray(np.concatenate(biases), jnp.float32),
    }


class _Arrays(pickle.Unpickler):
    """Reads dictionaries and arrays; every function a pickle may name is replaced by one of these."""

    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file)
        self._path = path
        marker = object()  # numpy's pickles name the class, which need not be callable
        known = {
            ("flax.core.frozen_dict", "FrozenDict"): dict,
            ("evosax.learned_evolution.les_tools", "_restore_array"): _from_bytes,
            ("jax._src.array", "_reconstruct_array"): _from_jax,
            ("numpy", "ndarray"): marker,
            ("numpy", "dtype"): np.dtype,
        }
        self._known = known | {(f"numpy.{core}.multiarray", "_reconstruct"): _empty for core in ("core", "_core")}

    def find_class(self, module_name: str, global_name: str) -> Any:
        """One of the known replacements."""
        if (module_name, global_name) not in self._known:
            raise UserError(
                f"{self._path} was not read: it names {module_name}.{global_name}, and a file of weights may name"
                " nothing but arrays and dictionaries"
            )
        return self._known[module_name, global_name]

    def read(self) -> Any:
        """What the file holds."""
        try:
            return self.load()
        except UserError:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything
            raise UserError(f"{self._path} is damaged or no pickle: {error}") from None


def _from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


def _empty(*_: Any) -> np.ndarray:
    """An array for numpy's own `__setstate__` to fill, which takes no objects from bytes."""
    return np.zeros(0, np.int8)


def _from_jax(reconstruct: Any, arguments: tuple, state: tuple, *_: Any) -> np.ndarray:
    array = _empty()
    array.__setstate__(state)
    return array
