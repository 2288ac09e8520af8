"""Results of batches: put together again, or looked at one by one."""

from collections.abc import Sequence
from typing import Any, cast

from nearline_client.answers import Event, EventResult, EventResults
from nearline_client.errors import Problem, Refused

UNPROCESSABLE = 422


def joined(parts: Sequence[Any]) -> EventResults:
    """The results of several batches as those of one."""
    return {
        "accepted": sum(part["accepted"] for part in parts),
        "refused": sum(part["refused"] for part in parts),
        "results": [one for part in parts for one in part["results"]],
    }


def only(results: EventResults) -> str:
    """The id of the one event that was sent; ``Refused`` with the field if it was."""
    (one,) = results["results"]
    if one["status"] == "refused":
        raise Refused(UNPROCESSABLE, [problem_of(one)])
    return cast("str", one["event_id"])


def problem_of(result: EventResult) -> Problem:
    """Why an event was refused."""
    return Problem(result.get("field", ""), result.get("problem", ""), result.get("reason", ""))


def refused_of(events: Sequence[Event], results: EventResults) -> list[tuple[Event, Problem]]:
    """The events that were refused, each with what was wrong."""
    both = zip(events, results["results"], strict=True)
    return [(event, problem_of(result)) for event, result in both if result["status"] == "refused"]
