"""The operator's views of the log: the newest dead letters, and the merchandising rules."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from nearline.dead_letters import DeadLetter, decode_dead_letter
from nearline.log import Record
from nearline.rules import Rule, Scenario, decode

NEWEST = 200  # dead letters of each queue
_SHOWN_BYTES = 400


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, its queue and offset, and the refused record as text."""

    queue: str
    offset: int
    letter: DeadLetter
    text: str


def letters_in(records: Iterable[Record]) -> list[Letter]:
    """The dead letters in *records*, newest first; records that are none are skipped."""
    found = []
    for record in records:
        try:
            letter = decode_dead_letter(record.value or b"")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        text = (letter.value or b"").decode(errors="backslashreplace")
        found.append(Letter(record.topic, record.offset, letter, text[:_SHOWN_BYTES]))
    return sorted(found, key=lambda each: -each.letter.append_ms)


def by_reason(letters: Iterable[Letter]) -> list[tuple[str, str, int]]:
    """Queue, reason and count, highest count first."""
    counts = Counter((each.queue, each.letter.reason) for each in letters)
    return [(queue, reason, count) for (queue, reason), count in counts.most_common()]


class RuleList:
    """The rules and scenarios of the topic ``rules``."""

    def __init__(self) -> None:
        self._entries: dict[str, Rule | Scenario] = {}

    def take_in(self, record: Record) -> None:
        """Apply one record; ``BadInput`` if it is neither rule nor scenario, and then its id has no entry."""
        self._entries.pop(record.id, None)
        if record.value:
            self._entries[record.id] = decode(record.id, record.value)

    @property
    def rules(self) -> list[Rule]:
        """The rules by id."""
        return [entry for _, entry in sorted(self._entries.items()) if isinstance(entry, Rule)]

    @property
    def scenarios(self) -> list[Scenario]:
        """The scenarios by name."""
        return [entry for _, entry in sorted(self._entries.items()) if isinstance(entry, Scenario)]


def deed(rule: Rule) -> str:
    """The action of a rule: `pin at 2`, `boost by 1.5`, `block`."""
    if rule.position is not None:
        return f"{rule.action} at {rule.position}"
    return str(rule.action) if rule.factor is None else f"{rule.action} by {rule.factor:g}"


def about(rule: Rule) -> str:
    """The items that a rule applies to: its filter, or its ids."""
    return rule.filter.expression if rule.filter is not None else ", ".join(rule.items)


def moment(ms: int | None) -> str:
    """A time as text, in UTC; empty for none."""
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
