"""What an export takes from the log: every event that is not erased; nearline/newest.py has each key's newest record.

Both need two passes over a topic, the first of which finds the newest records or the erasures; so an export keeps ids
in memory and never the records.
"""

from nearline.errors import BadInput
from nearline.events import Event
from nearline.log import Record
from nearline.user_commands import Entry, Erase, Merge, Remove, decode_entry


class Forgotten:
    """The erasures and removals in ``clicks``: ``note`` all its records first, then ask ``keeps``."""

    def __init__(self) -> None:
        self._erased_ms: dict[str, int] = {}  # user -> append time of the newest erasure
        self._removed: set[tuple[str, str]] = set()

    def note(self, record: Record) -> None:
        """Apply *record* if it is a command. A merge erases the session: its events come again under the user's id."""
        if record.value is None or b'"command"' not in record.value:
            return
        command = entry_in(record)
        if isinstance(command, Erase | Merge):
            self._erased_ms[command.user_id] = max(record.append_ms, self._erased_ms.get(command.user_id, 0))
        elif isinstance(command, Remove):
            self._removed.add((command.user_id, command.event_id))

    def keeps(self, event: Event, append_ms: int) -> bool:
        """Whether *event* is not erased; late duplicates of erased events are."""
        erased_ms = self._erased_ms.get(event.user_id, -1)
        if append_ms <= erased_ms or event.time_ms <= erased_ms:
            return False
        return (event.user_id, event.event_id) not in self._removed


def entry_in(record: Record) -> Entry | None:
    """The event or command in a record of ``clicks``; ``None`` for one that the job makes a dead letter."""
    try:
        return decode_entry(record.value, append_ms=record.append_ms)
    except BadInput:
        return None
