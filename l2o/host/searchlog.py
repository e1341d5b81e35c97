"""The log of a search, from which the same search goes on.

Events are `{"asked": 0, "x": [...]}`, with `"guess": true` where a person chose the point; `{"told": 0, "value": ...}`;
and `{"added": 1, "x": [...], "value": ...}` for a point whose value was known before, in the order in which they
happened. A failed evaluation has no value and an error.
"""

from collections.abc import Callable
from typing import Any

from l2o.host.log import EventLog, is_number, is_outcome


class SearchLog(EventLog):
    """An open log of a search; its header has the `bounds`."""

    FORMAT = "l2o-search"
    NOUN, OWNER, MAKER = "log", "search", "l2o.minimize"

    def checker(self, header: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
        """See the base class."""
        asked, open_, dimensions = 0, set(), len(header["bounds"])

        def fits(event: dict[str, Any]) -> bool:
            nonlocal asked
            x, told, seconds = event.get("x"), event.get("told"), event.get("seconds")
            point = isinstance(x, list) and len(x) == dimensions and all(map(is_number, x))
            timed = seconds is None or is_number(seconds)
            if event.get("asked") == asked and point:
                open_.add(asked)
                asked += 1
                return True
            if event.get("added") == asked and point and timed and is_outcome(event):
                asked += 1
                return True
            if isinstance(told, int) and told in open_ and timed and is_outcome(event):
                open_.remove(told)
                return True
            return False

        return fits
