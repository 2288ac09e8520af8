"""Builds and runs the parts of rules and exposures that read or write Kafka."""

import asyncio
from collections.abc import Mapping

from nearline.adapters.kafka.producer import Producer
from nearline.adapters.kafka.table_reader import TableReader
from nearline.followers import Follower
from nearline.reasons import reasons_of
from nearline.settings import Settings
from nearline.topics import RULES
from services.retrieval.exposure_log import ExposureLog
from services.retrieval.merchandising.active_rules import RuleResolver
from services.retrieval.merchandising.rule_table import RuleTable


class Merchandising:
    """The follower of the topic ``rules``, and the writer of exposures."""

    def __init__(self, settings: Settings) -> None:
        table = RuleTable()
        self.resolver = RuleResolver(table, share=settings.explore, new_days=settings.explore_days)
        self._follower = Follower(
            RULES,
            lambda: TableReader(settings.brokers, RULES),
            table.apply,
            reasons=reasons_of("rules", "events", "ids"),
        )
        self._producer = Producer(settings.brokers)
        share = settings.exposures
        self.exposures = ExposureLog(share, self._producer.send_all) if share else None

    def readiness(self) -> Mapping[str, bool]:
        """Ready once the rules are read: before that an answer might contain blocked items."""
        return {"rules": self._follower.caught_up}

    async def run(self) -> None:
        """Follow the rules and send exposures until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._follower.run())
            if self.exposures is not None:
                parts.create_task(self.exposures.run())

    async def close(self) -> None:
        """Send the queued exposures, if the log accepts them, and disconnect."""
        if self.exposures is not None:
            await self.exposures.drain()
        await self._producer.close()
