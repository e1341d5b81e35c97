"""What studies of many cells share: a directory that a killed study goes on in, and a file for each piece of work."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from experiments.run import claim
from experiments.study.base import BlackBox, Grid, Imitation, Population, Prediction, Tuning
from l2o.errors import UserError
from l2o.files import difference, write_whole, writing

AnyCells = Grid | BlackBox | Population | Imitation | Prediction | Tuning


def begin(study: AnyCells, out: Path, resume: bool) -> Path:
    """Create the directory of a study, or find the one to go on with.

    Returns:
      The folder of its pieces.

    Raises:
      UserError: the directory is in use, or holds another study.
    """
    if resume and (out / "config.toml").is_file():
        changed = difference(_identity(type(study).load(out / "config.toml")), _identity(study))
        if changed:
            raise UserError(f"cannot resume {out}: {changed} since the study began")
    else:
        claim(out, "choose another --out, or --resume the study in it")
    write_whole(out / "config.toml", study.toml())
    with writing(out):
        (out / "cells").mkdir(exist_ok=True)
    return out / "cells"


def _identity(study: AnyCells) -> dict[str, Any]:
    """What a resumed study may not change: everything but the learned optimizers, which are known by their checksum."""
    return study.model_dump(mode="json", exclude={"description", "optimizers", "groups"}, exclude_none=True)


def save(path: Path, **arrays: np.ndarray) -> None:
    """Write a piece, whole or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_whole(path, buffer.getvalue())


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """What `save` wrote; the file is closed."""
    with np.load(path) as file:
        return dict(file)
