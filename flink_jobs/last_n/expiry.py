"""When an idle user's data is deleted. Independent of Flink.

A user is idle since the append time of its last change, which is the version (or a few ms less), and of the last record
about its profile. The job looks at a user once,
some time after the time to live; a user who was active meanwhile is looked at again. So a click sets no timer. Looks
are spread over a day by the user's id, and a time to live of less than a day (in tests) shortens the day.
"""

from flink_jobs.last_n.user_state import User
from nearline.hashing import hash64

_DAY_MS = 24 * 3600 * 1000


def idle_since_ms(user: User) -> int:
    """The append time of the user's last change, or later by a few ms."""
    return max(user.window.version, user.marks.told[0])


def looked_at_ms(user_id: str, since_ms: int, ttl_ms: int) -> int:
    """When to look at a user who is idle since *since_ms*: after the time to live, and at most two days later."""
    day_ms = min(_DAY_MS, ttl_ms)
    return ((since_ms + ttl_ms) // day_ms + 1) * day_ms + hash64(user_id) % day_ms
