"""Training metrics for TensorBoard: the extra `tensorboard`, the option `l2o train --tensorboard`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2o.errors import UserError

Show = Callable[[dict[str, Any]], None]


def also_to_tensorboard(show: Show, folder: Path) -> Show:
    """A report that also writes every number of a row as a scalar event into a folder.

    Raises:
      UserError: the extra is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue], made by protobuf
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ModuleNotFoundError:
        raise UserError("--tensorboard needs the extra of that name: pip install 'l2o[tensorboard]'") from None
    writer = EventFileWriter(str(folder))

    def both(row: dict[str, Any]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"]
        writer.add_event(Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values)))
        writer.flush()
        show(row)

    return both
