"""API keys over a real broker: every replica accepts a new key and refuses a revoked one within a second."""

import asyncio
import re
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from nearline.adapters.http_front import HttpFront, _behind_proxies
from nearline.adapters.kafka.admin import Topics
from nearline.adapters.kafka.table_reader import TableReader
from nearline.cli.app import app
from nearline.errors import BadInput, Misconfigured
from nearline.guard import AsgiReceive, AsgiScope, AsgiSend, RoutePermission, address_of
from nearline.key_file import own_key, write_key
from nearline.keys import PATTERN, Permission
from nearline.settings import Settings, load_settings
from nearline.space import Space
from nearline.topics import API_KEYS, all_topics

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0
NOBODYS = "nl_" + "0" * 12 + "_" + "0" * 64
RULES = (
    RoutePermission("GET", "/recommend/{user_id:path}", Permission.READ),
    RoutePermission("POST", "/events", Permission.EVENTS),
)


@pytest.fixture
def settings(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data folder of this test's own, and the topics."""
    monkeypatch.setenv("NEARLINE_KAFKA", broker)
    monkeypatch.setenv("NEARLINE_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    topics = Topics(broker)
    topics.ensure(all_topics(Space(1, 64)))
    topics.close()
    return load_settings()


def nearline(*words: str) -> str:
    """What a command prints; its error is raised."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


async def typed(*words: str) -> str:
    return await asyncio.to_thread(nearline, *words)


@asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A service behind its doors, which has read all keys."""

    async def say(_: Request) -> JSONResponse:
        return JSONResponse({})

    routes = [Route("/recommend/{user_id:path}", say), Route("/events", say, methods=["POST"])]
    doors = HttpFront(settings)
    following = asyncio.create_task(doors.run())
    transport = httpx.ASGITransport(doors.before(Starlette(routes=routes), RULES))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            assert doors.readiness() == {"keys": False}
            assert (await client.get("/recommend/u1", headers=bearer(NOBODYS))).status_code == 503
            await until(lambda: doors.readiness()["keys"])
            yield client
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def status(client: httpx.AsyncClient, key: str) -> int:
    return (await client.get("/recommend/u1", headers=bearer(key))).status_code


async def seconds_until(client: httpx.AsyncClient, key: str, wanted: int) -> float:
    started = time.monotonic()
    async with asyncio.timeout(DEADLINE_S):
        while await status(client, key) != wanted:
            await asyncio.sleep(0.005)
    return time.monotonic() - started


async def test_a_key_opens_every_replica_within_a_second_and_is_shut_out_within_one(settings: Settings) -> None:
    async with replica(settings) as one, replica(settings) as other:
        key = (await typed("keys", "create", "--name", "shop", "--scope", "read")).strip()
        assert PATTERN.fullmatch(key)
        for client in (one, other):
            assert await seconds_until(client, key, 200) < 1
        assert "revoked" in await typed("keys", "revoke", key[3:15])
        for client in (one, other):
            assert await seconds_until(client, key, 401) < 1


async def test_a_replica_that_starts_later_knows_what_was_revoked_before(settings: Settings) -> None:
    key = (await typed("keys", "create", "--name", "gone", "--scope", "read")).strip()
    good = (await typed("keys", "create", "--name", "good", "--scope", "read", "--scope", "items")).strip()
    await typed("keys", "revoke", key[3:15])
    async with replica(settings) as client:
        assert await status(client, key) == 401
        assert await status(client, good) == 200


def test_the_log_and_the_list_hold_no_secret(settings: Settings, tmp_path: Path) -> None:
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    page = nearline("keys", "create", "--name", "the page", "--scope", "events", "--origin", "https://shop.example")
    shop = nearline(
        "keys", "create", "--name", "backend", "--scope", "read", "--public-key", str(tmp_path / "public.pem")
    )
    listed = re.sub(r"\s+", " ", nearline("keys", "list"))
    for secret in (page.strip(), shop.strip()):
        assert secret[3:15] in listed
        assert secret[16:] not in listed
    assert "https://shop.example" in listed
    assert "signs tokens" in listed

    async def stored() -> bytes:
        async with TableReader(settings.brokers, API_KEYS) as reader:
            values = []
            while not reader.caught_up:
                values += [record.value or b"" for record in await reader.poll()]
            return b"".join(values)

    raw = asyncio.run(stored())
    assert page[3:15].encode() in raw
    assert page.strip()[16:].encode() not in raw


def test_mistakes_on_the_command_line_say_what_was_expected(settings: Settings, tmp_path: Path) -> None:
    for words, said in (
        (("create", "--name", "x", "--scope", "reed"), "unknown scope 'reed'"),
        (("create", "--name", "x", "--scope", "read", "--origin", "https://a.example"), "only a key for events"),
        (("revoke", "0" * 12), "no key with that id"),
        (("revoke", "nl_" + "0" * 12 + "_" + "ab" * 32), "came a key instead of its id"),
    ):
        with pytest.raises(BadInput, match=said) as refused:
            nearline("keys", *words)
        assert "ab" * 32 not in str(refused.value)
    with pytest.raises(Misconfigured, match="cannot read"):
        nearline("keys", "create", "--name", "x", "--scope", "read", "--public-key", str(tmp_path / "none.pem"))


def test_this_machine_gets_one_key_of_its_own_which_nobody_else_can_read(settings: Settings) -> None:
    file = settings.data / "key"
    assert str(file) in nearline("keys", "ensure").replace("\n", "")
    key = own_key(settings)
    assert PATTERN.fullmatch(key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    nearline("keys", "ensure")
    assert own_key(settings) == key, "it is made once"
    nearline("keys", "revoke", key[3:15])
    nearline("keys", "ensure")
    assert own_key(settings) != key, "a revoked one is replaced"
    write_key(file, "nl_" + "0" * 12 + "_" + "0" * 64)
    nearline("keys", "ensure")
    assert "0" * 64 not in own_key(settings), "one that this log does not know is replaced"


async def test_doors_that_are_off_let_everybody_in_and_say_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARLINE_AUTH", "off")
    structlog.reset_defaults()
    doors = HttpFront(load_settings())
    inner = Starlette()
    assert doors.before(inner, RULES) is inner
    assert doors.readiness() == {}
    await doors.run()
    assert "NEARLINE_AUTH=off: anyone who reaches this port may do anything" in capfd.readouterr().out


async def test_pages_of_the_origins_set_may_ask_first_and_read_a_refusal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARLINE_CORS_ORIGINS", "https://shop.example, https://other.example")
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    async with replica(load_settings()) as client:
        before = await client.options("/events", headers=asked | {"Access-Control-Request-Headers": "authorization"})
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://shop.example"
        refusal = await client.post("/events", headers={"Origin": "https://shop.example"})
        assert refusal.status_code == 401
        assert refusal.headers["access-control-allow-origin"] == "https://shop.example"
        foreign = await client.post("/events", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(("trusted", "limited"), [("127.0.0.1", False), ("", True), ("10.0.0.0/8", True)])
async def test_a_limit_counts_for_whom_a_proxy_names_if_the_proxy_is_trusted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, trusted: str, limited: bool
) -> None:
    """The callers come through a proxy at 127.0.0.1, each with an address of its own."""
    monkeypatch.setenv("NEARLINE_TRUSTED_PROXIES", trusted)
    key = (await typed("keys", "create", "--name", "page", "--scope", "events", "--limit", "60")).strip()
    async with replica(load_settings()) as client:
        statuses = set()
        for n in range(60):  # more than may come at once
            headers = bearer(key) | {"X-Forwarded-For": f"6.6.6.6, 198.51.100.{n}"}
            statuses.add((await client.post("/events", headers=headers)).status_code)
    assert (429 in statuses) == limited


@pytest.mark.parametrize(
    ("said", "address"),
    [
        (["6.6.6.6", "198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7", "127.0.0.1"], "198.51.100.7"),
        (["unknown"], "127.0.0.1"),
        (["198.51.100.7, _hidden"], "127.0.0.1"),
        ([""], "127.0.0.1"),
    ],
)
async def test_lines_of_x_forwarded_for_are_one_list_and_without_an_address_the_peer_counts(
    said: list[str], address: str
) -> None:
    async def tell(scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        await JSONResponse(address_of(scope))(scope, receive, send)

    transport = httpx.ASGITransport(_behind_proxies(tell, "127.0.0.1"), client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.get("/", headers=[("X-Forwarded-For", one) for one in said])
    assert answer.json() == address


@pytest.mark.parametrize("wrong", ["proxy", "10.0.0.1/8"])
def test_a_proxy_that_is_no_address_is_refused_at_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("NEARLINE_TRUSTED_PROXIES", wrong)
    with pytest.raises(Misconfigured, match="NEARLINE_TRUSTED_PROXIES"):
        HttpFront(load_settings()).before(Starlette(), RULES)
