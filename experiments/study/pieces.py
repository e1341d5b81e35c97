"""The pieces of work that a study is made of: files, each made once and saved whole, so that a killed study goes on."""

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.progress import Counter
from l2o.files import write_whole, writing

Arrays = dict[str, np.ndarray]


class Pieces:
    """What makes the pieces of a study, where its directory does not have them yet.

    Attributes:
      seconds: what making all pieces took, those that were there already included.
      say: tells a person a line.
      more: announces that so many more pieces than planned are to come.
    """

    def __init__(self, out: Path, counter: Counter) -> None:
        self.seconds, self.say, self.more = 0.0, counter.say, counter.more
        self._out, self._count = out, counter

    def __call__(self, path: str, what: str, program: Callable[[], Mapping[str, Any]]) -> Arrays:
        """The arrays of a piece.

        Args:
          path: its file in the directory of the study, without the suffix; it names everything that the arrays depend
            on and that a resumed study may change.
          what: the piece in a few words, for a person.
          program: makes the arrays, by name.

        Raises:
          UserError: the disk refuses.
        """
        file = self._out / f"{path}.npz"
        if not file.is_file():
            start = time.perf_counter()
            arrays = program()
            save(file, **arrays, took=np.array(time.perf_counter() - start))
        arrays = arrays_of(file)
        self.seconds += float(arrays.pop("took"))
        self._count(what)
        return arrays


def save(path: Path, **arrays: Any) -> None:
    """Write the file of a piece, whole or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def arrays_of(path: Path) -> Arrays:
    """What `save` wrote; the file is closed."""
    with np.load(path) as file:
        return dict(file)


def together(several: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arrays of several parts, by names that hold no slash, as those of one piece."""
    return {f"{name}/{key}": array for name, arrays in several.items() for key, array in arrays.items()}


def apart(arrays: Arrays) -> dict[str, Arrays]:
    """What `together` put together."""
    found: dict[str, Arrays] = {}
    for whole, array in arrays.items():
        name, key = whole.split("/", 1)
        found.setdefault(name, {})[key] = array
    return found


def in_batches(program: Callable[[Any], Mapping[str, Any]], given: Any, batch: int) -> Arrays:
    """A program on n rows, so many at a time, the last ones repeated to fill a batch."""
    count, found = len(jax.tree.leaves(given)[0]), []
    for first in range(0, count, batch):
        rows = np.minimum(np.arange(first, first + batch), count - 1)
        arrays = program(jax.tree.map(lambda a, rows=rows: np.asarray(a)[rows], given))
        found.append({name: np.asarray(a)[: count - first] for name, a in arrays.items()})
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
