"""Training metrics for TensorBoard: the extra `tensorboard`, the option `l2o train --tensorboard`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2o.errors import UserError

Show = Callable[[dict[str, Any]], None]


def require_tensorboard() -> None:
    """Check that the extra is there.

    Raises:
      UserError: it is not.
    """
    try:
        import tensorboard.compat.proto.event_pb2  # noqa: F401, its presence is all that matters here
    except ModuleNotFoundError:
        raise UserError("--tensorboard needs the package tensorboard, expected pip install tensorboard") from None


def also_to_tensorboard(show: Show, folder: Path) -> Show:
    """A report that also writes every number of a row as a scalar event into a folder.

    TensorBoard drops what an earlier part of the run wrote from the first step shown here on.
    """
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))

    events: Any = event_pb2  # their classes are made at run time, where static checks cannot see them
    summaries: Any = summary_pb2
    started = False

    def both(row: dict[str, Any]) -> None:
        nonlocal started
        if not started:
            start = events.SessionLog(status=events.SessionLog.START)
            writer.add_event(events.Event(wall_time=time.time(), step=row["step"], session_log=start))
            started = True
        values = [
            summaries.Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"
        ]
        writer.add_event(events.Event(wall_time=time.time(), step=row["step"], summary=summaries.Summary(value=values)))
        writer.flush()
        show(row)

    return both
