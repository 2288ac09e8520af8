"""Appending to Kafka: batching, errors while the broker is down, and that no caller waits for ever."""

import asyncio
from collections.abc import Sequence

import pytest

from nearline.errors import BadInput, Unavailable
from nearline.log import Appended
from services.ingest.appender import Appender, KeyedMessage
from tests.support.fakes import Outbox, appended

pytestmark = pytest.mark.anyio
PURGE = (("nearline-purge", b"1"),)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def appender(outbox: Outbox) -> Appender:
    return Appender("t", outbox)


async def several(appender: Appender, messages: Sequence[tuple[bytes, bytes | None]]) -> list[list[Appended]]:
    return list(await asyncio.gather(*(appender.append([message]) for message in messages)))


async def until_called(outbox: Outbox, times: int) -> None:
    async with asyncio.timeout(5):
        while len(outbox.calls) < times:
            await asyncio.sleep(0)


async def test_a_single_message_is_sent_without_delay(appender: Appender, outbox: Outbox) -> None:
    assert await appender.append([(b"k", b"1")]) == [appended(0)]
    assert outbox.calls == [1]


async def test_messages_that_arrive_during_a_send_go_out_together_in_order(appender: Appender, outbox: Outbox) -> None:
    outbox.held = asyncio.Event()
    first = asyncio.create_task(appender.append([(b"k", b"0")]))
    await until_called(outbox, 1)
    rest = asyncio.create_task(several(appender, [(b"k", b"%d" % n) for n in range(1, 50)]))
    await asyncio.sleep(0)
    outbox.held.set()
    assert [await first, *await rest] == [[appended(n)] for n in range(50)]
    assert outbox.calls == [1, 49]
    assert [value for _, value in outbox.sent["t"]] == [b"%d" % n for n in range(50)]


async def test_a_group_has_a_limit_and_no_caller_is_split(appender: Appender, outbox: Outbox) -> None:
    outbox.held = asyncio.Event()
    calls = [asyncio.create_task(appender.append([(b"k", b"x")] * 900)) for _ in range(4)]
    await until_called(outbox, 1)
    outbox.held.set()
    assert [len(places) for places in await asyncio.gather(*calls)] == [900] * 4
    assert outbox.calls == [2_700, 900]


async def test_headers_belong_to_their_own_messages(appender: Appender, outbox: Outbox) -> None:
    outbox.held = asyncio.Event()
    calls = [asyncio.create_task(appender.append([(b"%d" % n, None)], PURGE if n % 2 else ())) for n in range(4)]
    await until_called(outbox, 1)
    outbox.held.set()
    await asyncio.gather(*calls)
    assert outbox.headers["t"] == [(), PURGE, (), PURGE]


async def test_an_append_fails_when_kafka_does_not_acknowledge(appender: Appender, outbox: Outbox) -> None:
    outbox.down = True
    with pytest.raises(Unavailable, match="told to be down"):
        await appender.append([(b"k", b"1")])
    assert not appender.is_up


async def test_while_kafka_is_down_one_caller_probes_and_the_others_fail_at_once(
    appender: Appender, outbox: Outbox
) -> None:
    outbox.down = True
    with pytest.raises(Unavailable):
        await appender.append([(b"k", b"1")])
    outbox.held = asyncio.Event()
    trying = asyncio.create_task(appender.append([(b"k", b"2")]))
    await until_called(outbox, 2)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(appender.append([(b"k", b"3")]), 1)
    outbox.down = False
    outbox.held.set()
    assert await trying == [appended(0)]
    assert appender.is_up
    assert await appender.append([(b"k", b"4")]) == [appended(1)]


async def test_callers_queued_behind_a_failed_send_fail_with_it(appender: Appender, outbox: Outbox) -> None:
    outbox.down, outbox.held = True, asyncio.Event()
    calls = [asyncio.create_task(appender.append([(b"k", b"%d" % n)])) for n in range(3)]
    await until_called(outbox, 1)
    late = asyncio.create_task(appender.append([(b"k", b"late")]))
    await asyncio.sleep(0)
    outbox.held.set()
    results = await asyncio.gather(*calls, late, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 4
    assert outbox.calls == [3]


async def test_one_message_that_the_log_refuses_costs_its_neighbours_nothing(
    appender: Appender, outbox: Outbox
) -> None:
    outbox.held, outbox.most_bytes = asyncio.Event(), 10
    values = [b"small", b"x" * 11, b"small too"]
    calls = [asyncio.create_task(appender.append([(b"k", value)])) for value in values]
    await until_called(outbox, 1)
    outbox.held.set()
    first, refused, last = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, last) == ([appended(0)], [appended(1)])
    assert isinstance(refused, BadInput)
    assert appender.is_up


async def test_a_mistake_of_the_client_is_an_outage_and_not_a_silence(appender: Appender) -> None:
    async def broken(topic: str, messages: list[KeyedMessage], headers: object) -> list[Appended]:
        raise ZeroDivisionError

    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        await Appender("t", broken).append([(b"k", b"1")])


async def test_a_caller_that_goes_away_takes_nobody_along(appender: Appender, outbox: Outbox) -> None:
    outbox.held = asyncio.Event()
    gone, stays = (asyncio.create_task(appender.append([(b"k", b"%d" % n)])) for n in range(2))
    await until_called(outbox, 1)
    gone.cancel()
    await asyncio.wait([gone])
    outbox.held.set()
    assert await stays == [appended(1)]


async def test_draining_ends_when_nothing_waits(appender: Appender, outbox: Outbox) -> None:
    outbox.held = asyncio.Event()
    calls = [asyncio.create_task(appender.append([(b"k", b"1")])) for _ in range(3)]
    await until_called(outbox, 1)
    draining = asyncio.create_task(appender.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    outbox.held.set()
    await asyncio.wait_for(draining, 5)
    assert len(outbox.sent["t"]) == 3
    await asyncio.gather(*calls)
