"""The file of a study, from which the same study goes on.

Events, in the order in which they happened: `{"asked": 0, "parameters": [{...}, ...]}` for the trials that were
suggested together, from number 0 on, with `"guess": true` where a person chose them;
`{"told": 0, "value": 0.93, "error": null}`, with an error in place of a value where the evaluation failed; and
`{"added": 7, "parameters": {...}, "value": ..., "error": ...}` for a trial that nobody suggested. A category that is a
tuple is `{"tuple": [...]}`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2o.errors import UserError
from l2o.host.log import EventLog, is_outcome
from l2o.space.searchspace import SearchSpace
from l2o.space.values import as_json, plain_category


class StudyLog(EventLog):
    """The open file of a study over a space."""

    FORMAT = "l2o-study"
    NOUN, OWNER, MAKER = "file", "study", "l2o.Study"

    def __init__(self, path: str | Path, header: dict[str, Any], space: SearchSpace):
        self._space = space
        super().__init__(path, header)

    def checker(self, header: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
        """See the base class."""
        count, open_ = 0, set()

        def fits(event: dict[str, Any]) -> bool:
            nonlocal count
            told, parameters = event.get("told"), event.get("parameters")
            if event.get("asked") == count and isinstance(parameters, list) and parameters:
                open_.update(range(count, count + len(parameters)))
                count += len(parameters)
                event["parameters"] = found = [self._assignment(each) for each in parameters]
                return None not in found
            if event.get("added") == count and is_outcome(event):
                count += 1
                event["parameters"] = self._assignment(parameters)
                return event["parameters"] is not None
            if isinstance(told, int) and told in open_ and is_outcome(event):
                open_.remove(told)
                return True
            return False

        return fits

    def write(self, event: dict[str, Any]) -> None:
        """See the base class."""
        if "parameters" in event:
            parameters = event["parameters"]
            listed = [_plain(each) for each in parameters] if isinstance(parameters, list) else _plain(parameters)
            event = event | {"parameters": listed}
        super().write(event)

    def _assignment(self, parameters: Any) -> dict[str, Any] | None:
        """Parameters from JSON as the space has them, tuples among them; None where they are no assignment."""
        try:
            given = {name: plain_category(value) for name, value in parameters.items()}
            found = assignment(self._space, given)
        except (UserError, AttributeError):
            return None
        return found if _plain(found) == parameters else None


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: as_json(value) for name, value in parameters.items()}


def assignment(space: SearchSpace, parameters: Any) -> dict[str, Any]:
    """These parameters in the order of a space, as Python's own numbers and strings.

    Raises:
      UserError: they are no assignment of the space.
    """
    space.to_unit(parameters)  # refuses them
    return {p.name: p.value(p.index(parameters[p.name])) for p in space.parameters}
