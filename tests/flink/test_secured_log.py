"""The job against a broker that speaks TLS and asks for its certificate."""

import asyncio
import time
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.events import Event, encode_event
from nearline.sequences import decode_sequence
from nearline.space import Space
from nearline.tls import Brokers, Tls
from nearline.topics import CLICKS, USER_SEQUENCES, all_topics
from tests.support.secured import Authority, secured_broker

from .conftest import new_job

DEADLINE_S = 60.0


def test_clicks_become_sequences_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("client")
    with secured_broker(tmp_path / "kafka", authority) as (address, _):
        log = Brokers(address, Tls(authority.ca, certificate, key))
        topics = Topics(log)
        topics.ensure(all_topics(Space(1, 64)))
        topics.close()
        files = {"CA": authority.ca, "CERTIFICATE": certificate, "PRIVATE_KEY": key}
        secured = {f"NEARLINE_KAFKA_{name}": str(file) for name, file in files.items()}
        job = new_job(address, tmp_path / "data", **secured)
        try:
            job.start()
            assert asyncio.run(_sequence_of(log, Event("e-1", "anna", "teapot", "click", int(time.time() * 1000)))) == [
                "teapot"
            ]
        finally:
            job.kill_if_running()


async def _sequence_of(log: Brokers, click: Event) -> list[str]:
    """The items of the sequence that the job makes of *click*."""
    async with Producer(log) as producer, TableReader(log, USER_SEQUENCES) as reader:
        await producer.send_all(CLICKS, [(click.user_id.encode(), encode_event(click))])
        async with asyncio.timeout(DEADLINE_S):
            while not (records := await reader.poll()):
                pass
    return list(decode_sequence(records[0].value or b"").items)
