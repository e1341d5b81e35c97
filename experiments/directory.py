"""Directories that something is written into: fresh ones, and claimed ones."""

from pathlib import Path

from l2o.errors import UserError


def fresh_directory(name: str, root: str | Path = "runs") -> Path:
    """The first of runs/<name>-1, runs/<name>-2, ... that does not exist."""
    n = 1
    while (path := Path(root) / f"{name}-{n}").exists():
        n += 1
    return path


def claim(out: Path, advice: str = "choose another --out") -> None:
    """Create an empty output directory.

    Args:
      out: the directory.
      advice: what to do when it holds something.

    Raises:
      UserError: the directory holds something, or cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(path.suffix != ".part" for path in out.iterdir()):  # a kill may leave a half-written file
            raise UserError(f"{out} is not empty and is never overwritten: {advice}")
    except OSError as error:
        raise UserError(f"{out} cannot be used as an output directory: {error.strerror}") from None
