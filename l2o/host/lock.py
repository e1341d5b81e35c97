"""That one process alone has a file open."""

import contextlib
import os
import sys
import weakref
from typing import IO, Any

if sys.platform != "win32":  # there, two processes that have one file are not noticed
    import fcntl


class Lock:
    """The lock of an open file, until `release` or the end of the process that took it.

    A forked child would share it, and keep it when its parent has long ended: the file is closed there at once.

    Args:
      file: open, without a buffer.

    Raises:
      BlockingIOError: it is locked already.
    """

    def __init__(self, file: IO[Any]):
        self._file, self._process = file, os.getpid()
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                pass
        _HELD.add(self)

    @property
    def inherited(self) -> bool:
        """Whether another process took it, of which this one was forked."""
        return os.getpid() != self._process

    def release(self) -> None:
        """Close the file; whoever shares it in spite of all does not keep the lock."""
        if sys.platform != "win32" and not self._file.closed and not self.inherited:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forked() -> None:
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
