"""The reason codes of refused inputs, by the module that refuses: counters start with all of them.

A test compares each line with what its module raises. A service declares its own codes beside its counter.
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
        "too_deep",
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
    """Every reason code of these core modules, and *others*; sorted."""
    return tuple(sorted({*others, *(reason for module in modules for reason in RAISED[module])}))


# The job's reasons to refuse a record of ``clicks`` or ``users``, and ingest's checks.
EVENT_REASONS = reasons_of("events", "ids")
COMMAND_REASONS = reasons_of("events", "ids", "user_commands")
ITEM_REASONS = reasons_of("events", "ids", "items")
PROFILE_REASONS = reasons_of("events", "ids", "profiles")
