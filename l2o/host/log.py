"""The log of a loop, from which a killed run goes on: JSON lines, written as things happen.

The first line says what the run is. The others are events, in the order in which they happened:

    {"asked": 0, "x": [...]}                                 a point to evaluate as trial 0
    {"told": 0, "value": 0.93, "error": null}                what came of trial 0
    {"added": 1, "x": [...], "value": 0.5, "error": null}    trial 1, which a person evaluated unasked

A study has `parameters` in place of `x`, and asks for a list of them, the trials from that number on. `"guess": true`
says that a person chose the points that are asked for. A failed evaluation has an error and no value; `seconds` may
stand beside both. An event is written whole or not at all, and cut off where a kill tore it.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from l2o.errors import UserError
from l2o.files import keep_entry
from l2o.host.lock import Lock

VERSION = 1


class Asked(NamedTuple):
    """Trials that are to be evaluated together.

    Attributes:
      number: of the first one.
      points: what is evaluated in each.
      own: whether a person chose them, and not the optimizer.
    """

    number: int
    points: Sequence[Any]
    own: bool = False


class Told(NamedTuple):
    """The outcome of a trial.

    Attributes:
      number: of the trial.
      value: what was observed; None where the evaluation failed.
      error: why it failed; None where it did not.
      seconds: how long it took; None where nobody said.
    """

    number: int
    value: float | None
    error: str | None
    seconds: float | None = None


class Added(NamedTuple):
    """A trial that nobody asked for, with its outcome as in `Told`."""

    number: int
    point: Any
    value: float | None
    error: str | None
    seconds: float | None = None


Event = Asked | Told | Added


class Format(NamedTuple):
    """How the log of one kind of loop is written.

    Attributes:
      name: of the format, in the first line.
      owner: what has the log, in words.
      maker: what makes such logs.
      key: of the points of an event.
      several: whether an event asks for a list of points.
      encode: a point as JSON.
      decode: the point of JSON; None where it is none.
    """

    name: str
    owner: str
    maker: str
    key: str
    several: bool
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class Log:
    """An open log; the events that were in it are replayed by whoever opened it.

    Args:
      path: the file, created if missing.
      header: what the run is; a log with another one is refused. Where it has an `identity`, this is what an optimizer
        is known by, and the name `optimizer` may differ.
      form: how it is written.

    Attributes:
      events: what was in the file.

    Raises:
      UserError: the file cannot be opened, is in use, is damaged before its last line, or belongs to another run.
    """

    def __init__(self, path: str | Path, header: dict[str, Any], form: Format):
        if not isinstance(path, str | Path):
            raise UserError(f"the log of a {form.owner} is {path!r:.80}: expected a path")
        self.path, self._form = Path(path), form
        first = json.dumps({"format": form.name, "version": VERSION, **header}) + "\n"
        try:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115, it stays open
        except OSError as error:
            raise UserError(f"log {self.path} cannot be opened: {error.strerror}") from None
        try:
            self._lock = self._locked()
            self.events = self._read(first)
        except BaseException:
            self._file.close()
            raise

    def _locked(self) -> Lock:
        try:
            return Lock(self._file)
        except BlockingIOError:
            raise UserError(
                f"log {self.path} is in use by another {self._form.owner}: wait for it, or close it"
            ) from None

    def _read(self, first: str) -> list[Event]:
        self._file.seek(0)
        data = self._file.read()
        if not data or (b"\n" not in data and first.encode().startswith(data)):  # new, or killed in the first line
            self._size = 0
            self._append(first)
            keep_entry(self.path.parent)
            return []
        lines = data.splitlines(keepends=True)
        self._compare(parsed(lines[0]), json.loads(first))
        self._size = len(data)
        if len(lines) > 1 and parsed(lines[-1]) is None:  # killed while it was written
            self._size -= len(lines.pop())
            self._file.truncate(self._size)
        return events_in(lines[1:], self._form, self.path)

    def _compare(self, found: dict[str, Any] | None, expected: dict[str, Any]) -> None:
        """Refuse the first line of another run."""
        form = self._form
        if found is None or found.get("format") != form.name:
            raise UserError(f"{self.path} is not a log of {form.maker}: give another path, or remove it")
        if found.get("version") != VERSION:
            raise UserError(f"{self.path} has format version {found.get('version')}; this l2o reads version {VERSION}")
        for name in [*expected, *(name for name in found if name not in (*expected, "format", "version"))]:
            if name == "optimizer" and expected["identity"] is not None:
                continue  # moved to another folder, it is the same one
            if _exact(found.get(name)) != _exact(expected.get(name)):
                name = name.replace("identity", "optimizer")
                there, here = repr(found.get(name)), repr(expected.get(name))
                differs = (
                    f"is {there} there and {here} here" if there != here else "has other settings or weights there"
                )
                if len(differs) > 100:
                    differs = "is another one there"
                raise UserError(
                    f"{self.path} is the log of another {form.owner}, its {name} {differs}: make the same call, or "
                    "give another path"
                )

    def write(self, event: Event) -> None:
        """Append an event; a value is on the disk when this returns, with all before it.

        Raises:
          UserError: the log is closed, or was opened in another process, or the disk takes no more; the file is then as
            it was before.
        """
        # what was only asked for would be asked for again, so it need not outlive a power cut
        fields = encoded(event, self._form)
        self._append(json.dumps(fields, allow_nan=False) + "\n", sync=not isinstance(event, Asked))

    def _append(self, line: str, sync: bool = True) -> None:
        if self._lock.inherited:
            raise UserError(
                f"log {self.path} was opened in another process, which alone may write to it: tell that process of the "
                f"value, or make a {self._form.owner} with another path here"
            )
        if self._file.closed:
            raise UserError(f"log {self.path} is closed: open it again with the same call")
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
            raise UserError(f"log {self.path} cannot be written: {error.strerror}") from None
        self._size = size

    def close(self) -> None:
        """Close the file, which lets another process have it, also where this one has forked others."""
        self._lock.release()


class Pending:
    """The trials that have no outcome yet, as events come one by one."""

    def __init__(self):
        self._count, self._open = 0, set()

    def follows(self, event: Event) -> bool:
        """Whether an event may come next; if so, it has come."""
        if isinstance(event, Told):
            fits = event.number in self._open
            self._open.discard(event.number)
            return fits
        if event.number != self._count:
            return False
        if isinstance(event, Asked):
            self._open.update(range(event.number, event.number + len(event.points)))
        self._count += len(event.points) if isinstance(event, Asked) else 1
        return True


def encoded(event: Event, form: Format) -> dict[str, Any]:
    """An event as JSON; inverse of `decoded`."""
    if isinstance(event, Asked):
        points = [form.encode(point) for point in event.points]
        fields = {"asked": event.number, form.key: points if form.several else points[0]}
        return fields | ({"guess": True} if event.own else {})
    outcome: dict[str, Any] = {"value": event.value, "error": event.error}
    if event.seconds is not None:
        outcome["seconds"] = event.seconds
    if isinstance(event, Told):
        return {"told": event.number, **outcome}
    return {"added": event.number, form.key: form.encode(event.point), **outcome}


def decoded(fields: dict[str, Any], form: Format) -> Event | None:
    """The event of JSON; None where it is none."""
    value, error, seconds = (fields.get(name) for name in ("value", "error", "seconds"))
    given = fields.get(form.key)
    if is_whole(fields.get("asked")):
        if form.several and not isinstance(given, list):
            return None
        points = [form.decode(each) for each in (given if form.several else [given])]  # pyright: ignore
        own = bool(fields.get("guess", False))
        return None if not points or any(point is None for point in points) else Asked(fields["asked"], points, own)
    failed, succeeded = value is None and isinstance(error, str), is_number(value) and error is None
    if not (failed or succeeded) or not (seconds is None or is_number(seconds)):
        return None
    value = None if value is None else float(value)
    if is_whole(fields.get("told")):
        return Told(fields["told"], value, error, seconds)
    point = form.decode(given)
    if not is_whole(fields.get("added")) or point is None:
        return None
    return Added(fields["added"], point, value, error, seconds)


def events_in(lines: Sequence[bytes], form: Format, path: Path) -> list[Event]:
    """The events of a log, from its lines after the first one.

    Raises:
      UserError: a line is no event, or one that cannot come next.
    """
    events, pending = [], Pending()
    for number, line in enumerate(lines, start=2):
        fields = parsed(line)
        event = None if fields is None else decoded(fields, form)
        if event is None or not pending.follows(event):
            raise UserError(f"{path}, line {number} is damaged: remove the log to begin again")
        events.append(event)
    return events


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_whole(value: Any) -> bool:
    """Whether a value from JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON of a line; None where it is none, or was not written to its end."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and line.endswith(b"\n") else None


def _exact(value: Any) -> str:
    """The value as JSON text, which tells true from 1, and 1 from 1.0."""
    return json.dumps(value, sort_keys=True)
