"""Small guards around the file system, and what differs between two documents."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from l2o.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is done inside writes a path: where the disk refuses, a person is told so in one sentence.

    Raises:
      UserError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all, on the disk when this returns.

    A kill leaves at most a hidden `.part` file beside it.

    Raises:
      UserError: it cannot be written; what was there is there still.
    """
    temporary = path.with_name(f".{path.name}.part")
    with writing(path):
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        keep_entry(path.parent)


def keep_entry(folder: Path) -> None:
    """A new file outlives a power cut only when its folder is on the disk too."""
    if sys.platform != "win32":
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        except OSError:  # a file system that cannot
            pass
        finally:
            os.close(entry)


def is_text(name: str) -> bool:
    """Whether a name of a file, or an argument, is valid Unicode; on POSIX it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def exists(path: Path) -> bool:
    """Whether there is something at a path; False for what cannot be a path, such as a name that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def difference(old: Any, new: Any, where: str = "") -> str:
    """The first difference of two JSON documents in words, or the empty string.

    >>> difference({"meta": {"steps": 5}}, {"meta": {"steps": 6}})
    'meta.steps changed from 5 to 6'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            found = difference(old.get(name), new.get(name), f"{where}.{name}" if where else name)
            if found:
                return found
        return ""
    return "" if old == new else f"{where} changed from {old!r} to {new!r}"
