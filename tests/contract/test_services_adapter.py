"""The client of our own services, over real sockets and the guard; it rereads a key that was renewed."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from local.ports import HOST, free_ports
from nearline.adapters.services import Services
from nearline.errors import BadInput, Unavailable
from tests.support.shop import MUG, USER, Shop, shop


@pytest.fixture(scope="module")
def met() -> Iterator[Shop]:
    with shop() as opened:
        yield opened


def bearer(key: str) -> Callable[[], Mapping[str, str]]:
    return lambda: {"Authorization": f"Bearer {key}"}


def ask(met: Shop, *asked: Any, key: Callable[[], Mapping[str, str]] | None = None, **more: Any) -> Any:
    async def asking() -> Any:
        services = Services({"retrieval": met.retrieval, "ingest": met.ingest}, key or bearer(met.key))
        try:
            return await services.ask(*asked, **more)
        finally:
            await services.close()

    return asyncio.run(asking())


def test_both_services_answer_with_what_they_know(met: Shop) -> None:
    assert len(ask(met, "retrieval", "GET", f"/recommend/{USER}", params={"k": 3})["items"]) == 3
    made = {"event_id": "s-1", "user_id": USER, "item_id": MUG, "type": "click"}
    assert ask(met, "ingest", "POST", "/events", body=made)["accepted"] == 1


def test_a_key_that_was_made_anew_is_read_anew(met: Shop) -> None:
    keys = iter(["nl_000000000000_" + "0" * 64, met.key])
    found = ask(met, "retrieval", "GET", "/trending", key=lambda: bearer(next(keys))())
    assert "items" in found


def test_a_key_that_stays_wrong_is_reported(met: Shop) -> None:
    with pytest.raises(BadInput, match="no such key") as refused:
        ask(met, "retrieval", "GET", "/trending", key=bearer("nl_000000000000_" + "0" * 64))
    assert refused.value.reason == "status_401"


def test_missing_items_and_invalid_parameters_raise_bad_input_with_the_field(met: Shop) -> None:
    with pytest.raises(BadInput) as missing:
        ask(met, "ingest", "GET", "/items/never")
    assert missing.value.reason == "not_found"
    with pytest.raises(BadInput) as wrong:
        ask(met, "retrieval", "GET", f"/recommend/{USER}", params={"k": 0})
    assert (wrong.value.reason, wrong.value.field) == ("status_422", "k")


def test_a_closed_port_is_raised_as_unavailable(met: Shop) -> None:
    nobody = Shop(f"http://{HOST}:{free_ports(1)[0]}", met.ingest, met.key, {})
    with pytest.raises(Unavailable, match=r"retrieval at .* does not answer"):
        ask(nobody, "retrieval", "GET", "/trending")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_503_is_raised_as_unavailable(met: Shop, status: int) -> None:
    met.asked["retrieval"].script.append((status, {}))
    with pytest.raises(Unavailable, match=f"retrieval answered {status}"):
        ask(met, "retrieval", "GET", "/trending")
