"""Small guards around the file system."""

from pathlib import Path


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; a kill leaves at most a hidden `.part` file beside it."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    temporary.replace(path)


def exists(path: Path) -> bool:
    """Whether there is something at a path; False for what cannot be a path, such as a name that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
