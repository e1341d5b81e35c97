"""`l2o` and `python -m l2o`."""

import sys
from pathlib import Path


def main() -> None:
    """Start the command line of this project, whatever folders the working directory holds.

    A user's folder may have its own `tasks`, `meta` or `experiments`; this project's root goes first on the path
    before the command line is imported.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from experiments.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
