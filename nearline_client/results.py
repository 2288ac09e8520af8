"""Joins and reads the results of batches."""

from collections.abc import Sequence
from typing import Any, cast

from nearline_client.answers import Event, EventResult, EventResults
from nearline_client.errors import Problem, Refused

UNPROCESSABLE = 422


def joined(parts: Sequence[Any]) -> EventResults:
    """Join the results of several batches into one."""
    return {
        "accepted": sum(part["accepted"] for part in parts),
        "refused": sum(part["refused"] for part in parts),
        "results": [one for part in parts for one in part["results"]],
    }


def only(results: EventResults) -> str:
    """The id of the one event in *results*; ``Refused`` with the field if it was refused."""
    (one,) = results["results"]
    if one["status"] == "refused":
        raise Refused(UNPROCESSABLE, [problem_of(one)])
    return cast("str", one["event_id"])


def problem_of(result: EventResult) -> Problem:
    """Why an event was refused."""
    return Problem(result.get("field", ""), result.get("problem", ""), result.get("reason", ""))


def refused_of(events: Sequence[Event], results: EventResults) -> list[tuple[Event, Problem]]:
    """The refused events, each with its problem."""
    both = zip(events, results["results"], strict=True)
    return [(event, problem_of(result)) for event, result in both if result["status"] == "refused"]
