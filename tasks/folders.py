"""Files that a user keeps in a folder: data that are not bundled."""

import gzip
import os
import zlib
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from l2o.errors import UserError


class InFolder(BaseModel):
    """Mixed into the configuration of data that lie in a folder, of which `kind` is the name.

    Attributes:
      data_dir: the folder; when left out, the environment variable L2O_DATA names it.
      subfolders: names under which the data are published, beside their kind.
    """

    kind: str
    data_dir: str | None = Field(default=None, min_length=1)
    subfolders: ClassVar[tuple[str, ...]] = ()

    def folder(self) -> Path:
        """Where the files lie: the subfolder named after the kind, or as published, else the folder itself.

        Raises:
          UserError: no folder is named, or it does not exist.
        """
        chosen = self.data_dir or os.environ.get("L2O_DATA")
        if not chosen:
            raise UserError(
                f"{self.kind} needs a data folder: set data_dir in the config or the environment variable L2O_DATA"
            )
        folder = Path(chosen).expanduser()
        if not folder.is_dir():
            raise UserError(f"{self.kind}: the data folder {folder} does not exist")
        inner = (folder / name for name in (self.kind, *self.subfolders))
        return next((place for place in inner if place.is_dir()), folder)

    def find(self, name: str) -> Path | None:
        """A file in the folder, by its name or with ".gz"."""
        candidates = (self.folder() / name, self.folder() / f"{name}.gz")
        return next((path for path in candidates if path.is_file()), None)

    def need(self, name: str) -> Path:
        """Like `find`, but a missing file is an error that names it."""
        path = self.find(name)
        if path is None:
            raise UserError(f"{self.kind}: {name} (or {name}.gz) is missing in {self.folder()}")
        return path


def read(path: Path) -> bytes:
    """The bytes of a file, unpacked when its name ends in .gz.

    Raises:
      UserError: the file cannot be read or is a damaged archive.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read or is damaged: {error}") from None
