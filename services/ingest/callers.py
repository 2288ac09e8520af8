"""Who sends a request, as the guard found it, and what that caller may send."""

from dataclasses import dataclass

from starlette.requests import Request

from nearline.errors import BadInput, Overloaded
from nearline.events import Event
from nearline.guard import CHARGE, GRANT, Charge, Grant, limit_of
from nearline.ids import SYNTHETIC_USERS
from nearline.keys import PUBLIC_BATCH, Permission, burst_of
from services.ingest.clicks import MAX_BATCH


class LimitReached(Overloaded):
    """The caller's limit does not allow these events before *wait_s* have passed."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller with *grant*, or one who needs none and may do anything."""

    grant: Grant | None = None

    @property
    def holder(self) -> str | None:
        """Whose share of the room its bodies take; ``None``: it has no share."""
        return None if self.grant is None else self.grant.holder

    @property
    def is_public(self) -> bool:
        """Whether anybody may be this caller: a page's key or a user's token."""
        return self.grant is not None and self.grant.is_public

    @property
    def most_events(self) -> int:
        """How many events a request may have; with a limit, no more than it allows at once."""
        if self.grant is None:
            return MAX_BATCH
        limit = self.grant.per_minute
        allowed = MAX_BATCH if limit is None else min(MAX_BATCH, burst_of(limit))
        return min(PUBLIC_BATCH, allowed) if self.is_public else allowed

    def check(self, event: Event) -> None:
        """``BadInput`` unless the caller may send events of that user."""
        if self.grant is None:
            return
        if self.grant.user_id is not None and event.user_id != self.grant.user_id:
            whose = f"this token sends events of its own user only; came {event.user_id!r:.140}"
            raise BadInput("other_user", whose, field="user_id")
        if event.user_id.startswith(SYNTHETIC_USERS) and Permission.ADMIN not in self.grant.scopes:
            whose = (
                f"users whose ids begin with {SYNTHETIC_USERS} are the system's own; only a key for admin sends them"
            )
            raise BadInput("synthetic_user", whose, field="user_id")


ANYBODY = Caller()


def caller_of(request: Request) -> Caller:
    """The caller whom the guard let through."""
    grant = request.scope.get(GRANT)
    return ANYBODY if grant is None else Caller(grant)


def charge(request: Request, events: list[object]) -> list[object]:
    """Count *events* against the limit of the request's caller and return them; ``LimitReached`` if it is too low now.

    The guard has counted the first.
    """
    spend: Charge | None = request.scope.get(CHARGE)
    wait_s = 0.0 if spend is None or len(events) < 2 else spend(request.scope, len(events) - 1)
    if wait_s > 0:
        grant: Grant = request.scope[GRANT]
        raise LimitReached(f"this key allows {limit_of(grant)}; {len(events)} came at once", wait_s)
    return events
