"""The log of a search: one JSON object on a line, written as things happen, so that a kill loses nothing that was told.

The first line says what is searched and how; then `{"asked": 0, "x": [...]}` and `{"told": 0, "value": ...}`, in the
order in which they happened. A failed evaluation has no value and an error.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from l2o.errors import UserError

if sys.platform != "win32":  # there, two processes on one log are not noticed
    import fcntl

FORMAT = "l2o-search"
VERSION = 1


class SearchLog:
    """An open log; the events that were in it are replayed by the search.

    Args:
      path: the file, created if missing.
      header: what the run is; a log with another one is refused.

    Attributes:
      events: what was in the file.

    Raises:
      UserError: the file cannot be opened, is in use, is damaged before its last line, or belongs to another run.
    """

    def __init__(self, path: str | Path, header: dict[str, Any]):
        self.path = Path(path)
        first = json.dumps({"format": FORMAT, "version": VERSION, **header}) + "\n"
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115, it stays open
        except OSError as error:
            raise UserError(f"log {self.path} cannot be opened: {error.strerror}") from None
        try:
            self._lock()
            self.events = self._read(first)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"log {self.path} is in use by another search: wait for it, or close it") from None
        except OSError:  # a file system without locks
            pass

    def _read(self, first: str) -> list[dict[str, Any]]:
        self._file.seek(0)
        data = self._file.read()
        if not data or (b"\n" not in data and first.encode().startswith(data)):  # new, or killed in the first line
            self._file.truncate(0)
            self._append(first)
            return []
        lines = data.splitlines(keepends=True)
        self._compare(_parsed(lines[0]), json.loads(first))
        events = [_parsed(line) for line in lines[1:]]
        if events and events[-1] is None:  # killed while it was written
            self._file.truncate(len(data) - len(lines[-1]))
            events.pop()
        self._check(events, len(json.loads(first)["bounds"]))
        return [event for event in events if event is not None]

    def _compare(self, found: dict[str, Any] | None, expected: dict[str, Any]) -> None:
        if found is None or found.get("format") != FORMAT:
            raise UserError(f"{self.path} is not a log of l2o.minimize: give another path, or remove it")
        if found.get("version") != VERSION:
            raise UserError(f"{self.path} has format version {found.get('version')}; this l2o reads version {VERSION}")
        for name, value in expected.items():
            if name == "optimizer" and expected["identity"] is not None:
                continue  # moved to another folder, it is the same one
            if found.get(name) != value:
                name = name.replace("identity", "optimizer")
                there, here = repr(found.get(name)), repr(expected[name])
                differs = (
                    f"is {there} there and {here} here" if there != here else "has other settings or weights there"
                )
                if len(differs) > 100:
                    differs = "is another one there"
                raise UserError(
                    f"{self.path} is the log of another run, its {name} {differs}: make the same call, or give "
                    "another path"
                )

    def _check(self, events: list[dict[str, Any] | None], dimensions: int) -> None:
        asked, open_ = 0, set()
        for number, event in enumerate(events, start=2):
            if event is not None and event.get("asked") == asked and _is_point(event.get("x"), dimensions):
                open_.add(asked)
                asked += 1
            elif event is not None and event.get("told") in open_ and _is_outcome(event):
                open_.remove(event["told"])
            else:
                raise UserError(f"{self.path}, line {number} is damaged: remove the log to begin again")

    def write(self, event: dict[str, Any]) -> None:
        """Append an event; a value is on the disk when this returns, with all before it."""
        # what was only asked for would be asked for again, so it need not outlive a power cut
        self._append(json.dumps(event, allow_nan=False) + "\n", sync="told" in event)

    def _append(self, line: str, sync: bool = True) -> None:
        self._file.write(line.encode())
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, which lets another process have it."""
        self._file.close()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_point(x: Any, dimensions: int) -> bool:
    return isinstance(x, list) and len(x) == dimensions and all(map(_is_number, x))


def _is_outcome(event: dict[str, Any]) -> bool:
    error, seconds = event.get("error"), event.get("seconds")
    failed = event.get("value") is None and isinstance(error, str)
    return (failed or (_is_number(event.get("value")) and error is None)) and (seconds is None or _is_number(seconds))
