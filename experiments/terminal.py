"""Standard output and error of the command line: whatever they can hold, and however they end."""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator

SPELLED = {"±": "+-"}


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
