"""The codes that inputs are refused with, by the module that refuses them: counters have all of them from the start.

A test compares each line with what its module raises. A service's own codes stand beside the counter that has them.
"""

RAISED: dict[str, tuple[str, ...]] = {
    "events": (
        "empty",
        "impossible_time",
        "missing_field",
        "not_an_object",
        "not_json",
        "not_utf8",
        "out_of_range",
        "too_large",
        "unknown_field",
        "unknown_type",
        "unknown_version",
        "wrong_type",
    ),
    "ids": ("bad_id", "wrong_type"),
    "item_vectors": ("bad_checksum", "bad_item_vector", "unknown_version"),
    "items": ("impossible_time", "no_title", "too_large", "wrong_type"),
    "key_ring": ("bad_key",),
    "keys": ("bad_key", "not_json", "unknown_version"),
    "popularity": ("bad_popularity", "unknown_version"),
    "profiles": ("too_large", "too_many", "wrong_type"),
    "rules": (
        "bad_id",
        "bad_key",
        "empty_window",
        "missing_field",
        "no_items",
        "out_of_range",
        "too_large",
        "unknown_action",
        "unknown_field",
        "wrong_field",
        "wrong_type",
    ),
    "seen": ("bad_checksum", "bad_seen", "unknown_version"),
    "sequences": ("bad_sequence", "unknown_version"),
    "user_commands": ("missing_field", "same_user", "unknown_command", "wrong_type"),
    "user_updates": ("bad_user_update", "unknown_version"),
}


def reasons_of(*modules: str, others: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Every code that these modules of the core refuse with, and *others*; sorted."""
    return tuple(sorted({*others, *(reason for module in modules for reason in RAISED[module])}))


# What a record of the topic ``clicks`` or ``users`` can be refused with by the job, and what ingest checks of it.
EVENT_REASONS = reasons_of("events", "ids")
COMMAND_REASONS = reasons_of("events", "ids", "user_commands")
ITEM_REASONS = reasons_of("events", "ids", "items")
PROFILE_REASONS = reasons_of("events", "ids", "profiles")
