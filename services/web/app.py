"""The page's service: builds its parts, serves until a signal stops it, and closes what it opened."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import uvicorn

from nearline.adapters.http import bind, run_service, serve_app, server_of, status_routes
from nearline.adapters.http_front import HttpFront
from nearline.adapters.kafka.admin import log_extent
from nearline.adapters.kafka.table_reader import TableReader, newest_of
from nearline.adapters.metrics_reader import MetricsReader
from nearline.adapters.services import ServiceName, Services
from nearline.errors import Unavailable
from nearline.followers import Follower
from nearline.guard import AsgiApp
from nearline.key_file import key_headers
from nearline.log import Record
from nearline.process import RETRY_S, open_within, until
from nearline.settings import Settings
from nearline.telemetry import get_logger
from nearline.topics import CLICKS_DLQ, ITEMS_DLQ, USER_SEQUENCES, USER_SEQUENCES_DLQ, user_updates_topic
from nearline.topics import RULES as RULES_TOPIC
from services.web.api import RULES, create_app
from services.web.assets import Assets
from services.web.clicks import Clicks
from services.web.histories import SequenceCache
from services.web.letters import NEWEST, RuleList
from services.web.live_metrics import LiveMetrics
from services.web.open_pages import CountedPages, OpenPages
from services.web.operator_routes import OperatorRoutes
from services.web.shop import Shop
from services.web.shop_routes import ShopRoutes
from services.web.templating import PageTemplates
from services.web.watching import MOST_RECENT, Watchers

_QUEUES = (CLICKS_DLQ, ITEMS_DLQ, USER_SEQUENCES_DLQ)
_PAUSE_S = 0.1  # updates are read in batches: one by one each would cost this process 2 ms
_BATCH_S = 0.01  # short, so that a sequence arrives before the answer that used its vector
_MOST_CORES = 0.1  # a page is an observer: under load its histories arrive later, and the clicks go first
_GRACE_S = 1  # event streams never end by themselves


class WebService:
    """The parts of one page process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        addresses: dict[ServiceName, str] = {"retrieval": settings.retrieval, "ingest": settings.ingest}
        self._services = Services(addresses, lambda: key_headers(settings))
        self._open_pages = OpenPages()
        self._histories = SequenceCache(self._find)
        watchers = Watchers()
        updates = user_updates_topic(settings.embedding_space)
        self._updates = self._follower(updates, watchers.hear, _PAUSE_S)
        self._sequences = self._follower(USER_SEQUENCES, self._histories.take_in, _BATCH_S, most_cores=_MOST_CORES)
        self._is_answered = False
        shop = Shop(self._services, self._histories)
        assets = Assets()
        pages = PageTemplates(assets, currency=settings.web_currency)
        rules = RuleList()
        self._rules = Follower(RULES_TOPIC, lambda: TableReader(settings.brokers, RULES_TOPIC), rules.take_in)
        self._metrics = MetricsReader.of(settings)
        self._live = LiveMetrics(self._metrics.read)
        clicks, users = Clicks(), _words(settings.web_users)
        shop_routes = ShopRoutes(shop, pages, watchers, clicks, self._live, users)
        operator_routes = OperatorRoutes(shop, pages, watchers, clicks, self._live, rules, self._letters, users)
        app = create_app(
            shop_routes,
            operator_routes,
            pages,
            assets,
            status_routes(self.readiness),
            names=(settings.host, *_words(settings.web_hosts)),
        )
        self._front = HttpFront(settings)
        self._app = self._front.before(CountedPages(app, self._open_pages), RULES)

    def _follower(
        self, topic: str, apply: Callable[[Record], None], pause_s: float, *, most_cores: float = 1.0
    ) -> Follower:
        """A follower that continues from its own positions when it connects again."""

        def connect() -> TableReader:
            return TableReader(self._settings.brokers, topic, start_at=follower.positions())

        follower = Follower(topic, connect, apply, pause_s=pause_s, most_cores=most_cores)
        return follower

    def readiness(self) -> Mapping[str, bool]:
        """The conditions of ``/readyz``: all must hold before this process gets requests."""
        followed = {"updates": self._updates.caught_up, "sequences": self._sequences.caught_up}
        return {"services": self._is_answered, **followed, **self._front.readiness()}

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; raise the error of a part that failed."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            listener = bind(settings.host, settings.web_port)
            stack.callback(listener.close)
            stack.push_async_callback(self._services.close)
            stack.push_async_callback(self._metrics.close)
            await open_within(settings.startup_deadline_s, f"topic {USER_SEQUENCES}", self._start_at_the_end)
            running = (each.run() for each in (self._rules, self._front, self._live))
            await serve_app(_server(self._app), listener, (*running, self._follow_while_open(), self._ask_once()))

    async def _start_at_the_end(self) -> None:
        """Set both topics' start to their current ends; older sequences are searched in the log when a page needs them.

        The newest updates are read again, for the list of the most recently active users.
        """
        extent = await log_extent(self._settings.brokers, [USER_SEQUENCES, self._updates.name])
        self._sequences.start_at(dict(extent.topics[USER_SEQUENCES].end))
        updates = extent.topics[self._updates.name]
        newest = {part: max(updates.first[part], end - MOST_RECENT) for part, end in updates.end.items()}
        self._updates.start_at(newest)

    async def _follow_while_open(self) -> None:
        """Follow both topics while a page is open: each click costs a poll of both."""
        while True:
            self._histories.resume()
            async with asyncio.TaskGroup() as following:
                follows = [following.create_task(each.run()) for each in (self._updates, self._sequences)]
                await until(lambda: self._updates.caught_up and self._sequences.caught_up)
                await self._open_pages.closed()
                for follow in follows:
                    follow.cancel()
                self._histories.rest()
            get_logger().info("no open page: users are not followed")
            await self._open_pages.opened()
            await self._start_again()

    async def _start_again(self) -> None:
        while True:
            try:
                await self._start_at_the_end()
                return
            except Unavailable as error:
                get_logger().warning("cannot follow users yet", reason=str(error))
            await asyncio.sleep(RETRY_S)

    async def _find(self, user_id: str) -> bytes | None:
        record = await newest_of(self._settings.brokers, USER_SEQUENCES, user_id.encode())
        return None if record is None else record.value

    async def _letters(self) -> list[Record]:
        """The newest dead letters of each queue."""
        extent = await log_extent(self._settings.brokers, _QUEUES)
        records: list[Record] = []
        for queue in _QUEUES:
            topic = extent.topics[queue]
            start = {part: max(topic.first[part], end - NEWEST) for part, end in topic.end.items()}
            async with TableReader(self._settings.brokers, queue, start_at=start) as reader:
                while not reader.caught_up:
                    records += await reader.poll()
        return records

    async def _ask_once(self) -> None:
        """Wait until retrieval has answered once, so that the page has items to show."""

        async def ask() -> None:
            await self._services.ask("retrieval", "GET", "/trending", params={"k": 1})

        await open_within(self._settings.startup_deadline_s, "retrieval", ask)
        self._is_answered = True


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _server(app: AsgiApp) -> uvicorn.Server:
    return server_of(
        app,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=75,
    )


def main() -> int:
    """Run the service; the exit status is 0 if a signal stopped it."""
    return run_service("web", lambda settings: WebService(settings).serve())
