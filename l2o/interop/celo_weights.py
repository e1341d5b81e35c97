"""The published weights of Celo and Celo-Adam, read without flax; nothing in a file is executed.

The files are flax's msgpack: dictionaries of arrays, and an array is an extension of code 1 that holds a shape, a dtype
and bytes. Anything else in a file is refused.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from l2o.core import Theta
from l2o.errors import UserError

FEATURES = 18  # what the scheduler reads: nine of the time, nine of the loss
WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)  # numbers in each group of inputs to the network per coordinate
OUTPUTS = 3  # direction, log magnitude, and one that the authors' code leaves unused
LARGEST = 2**26  # bytes; the published files have 150,000
ARRAY = 1  # flax's code of an extension that is an array


def read_weights(path: str | Path) -> Theta:
    """Read a file of weights of Celo or Celo-Adam (Moudgil et al. 2025).

    The LSTM and the network per coordinate may have any number of units; everything else is as published.

    Args:
      path: the file, such as `theta.state` of the authors' releases.

    Returns:
      Dictionaries of float32 arrays, named as in the file. Those of Celo have a branch `ff_mod_stack`, those of
      Celo-Adam have none.

    Raises:
      UserError: the file is missing, damaged, or holds anything but such weights.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has {path.stat().st_size} bytes, expected weights of Celo, at most {LARGEST}")
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    tree = _unpacked(path, blob)
    found = dict(_leaves(tree))
    shapes = _shapes(path, found, adam="ff_mod_stack" not in tree)
    for name in sorted(shapes.keys() ^ found.keys()):
        if name in shapes:
            raise _other(path, f"there is no {name}")
        raise _other(path, f"it has {name!r}, which neither knows")
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise _other(path, f"{name} has shape {found[name].shape}, expected {shape}")
        if not np.isfinite(found[name]).all():
            raise _other(path, f"{name} has numbers that are not finite")
    return tree


def _other(path: Path, why: str) -> UserError:
    return UserError(f"{path} does not hold weights of Celo or Celo-Adam: {why}")


def _unpacked(path: Path, blob: bytes) -> Theta:
    import msgpack  # only who reads a file pays for it

    def array(code: int, data: bytes) -> np.ndarray:
        if code != ARRAY:
            raise ValueError(f"an extension of code {code} is no array")
        shape, dtype, numbers = msgpack.unpackb(data)
        if dtype != "float32" or not all(type(axis) is int and axis >= 0 for axis in shape):
            raise ValueError(f"an array has shape {shape!r} and dtype {dtype!r}, expected float32")
        if not isinstance(numbers, bytes) or len(numbers) != 4 * math.prod(shape):
            raise ValueError(f"an array of shape {shape!r} has other bytes than it needs")
        return np.frombuffer(numbers, "<f4").astype(np.float32).reshape(shape)

    try:
        tree = msgpack.unpackb(blob, ext_hook=array)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged or no msgpack of arrays: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise _other(path, f"it is no dictionary but of type {type(tree).__name__}")
    for name, leaf in _leaves(tree):
        if not isinstance(leaf, np.ndarray):
            raise _other(path, f"{name!r} is no array but of type {type(leaf).__name__}")
    return tree


def _leaves(tree: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """What lies in nested dictionaries, by names of the form `rnn_params.linear.w`."""
    found = []
    for name, value in tree.items():
        found += _leaves(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
    return found


def _shapes(path: Path, found: dict[str, np.ndarray], adam: bool) -> dict[str, tuple[int, ...]]:
    """The shape of each array, for as many units as the file has."""

    def units(name: str) -> int:
        array = found.get(name)
        if array is None:
            raise _other(path, f"there is no {name}")
        if array.ndim == 0 or array.shape[-1] == 0:
            raise _other(path, f"{name} has shape {array.shape}, expected (1, units)")
        return array.shape[-1]

    h = units("lstm_init_state.hidden")
    shapes: dict[str, tuple[int, ...]] = {"lstm_init_state.hidden": (1, h), "lstm_init_state.cell": (1, h)}
    layers = {"linear": (FEATURES, h), "linear_1": (FEATURES, h), "linear_2": (FEATURES, h)}
    layers |= {"rnn/linear": (2 * h, 4 * h), "step_size": (h, 1)}
    if not adam:
        layers["rnn_to_controls"] = (h, 1)
        k = units("ff_mod_stack.~.b0")
        sizes = {f"w0__{i}": (1, width, k) for i, width in enumerate(WIDTHS)}
        sizes |= {"b0": (1, k), "w1": (1, k, k), "b1": (1, k), "w2": (1, k, OUTPUTS), "b2": (1, OUTPUTS)}
        shapes |= {f"ff_mod_stack.~.{name}": size for name, size in sizes.items()}
    for name, (inputs, outputs) in layers.items():
        shapes |= {f"rnn_params.{name}.w": (inputs, outputs), f"rnn_params.{name}.b": (outputs,)}
    return shapes
