"""What a person reads: results on standard output, progress on standard error, in whatever letters these can hold.

Progress is a bar on a terminal and plain lines elsewhere.
"""

import codecs
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PLAIN_EVERY = 10.0  # seconds between plain lines
SPELLED = {"±": "+-"}
Say = Callable[[str], None]


def say(line: str) -> None:
    """Tell how things go, on standard error, so that a file which a command is sent to holds its results alone."""
    print(line, file=sys.stderr, flush=True)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output."""
    print("\n".join(aligned(header, rows)))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as short as it can be said.

    >>> duration(75)
    '1m15s'
    """
    seconds = max(0, round(seconds))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


@contextlib.contextmanager
def progress(steps: int, *, quiet: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that shows rows of training metrics."""
    if quiet:
        yield lambda row: None
    elif sys.stderr.isatty():
        with _bar(steps) as show:
            yield show
    else:
        yield _plain(steps)


def _left(row: dict[str, Any], steps: int) -> str:
    return duration((steps - row["step"]) / max(row["steps_per_second"], 1e-9))


def _plain(steps: int) -> Callable[[dict[str, Any]], None]:
    last = -PLAIN_EVERY

    def show(row: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_EVERY and "validation" not in row and row["step"] < steps:
            return
        last = now
        parts = [f"step {row['step']}/{steps}", f"meta-loss {row['meta_loss']:.4f}"]
        if "validation" in row:
            rest = {name: value for name, value in row.items() if name.startswith("validation_")}
            names = {name: name.removeprefix("validation_") for name in rest} | {"validation_final": "final loss"}
            shown = ", ".join(f"{names[name]} {value:.4g}" for name, value in rest.items())
            parts.append(f"validation {row['validation']:.4f} ({shown})")
        if row["skipped"]:
            parts.append(f"skipped {row['skipped']}")
        if "tokens" in row:
            parts.append(f"{row['tokens_per_second']:.0f} tokens/s")
        parts += [f"{row['steps_per_second']:.1f} steps/s", f"{_left(row, steps)} left"]
        say(" | ".join(parts))

    return show


def _live(*columns: Any) -> Any:
    """A display that lasts as long as it is a context; what is printed meanwhile stays where it was sent."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())


@contextlib.contextmanager
def _bar(steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    from rich.progress import BarColumn, TextColumn

    columns = (
        TextColumn("meta-training"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]}  validation {task.fields[validation]}  {task.fields[speed]} left"),
    )  # fmt: skip
    with _live(*columns) as bar:
        line = bar.add_task("", total=steps, loss="compiling", validation="-", speed="?")

        def show(row: dict[str, Any]) -> None:
            bar.update(
                line, completed=row["step"], loss=f"{row['meta_loss']:.4f}",
                speed=f"{row['steps_per_second']:.1f} steps/s, {_left(row, steps)}",
            )  # fmt: skip
            if "validation" in row:
                bar.update(line, validation=f"{row['validation']:.4f}")

        yield show


class Counter:
    """Counts pieces of work, and tells a person about every ten seconds how far it is.

    Attributes:
      say: tells a person a line.
    """

    def __init__(self, total: int, say: Say) -> None:
        self.say, self.total, self.count = say, total, 0
        self._begun = self._last = time.monotonic()

    def __call__(self, what: str) -> None:
        """A piece is done, of which `what` says in a few words what it was."""
        self.count, now = self.count + 1, time.monotonic()
        if now - self._last >= PLAIN_EVERY or self.count == self.total:
            self._last = now
            spent = now - self._begun
            left = duration(spent / self.count * (self.total - self.count))
            self.say(f"{self.count}/{self.total} | {what} | {duration(spent)}, {left} left")

    def more(self, count: int) -> None:
        """So many more pieces are to come."""
        self.total += count


class _BarCounter(Counter):
    def __init__(self, total: int, say: Say, bar: Any) -> None:
        super().__init__(total, say)
        self._bar, self._line = bar, bar.add_task("", total=total)

    def __call__(self, what: str) -> None:
        self._bar.update(self._line, advance=1, description=what)

    def more(self, count: int) -> None:
        super().more(count)
        self._bar.update(self._line, total=self.total)


@contextlib.contextmanager
def counted(total: int, say: Say = say) -> Iterator[Counter]:
    """A counter of so many pieces of work: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Counter(total, say)
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn(), TextColumn("{task.description}"))  # fmt: skip
    with _live(*columns) as bar:
        yield _BarCounter(total, say, bar)


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Context in which every text can be printed, and a reader that has seen enough ends the program quietly.

    What the encoding of an output does not have, and parts of file names that are no text, are written as escapes.

    Raises:
      SystemExit: an output was closed before all was written, or takes no more.
    """
    codecs.register_error("l2o", _spell)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, it stays open
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="l2o")
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(1) from None
    finally:
        _flush()


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        known = SPELLED.get(error.object[error.start])
        if known is not None:
            return known, error.start + 1
    return codecs.backslashreplace_errors(error)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # what is still in the buffer goes nowhere, or Python would complain
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(1) from None
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
            raise SystemExit(2) from None
