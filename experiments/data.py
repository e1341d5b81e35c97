"""What `l2o data` does: record studies into a directory, to train a model of whole optimizations on."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny

from experiments.directory import claim
from experiments.document import HERE, Document
from experiments.progress import PLAIN_EVERY, duration, say
from l2o.errors import UserError
from l2o.files import difference, exists, write_whole
from l2o.registry import by_kind
from meta.recordings.rollouts import SourceConfig
from meta.recordings.trajectories import MANIFEST, Manifest

CONFIG = "config.toml"


class Data(Document):
    """What `l2o data` records.

    Attributes:
      seed: decides everything random, 0 to 2^31 - 1.
      source: where the studies come from.

    >>> from experiments.data import Data
    >>> Data.load("bbob_tiny").source.kind
    'rollouts'
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    source: Annotated[SerializeAsAny[SourceConfig], by_kind(SourceConfig)]

    @classmethod
    def folder(cls) -> Path:
        return HERE / "recordings"

    def record(self, out: str | Path, *, resume: bool = False, quiet: bool = False) -> Manifest:
        """Record the studies.

        Args:
          out: an empty directory, or with `resume` one that was begun with the same config.
          resume: keep what is there.
          quiet: print no progress.

        Raises:
          UserError: the directory is in use or was begun with another config, or the source cannot be read.
        """
        out = Path(out)
        if resume:
            changed = difference(resumed(out).model_dump(mode="json"), self.model_dump(mode="json"))
            if changed:
                raise UserError(f"cannot resume {out}: {changed} since it was begun")
        else:
            claim(out, "choose another --out, or --resume what was begun in it")
            write_whole(out / CONFIG, self.toml())
        report = (lambda row: None) if quiet else _lines()
        try:
            return self.source.record(out, self.seed, self.model_dump(mode="json"), report)
        except UserError:
            if not resume and not exists(out / MANIFEST):  # nothing was read: the corrected command may have the place
                (out / CONFIG).unlink()
            raise


def resumed(out: Path, overrides: Sequence[str] = ()) -> Data:
    """The config of what was begun in a directory.

    Raises:
      UserError: there is none.
    """
    if not (out / CONFIG).is_file():
        raise UserError(f"{out} holds nothing to resume: {CONFIG} is missing")
    return Data.load(out / CONFIG, overrides)


def summary(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """A table of how many studies there are of every algorithm."""
    return ["algorithm", "studies"], [[name, f"{count:,}"] for name, count in manifest.algorithms.items()]


def _lines() -> Callable[[dict[str, Any]], None]:
    last = time.monotonic()

    def show(row: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_EVERY or row["studies"] == row["total"]:
            last = now
            say(
                f"{row['studies']}/{row['total']} studies | {row['shard']}, {row['per_second']:.0f} studies/s | "
                f"{duration(row['seconds_left'])} left"
            )

    return show
