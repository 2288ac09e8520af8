"""``nearline init``: the topics."""

from nearline.adapters.kafka.admin import Topics
from nearline.cli.console import console
from nearline.settings import load_settings
from nearline.topics import all_topics


def init() -> None:
    """Create every missing topic and correct settings that differ; safe to run again."""
    settings = load_settings()
    topics = Topics(settings.brokers)
    try:
        wanted = all_topics(settings.embedding_space, partitions=settings.partitions)
        for name, done in topics.ensure(wanted).items():
            console.print(f"{name:<24} {done}")
    finally:
        topics.close()
