"""A log of events that a killed run goes on from: JSON lines, written as things happen.

The first line says what the run is. An event is written whole or not at all, and cut off where a kill tore it.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from l2o.errors import UserError
from l2o.files import keep_entry
from l2o.host.lock import Lock


class EventLog:
    """An open log; the events that were in it are replayed by whoever opened it.

    Args:
      path: the file, created if missing.
      header: what the run is; a log with another one is refused. Where it has an `identity`, this is what an optimizer
        is known by, and the name `optimizer` may differ.

    Attributes:
      events: what was in the file.

    Raises:
      UserError: the file cannot be opened, is in use, is damaged before its last line, or belongs to another run.
    """

    FORMAT: ClassVar[str]
    VERSION: ClassVar[int] = 1
    NOUN: ClassVar[str]  # what people call the file, who has it open, and what makes such files
    OWNER: ClassVar[str]
    MAKER: ClassVar[str]

    def __init__(self, path: str | Path, header: dict[str, Any]):
        if not isinstance(path, str | Path):
            raise UserError(f"the {self.NOUN} of a {self.OWNER} is {path!r:.80}: expected a path")
        self.path = Path(path)
        first = json.dumps({"format": self.FORMAT, "version": self.VERSION, **header}) + "\n"
        try:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115, it stays open
        except OSError as error:
            raise UserError(f"{self.NOUN} {self.path} cannot be opened: {error.strerror}") from None
        try:
            self._lock = self._locked()
            self.events = self._read(first)
        except BaseException:
            self._file.close()
            raise

    def checker(self, header: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
        """A function that is called with the events of a file in order, and says whether each may come there."""
        raise NotImplementedError

    def _locked(self) -> Lock:
        try:
            return Lock(self._file)
        except BlockingIOError:
            raise UserError(
                f"{self.NOUN} {self.path} is in use by another {self.OWNER}: wait for it, or close it"
            ) from None

    def _read(self, first: str) -> list[dict[str, Any]]:
        self._file.seek(0)
        data = self._file.read()
        if not data or (b"\n" not in data and first.encode().startswith(data)):  # new, or killed in the first line
            self._size = 0
            self._append(first)
            keep_entry(self.path.parent)
            return []
        lines = data.splitlines(keepends=True)
        header = json.loads(first)
        self._compare(_parsed(lines[0]), header)
        events = [_parsed(line) for line in lines[1:]]
        self._size = len(data)
        if events and events[-1] is None:  # killed while it was written
            self._size -= len(lines[-1])
            self._file.truncate(self._size)
            events.pop()
        fits, checked = self.checker(header), []
        for number, event in enumerate(events, start=2):
            if event is None or not fits(event):
                raise UserError(f"{self.path}, line {number} is damaged: remove the {self.NOUN} to begin again")
            checked.append(event)
        return checked

    def _compare(self, found: dict[str, Any] | None, expected: dict[str, Any]) -> None:
        if found is None or found.get("format") != self.FORMAT:
            raise UserError(f"{self.path} is not a {self.NOUN} of {self.MAKER}: give another path, or remove it")
        if found.get("version") != self.VERSION:
            raise UserError(
                f"{self.path} has format version {found.get('version')}; this l2o reads version {self.VERSION}"
            )
        for name in [*expected, *(name for name in found if name not in (*expected, "format", "version"))]:
            if name == "optimizer" and expected["identity"] is not None:
                continue  # moved to another folder, it is the same one
            if _text(found.get(name)) != _text(expected.get(name)):
                name = name.replace("identity", "optimizer")
                there, here = repr(found.get(name)), repr(expected.get(name))
                differs = (
                    f"is {there} there and {here} here" if there != here else "has other settings or weights there"
                )
                if len(differs) > 100:
                    differs = "is another one there"
                raise UserError(
                    f"{self.path} is the {self.NOUN} of another {self.OWNER}, its {name} {differs}: make the same "
                    "call, or give another path"
                )

    def write(self, event: dict[str, Any]) -> None:
        """Append an event; a value is on the disk when this returns, with all before it.

        Raises:
          UserError: the log is closed, or was opened in another process, or the disk takes no more; the file is then as
            it was before.
        """
        # what was only asked for would be asked for again, so it need not outlive a power cut
        self._append(json.dumps(event, allow_nan=False) + "\n", sync="asked" not in event)

    def _append(self, line: str, sync: bool = True) -> None:
        if self._lock.inherited:
            raise UserError(
                f"{self.NOUN} {self.path} was opened in another process, which alone may write to it: tell that "
                f"process of the value, or make a {self.OWNER} with another path here"
            )
        if self._file.closed:
            raise UserError(f"{self.NOUN} {self.path} is closed: open it again with the same call")
        data = line.encode()
        try:
            if os.fstat(self._file.fileno()).st_size != self._size:  # what an earlier failure left
                self._file.truncate(self._size)
            size = self._size + len(data)
            try:
                while data:  # a full disk takes a part of it first
                    data = data[self._file.write(data) :]
                if sync:
                    os.fsync(self._file.fileno())
            except BaseException:  # Ctrl-C among them
                with contextlib.suppress(OSError):  # then the next write does it, or a reader, who knows half a line
                    self._file.truncate(self._size)
                raise
        except OSError as error:
            raise UserError(f"{self.NOUN} {self.path} cannot be written: {error.strerror}") from None
        self._size = size

    def close(self) -> None:
        """Close the file, which lets another process have it, also where this one has forked others."""
        self._lock.release()


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_outcome(event: dict[str, Any]) -> bool:
    """Whether an event has either a value or an error."""
    value, error = event.get("value"), event.get("error")
    return (value is None and isinstance(error, str)) or (is_number(value) and error is None)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _text(value: Any) -> str:
    """What tells true from 1, and 1 from 1.0."""
    return json.dumps(value, sort_keys=True)
