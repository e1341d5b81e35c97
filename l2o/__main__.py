"""`l2o` and `python -m l2o`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Start the command line of this project, whatever folders the working directory holds.

    A user's folder may have its own `tasks`, `meta` or `experiments`; this project's root goes first on the path
    before the command line is imported.
    """
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        _in_utf8()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from experiments.cli import main as command_line

    command_line()


def _in_utf8() -> None:
    """Start again with names of files in UTF-8, as the library that writes checkpoints has them in every locale."""
    environment = {"PYTHONIOENCODING": getattr(sys.stdout, "encoding", None) or "utf-8", **os.environ}
    os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


if __name__ == "__main__":
    main()
