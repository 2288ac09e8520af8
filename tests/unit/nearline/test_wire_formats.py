"""Yesterday must load: each format's golden file is read by today's code, and written the same way."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.layout import ROOT
from nearline.dead_letters import DeadLetter, decode_dead_letter, encode_dead_letter
from nearline.errors import BadInput, SpaceMismatch
from nearline.events import Event, decode_event, encode_event
from nearline.exposures import Exposure, decode_exposures, encode_exposure
from nearline.item_vectors import ItemFields, ItemVector, decode_item_vector, encode_item_vector
from nearline.items import Attribute, Item, decode_item, encode_item
from nearline.keys import Key, Permission, decode_key, encode_key, revoked
from nearline.log import Record
from nearline.popularity import decode_popularity
from nearline.profiles import Profile, decode_profile, encode_profile
from nearline.rules import Scenario, decode, encode_rule, encode_scenario, rule_of
from nearline.seen import FOREVER_S, SeenSnapshot, decode_seen, encode_seen, no_seen
from nearline.sequences import TriggerEvent, UserSequence, decode_sequence, encode_sequence, erased_sequence
from nearline.space import Space
from nearline.store import StoredUser
from nearline.user_commands import Adopt, Command, Erase, Merge, Remove, decode_entry, encode_command
from nearline.user_documents import (
    Recent,
    UserDocument,
    decode_stored_user,
    decode_user_document,
    document_order,
    encode_user_document,
    knows_all_of,
)
from nearline.user_updates import UserUpdate, decode_user_updates, encode_user_updates
from nearline.versions import is_offset, version_of

GOLDEN = ROOT / "tests" / "golden"
SPACE = Space(7, 4)
NOW_MS = 1_732_100_000_000

EVENT = Event("e-1", "u-1", "i-1", "add_to_cart", NOW_MS, 2.0, {"device": "phone"}, NOW_MS - 5, "r-1")
SEQUENCE = UserSequence(
    "u-1", NOW_MS + 3, ["i-1", "i-2"], [NOW_MS - 1, NOW_MS], ["click", "purchase"], [1.0, 9.5], ["e-0", "e-1"]
)
SAID = replace(SEQUENCE, contexts=[None, {"country": "GB", "device": "phone", "interests": ["tea", "lamps"]}])
PROFILE = Profile("GB", "phone", "newsletter", ("tea", "lamps"), {"tier": "gold", "orders": 3})
DECLARED = replace(SAID, profile={"country": "GB", "interests": ["tea"]}, profile_ms=NOW_MS - 7)
ONLY_DECLARED = UserSequence("u-1", NOW_MS, [], [], [], [], [], profile={"country": "GB"}, profile_ms=NOW_MS - 7)
BROUGHT_ALONG = replace(EVENT, merged_from=("s-1", "s-2"))
COMMANDS: dict[str, Command] = {
    "command_erase.v1.json": Erase("c-1", "u-1", NOW_MS),
    "command_remove.v1.json": Remove("c-2", "u-1", "e-1", NOW_MS),
    "command_merge.v1.json": Merge("c-3", "s-1", "u-1", NOW_MS),
    "command_adopt.v1.json": Adopt("c-3", "u-1", b"1\0\0\0\0", ("s-1",), NOW_MS),
}
SEEN = SeenSnapshot(
    NOW_MS + 3,
    np.array([3, 5, 2**63], np.uint64),
    np.array([FOREVER_S, NOW_MS // 1000, FOREVER_S], np.uint32),
    np.array([True, False, False]),
)
ITEM = Item("Mug", "for tea", "mugs", "en", 1.25, "ACME", NOW_MS, True, {"colour": "red"})
VECTOR = ItemVector(
    "i-1",
    version_of(NOW_MS, 3),
    ItemFields("Mug", "mugs", "en", 1.25, "ACME", NOW_MS, True),
    np.array([0.5, -0.5, 0.5, 0.5], np.float32),
    np.array([1, 0, 0, 0], np.float16),
    "0123456789abcdef",
)
ATTRIBUTES: dict[str, Attribute] = {"colour": "red|green", "dishwasher": True, "litres": 0.5, "pieces": 6}
DESCRIBED = replace(VECTOR, shown=replace(VECTOR.shown, attributes=ATTRIBUTES))
RETIRED = ItemVector(
    "i-1",
    version_of(NOW_MS + 1, 3),
    ItemFields(""),
    None,
    np.array([1, 0, 0, 0], np.float16),
    "0123456789abcdef",
    NOW_MS,
)
DOCUMENT = UserDocument(
    np.array([0, 1, 0, 0], np.float32),
    NOW_MS + 3,
    NOW_MS + 4,
    "e-1",
    NOW_MS,
    NOW_MS + 9,
    np.array([3, 5, 2**63], np.uint64),
    np.array([5], np.uint64),
    np.array([8, 9], np.uint64),
)
RECENT = Recent(
    np.array([5, 2**63], np.uint64),
    np.array([NOW_MS + 4, NOW_MS + 3], np.int64),
    np.array([FOREVER_S, 1_732_200_000], np.uint32),
    np.array([True, False]),
)
EXPIRING = replace(
    DOCUMENT,
    seen_version=NOW_MS + 2,
    until_s=np.array([1_732_150_000, FOREVER_S, 1_732_200_000], np.uint32),
    recent=RECENT,
)
BESIDE = replace(
    EXPIRING,
    seen=RECENT.hashes,
    purchased=RECENT.hashes[:1],
    until_s=RECENT.until_s,
    seen_beside=True,
)
NOTHING = np.zeros(0, np.uint64)
ERASED = UserDocument(
    None,
    NOW_MS,
    NOW_MS,
    "",
    0,
    NOW_MS + 1,
    NOTHING,
    NOTHING,
    NOTHING,
    seen_version=NOW_MS,
    erased=True,
    erased_version=NOW_MS,
)
RETURNED = replace(EXPIRING, erased_version=NOW_MS + 1)
FULL = replace(EXPIRING, window_from_ms=NOW_MS - 86_400_000)
UPDATE = UserUpdate(NOW_MS + 4, NOW_MS + 3, NOW_MS + 2, NOW_MS + 9)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UPDATE_OF_A_CLICK = replace(UPDATE, event_id="e-1", produced_ms=NOW_MS + 1, traceparent=TRACEPARENT)
UPDATES = {"u-1": UPDATE, "u-2": UPDATE_OF_A_CLICK, "u-3": replace(UPDATE_OF_A_CLICK, traceparent="")}
KEY = Key(
    "0123456789ab",
    "the shop's page",
    frozenset((Permission.EVENTS,)),
    bytes(range(32)),
    NOW_MS,
    frozenset(("https://shop.example", "http://127.0.0.1:3000")),
    600,
)
SIGNER = Key(
    "ba9876543210",
    "the shop's backend",
    frozenset((Permission.READ, Permission.ITEMS)),
    bytes(32),
    NOW_MS,
    token_key=bytes(range(32)),
)
LETTER = DeadLetter("not_json", "not JSON: …", "clicks", 3, 99, NOW_MS, b"u-1", b"\xff{")

RULE = rule_of(
    {
        "rule_id": "no-wine",
        "action": "block",
        "filter": 'category = "wine" and price < 20',
        "from_ms": NOW_MS,
        "until_ms": NOW_MS + 100_000_000,
        "scenario": "home",
    }
)
PIN = rule_of({"rule_id": "gifts", "action": "pin", "items": ["w1", "w2"], "position": 3})
SCENARIO = Scenario(
    "home",
    {
        "k": 12,
        "filter": "price < 50",
        "exclude_seen": "purchase",
        "diversity": 0.3,
        "popularity_discount": 0.1,
        "max_per_category": 3,
        "explore": 0.05,
    },
    ("no-wine",),
)
EXPOSURE = Exposure(
    "r-1", "u-1", NOW_MS, 1, ["i-1", "i-2"], ["pinned", "personal"], [0.5, 0.25], "home", [None, 0.95], ["gifts"], 0
)

CAUSED = replace(SEQUENCE, cause=TriggerEvent("e-1", NOW_MS + 1, NOW_MS + 3, TRACEPARENT, True))

FORMATS = {
    "rule.v1.json": encode_rule(RULE),
    "rule_pin.v1.json": encode_rule(PIN),
    "scenario.v1.json": encode_scenario(SCENARIO),
    "exposure.v1.json": encode_exposure(EXPOSURE),
    "event.v1.json": encode_event(EVENT),
    "sequence.v1.json": encode_sequence(SEQUENCE),
    "sequence_with_context.v1.json": encode_sequence(SAID),
    "sequence_with_profile.v1.json": encode_sequence(DECLARED),
    "sequence_of_a_profile.v1.json": encode_sequence(ONLY_DECLARED),
    "sequence_with_cause.v1.json": encode_sequence(CAUSED),
    "sequence_erased.v1.json": encode_sequence(erased_sequence("u-1", NOW_MS + 3)),
    "event_merged.v1.json": encode_event(BROUGHT_ALONG),
    **{name: encode_command(command) for name, command in COMMANDS.items()},
    "seen.v1.bin": encode_seen(SEEN),
    "item.v1.json": encode_item(ITEM),
    "profile.v1.json": encode_profile(PROFILE),
    "item_vector.v1.bin": encode_item_vector(VECTOR, SPACE),
    "item_vector_with_attributes.v1.bin": encode_item_vector(DESCRIBED, SPACE),
    "item_vector_retired.v1.bin": encode_item_vector(RETIRED, SPACE),
    "user_document.v3.bin": encode_user_document(DOCUMENT, SPACE),
    "user_document_expiring.v3.bin": encode_user_document(EXPIRING, SPACE),
    "user_document_beside.v3.bin": encode_user_document(BESIDE, SPACE),
    "user_document_erased.v3.bin": encode_user_document(ERASED, SPACE),
    "user_document_of_a_full_window.v3.bin": encode_user_document(FULL, SPACE),
    "user_document_after_an_erasure.v3.bin": encode_user_document(RETURNED, SPACE),
    "user_updates.v2.json": encode_user_updates(UPDATES),
    "dead_letter.v1.json": encode_dead_letter(LETTER),
    "api_key.v1.json": encode_key(KEY),
    "api_key_revoked.v1.json": encode_key(revoked(SIGNER, now_ms=NOW_MS + 1)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_todays_code_writes_the_golden_bytes(name: str) -> None:
    assert (GOLDEN / name).read_bytes() == FORMATS[name]


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def test_golden_messages_load() -> None:
    assert decode_event(golden("event.v1.json"), append_ms=NOW_MS) == EVENT
    assert decode_sequence(golden("sequence.v1.json")) == SEQUENCE
    assert decode_sequence(golden("sequence_with_context.v1.json")) == SAID
    assert decode_sequence(golden("sequence_with_profile.v1.json")) == DECLARED
    assert decode_sequence(golden("sequence_of_a_profile.v1.json")) == ONLY_DECLARED
    assert decode_sequence(golden("sequence_with_cause.v1.json")) == CAUSED
    assert decode_sequence(golden("sequence_erased.v1.json")) == erased_sequence("u-1", NOW_MS + 3)
    assert decode_event(golden("event_merged.v1.json"), append_ms=NOW_MS) == BROUGHT_ALONG
    assert decode_item(golden("item.v1.json")) == ITEM
    assert decode_profile(golden("profile.v1.json")) == PROFILE
    assert decode_dead_letter(golden("dead_letter.v1.json")) == LETTER
    assert decode_key(golden("api_key.v1.json")) == KEY
    assert decode_key(golden("api_key_revoked.v1.json")) == revoked(SIGNER, now_ms=NOW_MS + 1)


def test_golden_rules_and_exposures_load() -> None:
    assert decode("no-wine", golden("rule.v1.json")) == RULE
    assert decode("gifts", golden("rule_pin.v1.json")) == PIN
    assert decode("scenario:home", golden("scenario.v1.json")) == SCENARIO
    assert decode_exposures(golden("exposure.v1.json")) == [EXPOSURE]


def test_the_golden_popularity_loads() -> None:
    popularity = decode_popularity(golden("popularity.v1.json"))
    assert (popularity.item_id, popularity.half_life_ms) == ("i-1", 604_800_000)
    assert popularity.score > 0


@pytest.mark.parametrize("name", COMMANDS)
def test_golden_commands_load(name: str) -> None:
    assert decode_entry(golden(name), append_ms=NOW_MS) == COMMANDS[name]


def test_the_golden_seen_snapshot_loads() -> None:
    loaded = decode_seen(golden("seen.v1.bin"))
    assert loaded.version == SEEN.version
    for name in ("hashes", "until_s", "bought"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(SEEN, name))
    assert len(decode_seen(encode_seen(no_seen(7))).hashes) == 0


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        ("item_vector.v1.bin", VECTOR),
        ("item_vector_with_attributes.v1.bin", DESCRIBED),
        ("item_vector_retired.v1.bin", RETIRED),
    ],
)
def test_golden_item_vectors_load(name: str, vector: ItemVector) -> None:
    loaded = decode_item_vector("i-1", golden(name), SPACE)
    assert (loaded.version, loaded.shown, loaded.retired_ms) == (vector.version, vector.shown, vector.retired_ms)
    np.testing.assert_array_equal(loaded.history, vector.history)
    if vector.candidate is None:
        assert loaded.candidate is None
    else:
        np.testing.assert_array_equal(loaded.candidate, vector.candidate)


def test_an_item_vector_of_an_earlier_release_loads_with_its_offset_as_the_version() -> None:
    loaded = decode_item_vector("i-1", golden("item_vector_of_an_offset.v1.bin"), SPACE)
    assert (loaded.version, loaded.shown) == (42, VECTOR.shown)
    assert is_offset(loaded.version)
    assert not is_offset(VECTOR.version)


def test_the_golden_user_update_loads() -> None:
    assert decode_user_updates(updates_record(golden("user_updates.v2.json"))) == UPDATES


def test_a_user_update_of_the_first_version_still_loads() -> None:
    for name, update in (("user_update", UPDATE), ("user_update_of_a_click", UPDATE_OF_A_CLICK)):
        assert decode_user_updates(updates_record(golden(f"{name}.v1.json"), key=b"u-1")) == {"u-1": update}


def updates_record(raw: bytes | None, key: bytes | None = None) -> Record:
    return Record("user-updates.1", 0, 0, NOW_MS, key, raw)


BAD_UPDATES = [
    None,
    b"",
    b"{}",
    b"[]",
    b'{"v":3,"users":{}}',
    b'{"v":2}',
    b'{"v":2,"users":[]}',
    b'{"v":2,"users":{"u":[1,2]}}',
    b'{"v":2,"users":{"u":[1,2,3,"4"]}}',
    b'{"v":1,"history_version":1}',
]


@pytest.mark.parametrize("raw", BAD_UPDATES)
def test_user_updates_of_another_form_are_refused(raw: bytes | None) -> None:
    with pytest.raises(BadInput):
        decode_user_updates(updates_record(raw))


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("user_document.v1.bin", DOCUMENT),
        ("user_document.v2.bin", DOCUMENT),
        ("user_document_expiring.v2.bin", EXPIRING),
        ("user_document_erased.v2.bin", ERASED),
        ("user_document.v3.bin", DOCUMENT),
        ("user_document_expiring.v3.bin", EXPIRING),
        ("user_document_beside.v3.bin", BESIDE),
        ("user_document_erased.v3.bin", ERASED),
        ("user_document_of_a_full_window.v3.bin", FULL),
        ("user_document_after_an_erasure.v3.bin", RETURNED),
    ],
)
def test_golden_user_documents_load(name: str, document: UserDocument) -> None:
    raw = golden(name)
    loaded = decode_user_document(raw, SPACE)
    assert loaded.order == document_order(raw) == document.order
    for column in (
        "newest_event_id",
        "as_of_ms",
        "stored_ms",
        "erased",
        "seen_beside",
        "window_from_ms",
        "erased_version",
    ):
        assert getattr(loaded, column) == getattr(document, column)
    for column in ("vector", "seen", "purchased", "events", "until_s"):
        np.testing.assert_array_equal(getattr(loaded, column), getattr(document, column))
    if not name.endswith("v1.bin"):
        assert_recent(loaded.recent, document.recent)


def assert_recent(found: Recent, expected: Recent) -> None:
    for column in ("hashes", "versions", "until_s", "bought"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))


def test_all_that_a_document_of_version_1_saw_may_be_newer_than_the_first_snapshot() -> None:
    expected = Recent(DOCUMENT.seen, np.full(3, NOW_MS + 4), None, np.array([False, True, False]))
    assert_recent(decode_user_document(golden("user_document.v1.bin"), SPACE).recent, expected)


def test_seen_items_count_until_they_expire() -> None:
    loaded = decode_user_document(golden("user_document_expiring.v3.bin"), SPACE)
    assert loaded.seen_at(1_732_149_999).tolist() == [3, 5, 2**63]
    assert loaded.seen_at(1_732_150_000).tolist() == [5, 2**63]
    assert loaded.seen_at(FOREVER_S - 1).tolist() == [5]
    assert loaded.purchased_at(FOREVER_S - 1).tolist() == [5]
    assert replace(EXPIRING, purchased=EXPIRING.seen).purchased_at(1_732_150_000).tolist() == [5, 2**63]


def test_seen_for_ever_costs_nothing_to_look_at() -> None:
    loaded = decode_user_document(golden("user_document.v3.bin"), SPACE)
    assert loaded.seen_at(FOREVER_S - 1) is loaded.seen
    assert loaded.purchased_at(FOREVER_S - 1) is loaded.purchased


@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3))
def test_a_document_knows_all_of_another_if_it_is_behind_in_nothing(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    first, second = (
        encode_user_document(replace(ERASED, history_version=h, vector_version=v, seen_version=s), SPACE)
        for h, v, s in (one, other)
    )
    assert knows_all_of(first, second) == all(a >= b for a, b in zip(one, other, strict=True))


def test_a_document_that_does_not_know_an_erasure_replaces_none_that_does() -> None:
    knows, newer = (
        encode_user_document(each, SPACE) for each in (RETURNED, replace(RETURNED, erased_version=NOW_MS + 2))
    )
    for stored in (knows, golden("user_document_erased.v3.bin")):
        assert not knows_all_of(golden("user_document_expiring.v3.bin"), stored)
        assert knows_all_of(newer, stored)
    assert not knows_all_of(knows, newer)


def test_a_document_that_is_too_short_for_its_erasure_is_refused() -> None:
    cut = golden("user_document_after_an_erasure.v3.bin")[:80]
    with pytest.raises(BadInput, match="80 bytes"):
        knows_all_of(cut, golden("user_document.v3.bin"))


def test_the_columns_of_a_document_lie_where_a_processor_likes_them() -> None:
    loaded = decode_user_document(golden("user_document_expiring.v3.bin"), SPACE)
    for column in (loaded.vector, loaded.seen, loaded.purchased, loaded.events, loaded.recent.versions, loaded.until_s):
        assert column is not None
        assert column.flags.aligned


def decode_vector(raw: bytes, space: Space) -> object:
    return decode_item_vector("i-1", raw, space)


def decode_seen_of(raw: bytes, _: Space) -> object:
    return decode_seen(raw)


OF_A_SPACE = [
    ("item_vector.v1.bin", decode_vector),
    ("user_document.v1.bin", decode_user_document),
    ("user_document_expiring.v2.bin", decode_user_document),
    ("user_document_expiring.v3.bin", decode_user_document),
]
BINARY = [*OF_A_SPACE, ("seen.v1.bin", decode_seen_of)]


@pytest.mark.parametrize(("name", "decode"), OF_A_SPACE)
def test_another_space_is_refused_with_both_numbers(name: str, decode) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpaceMismatch, match=r"space 7.*space 8"):
        decode(golden(name), Space(8, 4))
    with pytest.raises(SpaceMismatch, match=r"4 dimensions.*has 64"):
        decode(golden(name), Space(7, 64))


@pytest.mark.parametrize(("name", "decode"), BINARY)
def test_any_flipped_byte_is_refused(name: str, decode) -> None:  # type: ignore[no-untyped-def]
    raw = golden(name)
    body = raw.index(b"e-1") if ".v1" in name and b"e-1" in raw else len(raw) - 20
    for at in range(body, len(raw)):
        flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(BadInput, match="checksum"):
            decode(flipped, SPACE)


def test_a_flipped_version_of_a_user_document_is_refused() -> None:
    """Since the second version the head is under the checksum too: what is in it decides which write wins."""
    raw = golden("user_document_expiring.v3.bin")
    for at in range(12, 80):
        with pytest.raises(BadInput, match="checksum"):
            decode_user_document(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], SPACE)


def test_a_user_document_of_a_later_version_is_refused() -> None:
    raw = golden("user_document.v3.bin")
    for read in (document_order, lambda raw: decode_user_document(raw, SPACE)):
        with pytest.raises(BadInput, match="version 4"):
            read(raw[:2] + b"\4" + raw[3:])


def test_a_document_and_the_snapshot_beside_it_are_all_that_was_seen() -> None:
    until_s, bought = np.array([FOREVER_S, 1_732_150_000], np.uint32), np.array([False, True])
    snapshot = SeenSnapshot(NOW_MS + 3, np.array([4, 5], np.uint64), until_s, bought)
    stored = StoredUser(golden("user_document_beside.v3.bin"), encode_seen(snapshot))
    both = decode_stored_user(stored, SPACE)
    assert both is not None
    assert not both.seen_beside
    assert both.seen.tolist() == [4, 5], "what the snapshot includes is no longer recent, and was removed"
    assert both.purchased.tolist() == [5]
    assert both.until_s is None
    assert both.order == (NOW_MS + 4, NOW_MS + 3, NOW_MS + 3)


@pytest.mark.parametrize("seen", [None, encode_seen(no_seen(NOW_MS + 1))])
def test_a_document_without_its_snapshot_says_that_items_are_missing(seen: bytes | None) -> None:
    document = decode_stored_user(StoredUser(golden("user_document_beside.v3.bin"), seen), SPACE)
    assert document is not None
    assert document.seen_beside
    assert document.seen.tolist() == RECENT.hashes.tolist()
    assert decode_stored_user(StoredUser(None, seen), SPACE) is None


def test_a_document_of_the_second_version_has_all_of_its_items_until_the_next_snapshot() -> None:
    raw = golden("user_document_expiring.v2.bin")
    older = encode_seen(no_seen(EXPIRING.seen_version - 1))
    assert decode_stored_user(StoredUser(raw, older), SPACE) is not None
    kept = decode_stored_user(StoredUser(raw, older), SPACE)
    assert kept is not None
    assert kept.seen.tolist() == EXPIRING.seen.tolist()
    again = decode_user_document(encode_user_document(decode_user_document(raw, SPACE), SPACE), SPACE)
    np.testing.assert_array_equal(again.seen, EXPIRING.seen)
    np.testing.assert_array_equal(again.until_s, EXPIRING.until_s)
    newer = decode_stored_user(StoredUser(raw, encode_seen(no_seen(NOW_MS + 4))), SPACE)
    assert newer is not None
    assert newer.seen.tolist() == []


@pytest.mark.parametrize(("name", "decode"), BINARY)
def test_bytes_of_another_format_are_refused(name: str, decode) -> None:  # type: ignore[no-untyped-def]
    for raw in (b"", b"NV", b"{}" * 100):
        with pytest.raises(BadInput):
            decode(raw, SPACE)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", orjson.dumps({**orjson.loads(encode_sequence(SEQUENCE)), "v": 2}), b'{"v":1,"user_id":"u"}'],
)
def test_a_sequence_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInput):
        decode_sequence(raw)


def test_columns_of_different_length_are_refused() -> None:
    body = orjson.loads(encode_sequence(SEQUENCE)) | {"items": ["i-1"]}
    with pytest.raises(BadInput, match="one length"):
        decode_sequence(orjson.dumps(body))


@pytest.mark.parametrize("empty", [[], [None, None], None])
def test_a_sequence_without_contexts_has_no_column_for_them(empty: list[None] | None) -> None:
    """What is written is what was written before there were contexts; what is read may say it in other ways."""
    assert encode_sequence(replace(SEQUENCE, contexts=list(empty or ()))) == golden("sequence.v1.json")
    body = orjson.loads(golden("sequence.v1.json")) | {"contexts": empty}
    assert encode_sequence(decode_sequence(orjson.dumps(body))) == golden("sequence.v1.json")


@pytest.mark.parametrize("contexts", [[None], [None, {}, None], "ab", [None, "phone"], {"a": 1, "b": 2}, 7])
def test_contexts_that_are_no_column_are_refused(contexts: object) -> None:
    body = orjson.loads(golden("sequence_with_context.v1.json")) | {"contexts": contexts}
    with pytest.raises(BadInput, match="contexts"):
        decode_sequence(orjson.dumps(body))


@pytest.mark.parametrize(
    "change",
    [
        {"erased": False},
        {"erased": True},
        {"profile": "GB", "profile_ms": 5},
        {"profile": {"country": "GB"}},
        {"items": [], "times_ms": [], "types": [], "values": [], "event_ids": []},
    ],
)
def test_a_sequence_that_is_erased_and_is_not_or_has_no_whole_profile_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        decode_sequence(orjson.dumps(orjson.loads(encode_sequence(SEQUENCE)) | change))


def test_a_seen_snapshot_of_a_later_form_is_refused() -> None:
    raw = golden("seen.v1.bin")
    with pytest.raises(BadInput, match="version 2"):
        decode_seen(raw[:2] + b"\x02" + raw[3:])
    with pytest.raises(BadInput, match="checksum"):
        decode_seen(raw[:-1])


@pytest.mark.parametrize(
    "cause",
    [None, 5, [], "e-1", {"event_id": "e-1", "produced_ms": 1}, {"event_id": 1, "produced_ms": 1, "appended_ms": 2}],
)
def test_a_cause_of_another_form_is_none_and_the_history_is_read(cause: object) -> None:
    body = orjson.loads(golden("sequence_with_cause.v1.json")) | {"cause": cause}
    assert decode_sequence(orjson.dumps(body)) == SEQUENCE
