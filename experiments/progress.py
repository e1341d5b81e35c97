"""Live progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

PLAIN_EVERY = 10.0  # seconds between plain lines
Say = Callable[[str], None]


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
    elif sys.stdout.isatty():
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
        print(" | ".join(parts), flush=True)

    return show


@contextlib.contextmanager
def _bar(steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("meta-training"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]}  validation {task.fields[validation]}  {task.fields[speed]} left"),
    )  # fmt: skip
    with Progress(*columns) as bar:
        line = bar.add_task("", total=steps, loss="compiling", validation="-", speed="?")

        def show(row: dict[str, Any]) -> None:
            bar.update(
                line, completed=row["step"], loss=f"{row['meta_loss']:.4f}",
                speed=f"{row['steps_per_second']:.1f} steps/s, {_left(row, steps)}",
            )  # fmt: skip
            if "validation" in row:
                bar.update(line, validation=f"{row['validation']:.4f}")

        yield show


@contextlib.contextmanager
def pieces(total: int, say: Say = print) -> Iterator[Say]:
    """A function to call after each piece of work with what it was: a bar on a terminal, lines elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    begun = last = time.monotonic()
    count = 0
    if sys.stdout.isatty():
        columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("left"),
                   TimeRemainingColumn(), TextColumn("{task.description}"))  # fmt: skip
        with Progress(*columns) as bar:
            line = bar.add_task("", total=total)
            yield lambda what: bar.update(line, advance=1, description=what)
        return

    def done(what: str) -> None:
        nonlocal count, last
        count, now = count + 1, time.monotonic()
        if now - last >= PLAIN_EVERY or count == total:
            last = now
            spent = now - begun
            say(f"{count}/{total} | {what} | {duration(spent)}, {duration(spent / count * (total - count))} left")

    yield done
