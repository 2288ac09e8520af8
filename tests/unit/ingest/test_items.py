"""The item routes: changes apply in the order of the requests, and concurrent changes are not lost."""

import asyncio
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from nearline.items import MAX_ITEM_BYTES, PURGE, Item, decode_item, encode_item
from nearline.log import Record
from nearline.topics import ITEMS, PARTITIONS
from nearline.versions import partition_of
from services.ingest.catalogue_editor import merged
from services.ingest.schemas import ItemAnswer, ItemResults, Problems
from services.ingest.table_view import TableView
from tests.support.fakes import LOG_MS, appended
from tests.support.ingest_door import LAMP, Door

pytestmark = pytest.mark.anyio


def etag(nth: int) -> str:
    return f'"{appended(nth).version}"'


@pytest.fixture
def door() -> Door:
    return Door()


async def test_an_item_is_in_the_log_and_readable_when_its_put_is_answered(door: Door) -> None:
    answer = await door.item("PUT", "lamp-1", LAMP)
    assert (answer.status_code, answer.headers["etag"]) == (200, etag(0))
    assert (await door.item("GET", "lamp-1")).json() == answer.json()
    ItemAnswer.model_validate(answer.json())
    ((key, value),) = door.changes
    assert key == b"lamp-1"
    assert decode_item(value or b"").title == "RED RETRO LAMP"


async def test_a_put_replaces_the_item_as_a_whole(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    item = (await door.item("PUT", "lamp-1", {"title": "Lamp"})).json()["item"]
    assert (item["title"], item["price"], item["attributes"]) == ("Lamp", None, {})


async def test_a_patch_changes_what_it_names_and_null_takes_away(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    patch = {"available": False, "price": None, "attributes": {"watts": None, "socket": "E27"}}
    answer = await door.item("PATCH", "lamp-1", patch)
    item = answer.json()["item"]
    assert (answer.status_code, answer.headers["etag"]) == (200, etag(1))
    assert (item["title"], item["available"], item["price"]) == ("RED RETRO LAMP", False, None)
    assert item["attributes"] == {"colour": "red", "socket": "E27"}
    assert decode_item(door.changes[-1][1] or b"").attributes == {"colour": "red", "socket": "E27"}


async def test_concurrent_patches_keep_each_others_changes(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    changes: list[dict[str, Any]] = [{"price": 9}, {"available": False}, {"brand": "B"}, {"attributes": {"watts": 5}}]
    answers = await asyncio.gather(*(door.item("PATCH", "lamp-1", change) for change in changes))
    assert [answer.status_code for answer in answers] == [200] * 4
    item = (await door.item("GET", "lamp-1")).json()["item"]
    assert (item["price"], item["available"], item["brand"], item["attributes"]["watts"]) == (9, False, "B", 5)


async def test_a_patch_that_waits_for_a_put_changes_what_was_put(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    door.outbox.held = asyncio.Event()
    put = asyncio.create_task(door.item("PUT", "lamp-1", {"title": "Lamp", "brand": "B"}))
    async with asyncio.timeout(5):
        while len(door.outbox.calls) < 2:
            await asyncio.sleep(0)
    patch = asyncio.create_task(door.item("PATCH", "lamp-1", {"price": 1}))
    await asyncio.sleep(0.01)
    door.outbox.held.set()
    await put
    item = (await patch).json()["item"]
    assert (item["title"], item["brand"], item["price"]) == ("Lamp", "B", 1)


async def test_changes_of_other_items_do_not_wait(door: Door) -> None:
    await door.item("PUT", "a", LAMP)
    await door.item("PUT", "b", LAMP)
    door.outbox.held = asyncio.Event()
    both = [asyncio.create_task(door.item("PATCH", item, {"price": 1})) for item in ("a", "b")]
    async with asyncio.timeout(5):
        while sum(door.outbox.calls) < 3:
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    door.outbox.held.set()
    assert [answer.status_code for answer in await asyncio.gather(*both)] == [200, 200]


async def test_waiting_too_long_for_an_earlier_change_gives_503(door: Door) -> None:
    await door.item("PUT", "a", LAMP)
    door.outbox.held = asyncio.Event()
    first = asyncio.create_task(door.item("PATCH", "a", {"price": 1}))
    await asyncio.sleep(0.01)
    answer = await asyncio.wait_for(door.item("PATCH", "a", {"price": 2}), 5)
    assert answer.status_code == 503
    door.outbox.held.set()
    assert (await first).json()["item"]["price"] == 1


async def test_a_change_on_condition_is_made_to_that_version_only(door: Door) -> None:
    version = (await door.item("PUT", "lamp-1", LAMP)).headers["etag"]
    assert (await door.item("PATCH", "lamp-1", {"price": 1}, headers={"if-match": version})).status_code == 200
    for method, body in (("PATCH", {"price": 2}), ("PUT", LAMP), ("DELETE", None)):
        late = await door.item(method, "lamp-1", body, headers={"if-match": version})
        assert late.status_code == 412
        assert Problems.model_validate(late.json()).detail[0].field == "If-Match"
        assert f"is version {appended(1).version}" in late.json()["detail"][0]["problem"]
    assert len(door.changes) == 2
    assert (await door.item("DELETE", "lamp-1", headers={"if-match": "*"})).status_code == 200
    assert (await door.item("DELETE", "lamp-1", headers={"if-match": "*"})).status_code == 412
    assert (await door.item("PUT", "x", LAMP, headers={"if-match": "soon"})).status_code == 422


async def test_a_deleted_item_is_gone_and_a_purge_says_so_in_the_log(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    answer = await door.item("DELETE", "lamp-1")
    assert (answer.status_code, answer.json()) == (200, {"item_id": "lamp-1", "version": appended(1).version})
    assert (await door.item("GET", "lamp-1")).status_code == 404
    assert (await door.item("PATCH", "lamp-1", {"price": 1})).status_code == 404
    assert (await door.ask("DELETE", "/items/lamp-1?purge=true")).status_code == 200
    assert door.changes[1:] == [(b"lamp-1", None)] * 2
    assert door.outbox.headers[ITEMS] == [(), (), (PURGE,)]
    assert (await door.ask("DELETE", "/items/lamp-1?purge=perhaps")).status_code == 422


async def test_a_batch_lists_what_is_good_and_names_what_is_not(door: Door) -> None:
    batch = [
        {"item_id": "a", **LAMP},
        {"item_id": "b", "titel": "x"},
        {**LAMP},
        "c",
        {"item_id": "a", "title": "the newer a"},
    ]
    answer = await door.ask("POST", "/items", batch)
    body = ItemResults.model_validate(answer.json())
    assert (answer.status_code, body.accepted, body.refused) == (207, 2, 3)
    versions = [getattr(one, "version", None) for one in body.results]
    assert versions == [appended(0).version, None, None, None, appended(1).version]
    assert [getattr(one, "field", None) for one in body.results] == [None, "titel", "item_id", "", None]
    assert (await door.item("GET", "a")).json()["item"]["title"] == "the newer a"
    assert (await door.ask("POST", "/items", [{}])).status_code == 422
    assert (await door.ask("POST", "/items", [LAMP] * 501)).json()["detail"][0]["reason"] == "wrong_count"


async def test_two_batches_over_the_same_items_never_wait_for_one_another(door: Door) -> None:
    forth = [{"item_id": f"i{n}", "title": "forth"} for n in range(50)]
    back = [{"item_id": f"i{n}", "title": "back"} for n in reversed(range(50))]
    answers = await asyncio.gather(*(door.ask("POST", "/items", batch) for batch in (forth, back) * 5))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("item_id", ["a/b", "a//b/", "/", "é ü", "🛋", "100%", "a?b#c", "..x", "x" * 128])
async def test_any_valid_id_has_a_route(door: Door, item_id: str) -> None:
    assert (await door.item("PUT", item_id, LAMP)).json()["item_id"] == item_id
    assert (await door.item("PATCH", item_id, {"price": 1})).status_code == 200
    assert (await door.item("GET", item_id)).json()["version"] == appended(1).version
    assert (await door.item("DELETE", item_id)).status_code == 200
    assert {key for key, _ in door.changes} == {item_id.encode()}


@pytest.mark.parametrize("escaped", ["x" * 129, "%C3%A9" * 65, "a%0Ab", "", "%FF", "a%00"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "GET", "DELETE"])
async def test_an_id_that_no_topic_may_carry_is_refused(door: Door, method: str, escaped: str) -> None:
    body = LAMP if method in ("PUT", "PATCH") else None
    answer = await door.ask(method, f"/items/{escaped}", body)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "item_id")
    assert door.changes == []


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "title", "needs a title"),
        ({"title": "  "}, "title", "needs a title"),
        ({"title": 5}, "title", "must be a string, came int"),
        ({"title": "x", "prize": 1}, "prize", "did you mean 'price'?"),
        ({"title": "x", "price": -1}, "price", "from 0 to 1e12"),
        ({"title": "x", "available": "no"}, "available", "true or false"),
        ({"title": "x", "attributes": {"a": [1]}}, "attributes", "number, string or bool"),
        ({"title": "x", "listed_ms": 5}, "listed_ms", "UTC milliseconds"),
        ({"title": "x", "attributes": {"a": "x" * MAX_ITEM_BYTES}}, "", "at most 262,144 are accepted"),
        ([LAMP], "", "must be a JSON object, came list"),
    ],
)
async def test_an_item_is_refused_by_the_rules_of_the_log(door: Door, body: Any, field: str, words: str) -> None:
    answer = await door.item("PUT", "lamp-1", body)
    (problem,) = answer.json()["detail"]
    assert (answer.status_code, problem["field"]) == (422, field)
    assert words in problem["problem"]
    assert door.changes == []


async def test_a_patch_that_would_break_the_item_changes_nothing(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    for patch, field in (({"title": None}, "title"), ({"price": "9"}, "price"), ({"v": 2}, "v")):
        answer = await door.item("PATCH", "lamp-1", patch)
        assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, field)
    assert len(door.changes) == 1


async def test_until_the_catalogue_was_read_no_item_is_said_not_to_be_listed(door: Door) -> None:
    door.is_read = False
    for answer in (await door.item("GET", "a"), await door.item("PATCH", "a", {"price": 1})):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await door.item("PUT", "a", LAMP)).status_code == 200
    assert (await door.item("DELETE", "a")).status_code == 200
    assert (await door.ask("GET", "/readyz")).status_code == 503


async def test_a_failed_append_leaves_the_item_unchanged(door: Door) -> None:
    await door.item("PUT", "a", LAMP)
    door.outbox.down = True
    for method, body in (("PATCH", {"price": 1}), ("PUT", LAMP), ("DELETE", None)):
        assert (await door.item(method, "a", body)).status_code == 503
    assert (await door.ask("POST", "/items", {"item_id": "a", **LAMP})).status_code == 503
    assert (await door.item("GET", "a")).json()["item"]["price"] == 12.5


# --- the table -------------------------------------------------------------------------------------------------------


def record(nth: int, value: bytes | None, item_id: str = "a", partition: int = 0) -> Record:
    append_ms, partition, offset = appended(nth, partition)
    return Record(ITEMS, partition, offset, append_ms, item_id.encode(), value)


def title(nth: int, title: str, partition: int = 0) -> Record:
    return record(nth, encode_item(Item(title)), partition=partition)


def test_records_that_come_back_do_not_undo_what_this_process_changed_since() -> None:
    listing = TableView(ITEMS, decode_item)
    listing.apply([record(0, b'{"v":1,"title":"old"}')])
    listing.note("a", appended(2), None)
    listing.apply([record(1, b'{"v":1,"title":"somebody else\'s"}')])
    assert listing.get("a") is None
    listing.apply([record(2, None)])
    assert listing.get("a") is None
    listing.apply([record(3, b'{"v":1,"title":"newer"}')])
    listed = listing.get("a")
    assert listed is not None
    assert listed.version == appended(3).version


def test_a_record_that_is_no_item_changes_nothing_as_everywhere_else() -> None:
    listing = TableView(ITEMS, decode_item)
    listing.apply([record(0, b'{"v":1,"title":"good"}'), record(1, b"{"), record(2, b'{"v":1}')])
    listed = listing.get("a")
    assert listed is not None
    assert listed.version == appended(0).version
    listing.apply([record(3, b"")])
    assert listing.get("a") is None


def titles(listing: TableView) -> str | None:
    stored = listing.get("a")
    return None if stored is None else decode_item(stored.raw).title


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_later_appended_record_counts_in_whatever_order_partitions_are_read(order: tuple[int, ...]) -> None:
    """Another client wrote to partition 5 what everybody else writes to partition 2."""
    records = [title(0, "first", 5), title(1, "second", 2), title(2, "third", 5)]
    listing = TableView(ITEMS, decode_item)
    listing.apply([records[n] for n in order])
    assert titles(listing) == "third"
    deleted = TableView(ITEMS, decode_item)
    deleted.apply([[*records[:2], record(2, None, partition=2)][n] for n in order])
    assert titles(deleted) is None


def test_of_two_changes_in_one_millisecond_the_later_in_its_partition_counts() -> None:
    at = record(0, None)
    listing = TableView(ITEMS, decode_item)
    listing.apply([replace(at, offset=n, value=encode_item(Item(f"title {n}"))) for n in range(3000)])
    assert titles(listing) == "title 2999"


async def test_a_delete_goes_to_every_partition_that_holds_the_item(door: Door) -> None:
    """Else the value that another client wrote would come back once the delete has left the log."""
    right = partition_of(b"a", PARTITIONS)
    wrong = (right + 1) % PARTITIONS
    door.listing.apply([title(0, "of another client", wrong), title(1, "of ours", right)])
    await door.item("DELETE", "a")
    assert [(at.partition, value) for at, (_, value) in zip(door.outbox.places[ITEMS], door.changes, strict=True)] == [
        (wrong, None),
        (0, None),  # the outbox's partition of every key
    ]
    door.listing.apply([replace(each, append_ms=LOG_MS + 9) for each in door.outbox.records(ITEMS)])
    await door.item("PUT", "a", LAMP)
    await door.item("DELETE", "a")
    assert len(door.changes) == 4, "nothing is left there to delete"


async def test_a_service_that_starts_later_reads_what_was_changed_here(door: Door) -> None:
    await door.item("PUT", "a", LAMP)
    await door.item("PATCH", "a", {"price": 1})
    await door.item("PUT", "b", LAMP)
    await door.item("DELETE", "b")
    later = Door()
    later.outbox = door.outbox
    later.come_back()
    assert (await later.item("GET", "a")).json() == (await door.item("GET", "a")).json()
    assert (await later.item("GET", "b")).status_code == 404


def test_a_merge_leaves_what_it_was_given_as_it_was() -> None:
    item, patch = {"title": "t", "attributes": {"a": 1}}, {"attributes": {"a": None, "b": 2}, "price": None}
    assert merged(item, patch) == {"title": "t", "attributes": {"b": 2}}
    assert (item, patch) == (
        {"title": "t", "attributes": {"a": 1}},
        {"attributes": {"a": None, "b": 2}, "price": None},
    )
    assert merged({"title": "t"}, {"attributes": None}) == {"title": "t"}


async def test_a_misspelt_parameter_deletes_nothing(door: Door) -> None:
    await door.item("PUT", "lamp-1", LAMP)
    answer = await door.ask("DELETE", "/items/lamp-1?purg=true")
    assert answer.status_code == 422
    assert answer.json()["detail"] == [
        {"field": "purg", "reason": "unknown_field", "problem": "unknown parameter 'purg'; did you mean 'purge'?"}
    ]
    assert (await door.item("GET", "lamp-1")).status_code == 200
