"""The routes of users: profiles, erasure, removal of events, and merges of sessions."""

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Path, Request, Response

from nearline.ids import MAX_ID_BYTES
from nearline.profiles import Profile
from nearline.telemetry import counter
from services.ingest import clicks
from services.ingest.bodies import Reservation, Room
from services.ingest.callers import caller_of, charge
from services.ingest.event_routes import EVENTS_ACCEPTED, event_result
from services.ingest.http_io import answer, answers, etag, json_body, json_of, object_of, ref, strict_id
from services.ingest.schemas import Erased, EventRemoved, MergeIn, MergeResults, Problems, ProfileAnswer, ProfileIn
from services.ingest.sender_clock import SENDER_CLOCK, correction_of
from services.ingest.user_editor import Merging, UserEditor, user_and_event, validate_merge

_PROFILES = counter("ingest_profiles_accepted_total", "Profiles that are in the log")
COMMANDS = ("erase", "merge", "remove")
_COMMANDS = counter(
    "ingest_commands_accepted_total", "Commands about users that are in the log", "command", known=COMMANDS
)

_ID = f"1-{MAX_ID_BYTES} UTF-8 bytes without control characters; slashes as %2F"
UserIdPath = Annotated[str, Path(description=_ID, examples=["17850"])]
EventIdPath = Annotated[str, Path(description=_ID, examples=["c-1"])]


def add_users(app: FastAPI, room: Room, users: UserEditor, now_ms: Callable[[], int]) -> None:
    """Add the routes of users to *app*."""

    @app.post(
        "/users/{user_id:text}/merge",
        summary="Merge an anonymous session into a user",
        responses=answers({200: MergeResults, 207: MergeResults, 422: MergeResults | Problems}, 408, 413),
        openapi_extra=json_body(ref(MergeIn)) | SENDER_CLOCK,
    )
    async def post_merge(request: Request, user_id: UserIdPath) -> Response:
        """Call it at login: the events sent under `session_id` become the user's and the session is erased; `events`
        adds events that were not sent before. Safe to repeat: an event counts once, by its `event_id`, which is
        required here. Statuses, `sent_ms` and `waited_ms` as for `POST /events`; the session counts as one more
        accepted object.
        """
        user_id = strict_id(request, "user_id", user_id)
        shift_ms = correction_of(request, now_ms())
        with Reservation(room, caller_of(request)) as place:
            body = object_of(await json_of(request, place))
            merging = validate_merge(user_id, body, now_ms=now_ms(), shift_ms=shift_ms)
            charge(request, list(merging.verdicts))
            command_id = await users.merge(user_id, merging, now_ms=now_ms())
        return _merged(user_id, merging, command_id)

    @app.delete(
        "/users/{user_id:text}/events/{event_id:text}",
        summary="Remove one event of a user",
        responses=answers({200: EventRemoved}, 422),
    )
    async def delete_event(request: Request, user_id: UserIdPath, event_id: EventIdPath) -> Response:
        """Also allowed for an unknown event: it stays out if it arrives later."""
        named = user_and_event(request.scope.get("raw_path") or request.scope["path"].encode())
        if named is None:
            return await delete_user(request, f"{user_id}/events/{event_id}")
        user_id, event_id = named
        with Reservation(room, caller_of(request), erases=True):
            command_id = await users.remove(user_id, event_id, now_ms=now_ms())
        _COMMANDS.labels("remove").inc()
        return answer(200, {"user_id": user_id, "event_id": event_id, "command_id": command_id})

    @app.get(
        "/users/{user_id:text}",
        summary="A user's profile",
        responses=answers({200: ProfileAnswer}, 404, 422),
    )
    async def get_user(request: Request, user_id: UserIdPath) -> Response:
        """The profile from PUT. Retrieval's `GET /users/{user_id}` has what the system learnt from events."""
        user_id = strict_id(request, "user_id", user_id)
        return _profile(user_id, *users.get(user_id))

    @app.put(
        "/users/{user_id:text}",
        summary="Add or replace a user's profile",
        responses=answers({200: ProfileAnswer}, 408, 413, 422),
        openapi_extra=json_body(ref(ProfileIn)),
    )
    async def put_user(request: Request, user_id: UserIdPath) -> Response:
        """Replaces the profile as a whole. The user's next answers use it; the context of an event takes precedence.
        The answer comes when the log has acknowledged it.
        """
        user_id = strict_id(request, "user_id", user_id)
        with Reservation(room, caller_of(request)) as place:
            told = await users.put(user_id, object_of(await json_of(request, place)))
        _PROFILES.inc()
        return _profile(user_id, *told)

    @app.delete("/users/{user_id:text}", summary="Erase a user", responses=answers({200: Erased}, 422))
    async def delete_user(request: Request, user_id: UserIdPath) -> Response:
        """Deletes profile, history, seen items and vector; older events that arrive later stay out. Also allowed for an
        unknown user. `nearline user forget USER --check` shows what remains where, and until when.
        """
        user_id = strict_id(request, "user_id", user_id)
        with Reservation(room, caller_of(request), erases=True):
            command_id = await users.erase(user_id, now_ms=now_ms())
        _COMMANDS.labels("erase").inc()
        return answer(200, {"user_id": user_id, "command_id": command_id})


def _profile(user_id: str, version: int, profile: Profile) -> Response:
    return answer(200, {"user_id": user_id, "version": version, "profile": profile}, etag(version))


def _merged(user_id: str, merging: Merging, command_id: str | None) -> Response:
    """The answer as for a batch of events; a session counts as one more accepted object."""
    accepted = sum(isinstance(one, clicks.AcceptedEvent) for one in merging.verdicts)
    refused = len(merging.verdicts) - accepted
    EVENTS_ACCEPTED.inc(accepted)
    if command_id is not None:
        _COMMANDS.labels("merge").inc()
    status = 200 if not refused else 207 if accepted or command_id else 422
    results = [event_result(one) for one in merging.verdicts]
    session = {"session_id": merging.session_id, "command_id": command_id}
    return answer(status, {"user_id": user_id, **session, "accepted": accepted, "refused": refused, "results": results})
